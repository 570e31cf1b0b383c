"""The cost of an explainer and its residual, measured on pairs."""

from dataclasses import dataclass

import torch

from sfam_bench.core.baselines import BASELINES
from sfam_bench.core.hooks import count_rows
from sfam_bench.core.method_card import card_of
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.targets import Similarity, Target, linear_part, score
from sfam_bench.core.types import RawMaps, Scores
from sfam_bench.engine.clock import choose_clock
from sfam_bench.engine.modes import evaluating
from sfam_bench.evaluation.evaluate import raw_maps
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.models.similarity_model import SimilarityModel, encode_batch


@dataclass(frozen=True)
class Properties:
    """Of one map, without encoding its pair.

    forwards, backwards: images through the trunk, and gradients back to it.
    milliseconds: for each map, in a batch of all pairs: of all processor cores together, on a GPU of the clock.
    residual: |sum of the map - the total that its card names| / |score|, median over pairs; None without a total.
    """

    forwards: float
    backwards: float
    milliseconds: float
    residual: float | None


def properties(explainer: Explainer, model: SimilarityModel, target: Target, pairs: PairBatch) -> Properties:
    """Measure one explainer on pairs, after a warm-up call on one image and its mirror image."""
    image = pairs.query[:1]
    first = PairBatch(pairs.query_ids[:1], pairs.reference_ids[:1], image, image.flip(-1))
    raw_maps(explainer, model, encode_batch(model, Similarity(), first), first)
    encoded = encode_batch(model, target, pairs)
    with count_rows(model.trunk) as counts:
        clock = choose_clock(model.device)
        start = clock()
        maps = raw_maps(explainer, model, encoded, pairs)
        seconds = clock() - start
    residual = residuals(explainer, model, encoded, maps)
    return Properties(
        counts.forwards / len(pairs),
        counts.backwards / len(pairs),
        1000 * seconds / len(pairs),
        None if residual is None else float(residual.median()),
    )


def residuals(explainer: Explainer, model: SimilarityModel, encoded: Encoded, maps: RawMaps) -> Scores | None:
    """|sum of the map - total| / |score| of each pair, for the total that the explainer's card names."""
    card = card_of(explainer)
    if card.total == "none":
        return None
    whole = score(model.similarity, encoded.query.embeddings, encoded.terms)
    total = linear_part(model.similarity, encoded.query.embeddings, encoded.terms)
    if card.total == "change":
        empty = BASELINES[getattr(explainer, "baseline")](encoded.query.images)  # noqa: B009 (not all have one)
        with torch.no_grad(), evaluating(model):
            total = whole - score(model.similarity, model(empty), encoded.terms)
    return (maps.sum(dim=(1, 2)) - total).abs() / whole.abs()
