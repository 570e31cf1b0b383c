"""One pair, a line each, no config: for notebooks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from sfam_bench.core.errors import UserError, check_object
from sfam_bench.core.maps import normalise, upsample
from sfam_bench.core.metric_card import metric_facts
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import Similarity, swap_sides
from sfam_bench.core.targets import score as target_score
from sfam_bench.core.types import Image
from sfam_bench.datasets.pictures import Corners, Picture, Region, pair
from sfam_bench.evaluation.evaluate import PAIR, evaluate, find_flags, raw_maps, self_pairs
from sfam_bench.evaluation.named import Explainers, check_method, explainers_of, find_object
from sfam_bench.metrics.shared.base import NOT_DRAWN, Metric
from sfam_bench.models.build import build
from sfam_bench.models.lite0 import lite0
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import SimilarityModel, encode_pairs
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.figures.pair import MapPanel, check_suffix, pair_figure, panel_lines, save_figure
from sfam_bench.report.names import words

METRICS = (  # of conf/metric, by default
    "insertion_minus_deletion_mean_colour",
    "deletion_mean_colour",
    "insertion_mean_colour",
    "average_drop",
    "energy_pointing_game",
    "energy_pointing_game_ratio",
    "pointing_game",
    "iou_50",
    "gini",
    "completeness",
)
GIVE = {"foreground": "give foreground= or box=", "box": "give box="}


@dataclass(frozen=True)
class Explanation:
    """Maps by name, (rows, cols), signed, at most one in magnitude; a map of zeros has its reason in `flags`."""

    score: float
    query: Image
    reference: Image
    query_maps: dict[str, Tensor]
    reference_maps: dict[str, Tensor]
    flags: dict[str, str]


def default_model() -> SimilarityModel:
    """EfficientNet-Lite0 with ImageNet weights, mean-pooled, compared by cosine."""
    return build("lite0", lite0(), GAP(), Cosine())


def explain(
    model: SimilarityModel | None,
    query: Picture,
    reference: Picture,
    explainers: Explainers = None,
    background: str = "white",
) -> Explanation:
    """Say why `model` finds two images alike.

    Images are paths, PIL images, arrays (rows, cols, 3) or tensors (3, rows, cols), of which only tensors are not
    resized and cropped. Photos are turned as their EXIF tag says.

    model: None is `default_model()`.
    explainers: names of conf/explainer, or objects by name; by default SFAM and the exact decomposition.
    background: the colour behind transparent pixels.

    An image with itself gives flagged maps of zeros.
    """
    chosen, model = explainers_of(explainers), _model(model)
    pairs = pair(query, reference, model.image_size, background=background)
    encoded = encode_pairs(model, Similarity(), pairs.query, pairs.reference)
    size = (pairs.query.shape[-2], pairs.query.shape[-1])
    sides: dict[str, dict[str, Tensor]] = {"query": {}, "reference": {}}
    flags: dict[str, str] = {}
    for name, explainer in chosen.items():
        for side, seen in (("query", encoded), ("reference", swap_sides(encoded))):
            raw = raw_maps(explainer, model, seen, pairs)
            (reason,) = find_flags(raw, self_pairs(pairs))
            sides[side][name] = upsample(normalise(torch.zeros_like(raw) if reason else raw), size)[0].cpu()
            if reason:
                flags[name] = reason
    value = target_score(model.similarity, encoded.query.embeddings, encoded.terms)
    return Explanation(float(value), pairs.query[0], pairs.reference[0], sides["query"], sides["reference"], flags)


def score(
    model: SimilarityModel | None,
    query: Picture,
    reference: Picture,
    explainers: Explainers = None,
    metrics: Mapping[str, Metric] | Sequence[str] | str | None = None,
    foreground: Region | None = None,
    box: Corners | None = None,
    background: str = "white",
) -> pd.DataFrame:
    """Measure explanations of one pair: explainers down, metrics across, NaN where there is nothing to measure.

    metrics: names of conf/metric, or objects by name; by default deletion, insertion, their difference, average drop,
        concentration and completeness, and where the object is known, localisation.
    foreground: the query's object, a mask as large as the query: of bools, of 0 and 1, or one whose light pixels are
        inside; one whose levels may be labels is refused.
    box: the query's object as x1, y1, x2, y2 in pixels of the query.
    background: the colour behind transparent pixels.

    A photo that its EXIF tag turns is refused with a mask or a box, which may be meant before or after it is turned.

    attrs: "score" of the pair, "flags" with the reason for each NaN by explainer and metric, "metrics" with what each
    says of itself (higher_is_better, label, meaning).
    """
    chosen, model = explainers_of(explainers), _model(model)
    asked = None if metrics is None else _metrics(metrics)
    pairs = pair(query, reference, model.image_size, foreground, box, background)
    if (wanted := asked) is None:
        wanted = {name: metric for name, metric in _metrics(METRICS).items() if all(map(pairs.has, metric.needs))}
    for name, metric in wanted.items():
        for need in metric.needs:
            if not pairs.has(need):
                how = GIVE.get(need, "leave it out, or use sfam-bench evaluate")
                raise UserError(f"{name} needs {need}, which is not known of this pair: {how}")
    (shard,) = evaluate(model, Similarity(), [pairs], chosen, wanted, "pair", keep_curves=False)
    cells = {(record.explainer, record.metric): record for record in shard.records}
    known = {key: record.value for key, record in cells.items()}
    flags = {name: {m: cells[name, m].flag if (name, m) in cells else NOT_DRAWN for m in wanted} for name in chosen}
    table = pd.DataFrame(
        [[known.get((name, metric), float("nan")) for metric in wanted] for name in chosen],
        index=pd.Index([*chosen], name="explainer"),
        columns=pd.Index([*wanted], name="metric"),
    )
    table.attrs["score"] = known[PAIR, "s_full"]
    table.attrs["flags"] = {name: {m: why for m, why in row.items() if why} for name, row in flags.items()}
    table.attrs["metrics"] = metric_facts(wanted)
    return table


def _model(model: SimilarityModel | None) -> SimilarityModel:
    if model is None:
        return default_model()
    check_object(model, "model", SimilarityModel)
    return model


def _metrics(chosen: Mapping[str, Metric] | Sequence[str] | str) -> dict[str, Metric]:
    """Objects as they are, names looked up in conf/metric."""
    check_object(chosen, "metrics", Mapping, Sequence)
    if not isinstance(chosen, Mapping):
        chosen = {name: find_object("metric", name) for name in ([chosen] if isinstance(chosen, str) else chosen)}
    for name, metric in chosen.items():
        check_method(metric, f"metric {name!r}", Metric)
    if not chosen:
        raise UserError("no metric is chosen: name one, as metrics=['deletion_mean_colour'], or leave them out")
    return dict(chosen)


def show(explanation: Explanation, path: str | Path | None = None, scores: pd.DataFrame | None = None) -> Figure:
    """Draw both images and both maps of each method; a notebook shows what is returned.

    path: where to save it too, as PNG or SVG by its suffix.
    scores: what `score` measured, to be written beside the maps.
    """
    if path is not None:
        check_suffix(Path(path))
    panels = [
        MapPanel(name, (maps.numpy(), explanation.reference_maps[name].numpy()), _beside(name, explanation, scores))
        for name, maps in explanation.query_maps.items()
    ]
    images = (pixels(explanation.query), pixels(explanation.reference))
    figure = pair_figure(*images, [f"similarity {explanation.score:.3f}"], panels)
    if path is not None:
        save_figure(figure, Path(path).expanduser())
    return figure


def _beside(name: str, explanation: Explanation, scores: pd.DataFrame | None) -> list[str]:
    """Why a map is flagged, or what was measured of it."""
    if flag := explanation.flags.get(name):
        return [words(flag)]
    if scores is None or name not in scores.index:
        return []
    (row,) = scores.loc[[name]].to_dict("records")
    values = {str(metric): float(value) for metric, value in row.items()}
    return panel_lines(values, Catalogue(scores.attrs.get("metrics", {})))


def pixels(image: Image) -> np.ndarray:
    """An image in [0, 1] as bytes, (rows, cols, 3)."""
    found: np.ndarray = (image * 255).round().byte().permute(1, 2, 0).numpy()
    return found
