"""Checks of an evaluation's settings before any image is embedded."""

from dataclasses import replace

import pandas as pd
import torch

from sfam_bench.app.evaluation import Evaluation
from sfam_bench.app.parts import NOT_ONE
from sfam_bench.core.errors import UserError
from sfam_bench.core.method_card import card_of
from sfam_bench.core.metric_card import NEEDS
from sfam_bench.core.records import check_names
from sfam_bench.datasets.base import roles
from sfam_bench.datasets.batches import load_batch
from sfam_bench.datasets.episodes import Episodes
from sfam_bench.datasets.vector_pairs import VectorPairs
from sfam_bench.evaluation.cost import try_explainers
from sfam_bench.explainers.shared.forms import Sampling
from sfam_bench.explainers.shared.prepare import Preparable


def check_inputs(evaluation: Evaluation) -> None:
    """Raise UserError if pair kinds, target, metrics or explainers do not fit the data set and the model.

    Explainers that take passes of their own, need training images or read files are left to the first pair.
    """
    inputs = evaluation.inputs
    check_names(inputs.explainers, evaluation.metrics)
    choice = evaluation.choice
    choice.check(inputs.dataset, inputs.explained)
    inputs.target.check(has_negatives=not evaluation.compares_images or {*choice.kinds} == {"triplet"})
    for name, metric in evaluation.metrics.items():
        if unknown := sorted({*metric.needs} - {*NEEDS, "gallery"}):
            raise UserError(
                f"metric {name} needs '{unknown[0]}', which no data set has: it may need {', '.join(NEEDS)}"
            )
    light = {
        name: made
        for name, made in inputs.explainers.items()
        if not isinstance(made, Sampling | Preparable) and card_of(made).remakes
    }
    pair = load_batch(inputs.dataset, _any_pair(evaluation))
    _, why = try_explainers(light, inputs.model, inputs.target, pair)
    for name, reason in why.items():
        if evaluation.cfg.unsupported == "refuse":
            raise UserError(f"{name}: {reason} (unsupported=skip continues with the others)")
    if len(why) == len(inputs.explainers):
        raise UserError(NOT_ONE)


def _any_pair(evaluation: Evaluation) -> pd.DataFrame:
    """A query, a reference, and a negative where the target needs one, chosen without embeddings."""
    inputs, choice = evaluation.inputs, evaluation.choice
    if isinstance(choice, VectorPairs):
        return choice.example(inputs.dataset, inputs.explained)
    if isinstance(choice, Episodes):
        one = replace(choice, explained=1, kinds=("own_class",))
        image = inputs.dataset.sample(inputs.explained[0]).image
        equal = torch.ones_like(inputs.model.encode(image[None]).embeddings).expand(len(inputs.explained), -1)
        return one(inputs.dataset, inputs.model.similarity, equal, inputs.explained)
    index = inputs.dataset.index.loc[inputs.explained]
    of_query, searched = roles(index)
    query = index.index[of_query][0]
    others = [image_id for image_id in index.index[searched] if image_id != query]
    alike = index.loc[others, "label"] == index.loc[query, "label"]
    negatives = [image_id for image_id, same in zip(others, alike, strict=True) if not same]
    references = [image_id for image_id, same in zip(others, alike, strict=True) if same] or others
    negative = negatives[0] if inputs.target.name in ("margin", "best_rival") and negatives else ""
    return pd.DataFrame({"query_id": [query], "reference_id": [references[0]], "negative_id": [negative]})
