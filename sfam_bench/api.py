"""Explain, score and show one pair of images without a config, for notebooks."""

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
from sfam_bench.evaluation.evaluate import PAIR, evaluate, raw_maps, reasons, self_pairs
from sfam_bench.evaluation.named import Explainers, check_method, explainers_of, find_object
from sfam_bench.metrics.shared.base import NOT_DRAWN, Metric
from sfam_bench.models.build import build
from sfam_bench.models.lite0 import lite0
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import SimilarityModel, encode_pairs
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.figures.pair import MapPanel, check_suffix, pair_figure, panel_lines, save_figure
from sfam_bench.report.names import to_prose

METRICS = (  # default metrics, names of conf/metric
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
    """Maps of both images by method, (rows, cols), in [-1, 1]; `flags` holds the reasons for maps of zeros."""

    score: float
    query: Image
    reference: Image
    query_maps: dict[str, Tensor]
    reference_maps: dict[str, Tensor]
    flags: dict[str, str]


def default_model() -> SimilarityModel:
    """EfficientNet-Lite0 with ImageNet weights, average pooling and cosine similarity."""
    return build("lite0", lite0(), GAP(), Cosine())


def explain(
    model: SimilarityModel | None,
    query: Picture,
    reference: Picture,
    explainers: Explainers = None,
    background: str = "white",
) -> Explanation:
    """Explain why `model` finds two images similar.

    Images are paths, PIL images, arrays (rows, cols, 3) or tensors (3, rows, cols); all except tensors are resized and
    cropped. Photos are rotated by their EXIF tag.

    model: None is `default_model()`.
    explainers: names of conf/explainer, or objects by name; by default SFAM and the exact decomposition.
    background: the colour behind transparent pixels.

    Two identical images give maps of zeros, with a flag.
    """
    chosen, model = explainers_of(explainers), _model(model)
    pairs = pair(query, reference, model.image_size, background=background)
    encoded = encode_pairs(model, Similarity(), pairs.query, pairs.reference)
    size = (pairs.query.shape[-2], pairs.query.shape[-1])
    sides: dict[str, dict[str, Tensor]] = {"query": {}, "reference": {}}
    flags: dict[str, str] = {}
    for name, explainer in chosen.items():
        for side, encoding in (("query", encoded), ("reference", swap_sides(encoded))):
            raw = raw_maps(explainer, model, encoding, pairs)
            (reason,) = reasons(raw, self_pairs(pairs))
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
    """Score explanations of one pair: a table of explainers (rows) by metrics (columns), NaN where undefined.

    metrics: names of conf/metric, or objects by name; by default deletion, insertion, their difference, average drop,
        concentration and completeness, and localisation if the object is given.
    foreground: the query's object, a mask with the size of the query: booleans, 0 and 1, or grey levels whose light
        pixels are inside; masks whose levels may be labels are refused.
    box: the query's object as x1, y1, x2, y2 in pixels of the query.
    background: the colour behind transparent pixels.

    Photos rotated by an EXIF tag are refused with a mask or a box, which may refer to either orientation.

    The table's attrs: "score" of the pair, "flags" with the reason for each NaN by explainer and metric, "metrics" with
    the card of each metric (higher_is_better, label, meaning).
    """
    chosen, model = explainers_of(explainers), _model(model)
    measured = _metrics(METRICS if metrics is None else metrics)
    pairs = pair(query, reference, model.image_size, foreground, box, background)
    if metrics is None:
        measured = {name: metric for name, metric in measured.items() if all(map(pairs.has, metric.needs))}
    for name, metric in measured.items():
        for need in metric.needs:
            if not pairs.has(need):
                how = GIVE.get(need, "leave it out, or use sfam-bench evaluate")
                raise UserError(f"{name} needs {need}, which is not known of this pair: {how}")
    (shard,) = evaluate(model, Similarity(), [pairs], chosen, measured, "pair", keep_curves=False)
    cells = {(record.explainer, record.metric): (record.value, record.flag) for record in shard.records}
    rows = {name: [cells.get((name, metric), (float("nan"), NOT_DRAWN)) for metric in measured] for name in chosen}
    table = pd.DataFrame(
        [[value for value, _ in row] for row in rows.values()],
        index=pd.Index([*chosen], name="explainer"),
        columns=pd.Index([*measured], name="metric"),
    )
    table.attrs["score"] = cells[PAIR, "s_full"][0]
    table.attrs["flags"] = {
        name: {metric: flag for metric, (_, flag) in zip(measured, row, strict=True) if flag}
        for name, row in rows.items()
    }
    table.attrs["metrics"] = metric_facts(measured)
    return table


def _model(model: SimilarityModel | None) -> SimilarityModel:
    if model is None:
        return default_model()
    check_object(model, "model", SimilarityModel)
    return model


def _metrics(chosen: Mapping[str, Metric] | Sequence[str] | str) -> dict[str, Metric]:
    """Metrics by name; names are looked up in conf/metric."""
    check_object(chosen, "metrics", Mapping, Sequence)
    if not isinstance(chosen, Mapping):
        chosen = {name: find_object("metric", name) for name in ([chosen] if isinstance(chosen, str) else chosen)}
    for name, metric in chosen.items():
        check_method(metric, f"metric {name!r}", Metric)
    if not chosen:
        raise UserError("no metric is chosen: give one, such as metrics=['deletion_mean_colour'], or leave them out")
    return dict(chosen)


def show(explanation: Explanation, path: str | Path | None = None, scores: pd.DataFrame | None = None) -> Figure:
    """Draw both images and both maps of each method; a notebook displays the returned figure.

    path: where to save the figure, as PNG or SVG by its suffix.
    scores: the table of `score`, to be printed beside the maps.
    """
    if path is not None:
        check_suffix(Path(path))
    panels = [
        MapPanel(name, (maps.numpy(), explanation.reference_maps[name].numpy()), _caption(name, explanation, scores))
        for name, maps in explanation.query_maps.items()
    ]
    images = (pixels(explanation.query), pixels(explanation.reference))
    figure = pair_figure(*images, [f"similarity {explanation.score:.3f}"], panels)
    if path is not None:
        save_figure(figure, Path(path).expanduser())
    return figure


def _caption(name: str, explanation: Explanation, scores: pd.DataFrame | None) -> list[str]:
    """The reason why a map is flagged, or its scores."""
    if flag := explanation.flags.get(name):
        return [to_prose(flag)]
    if scores is None or name not in scores.index:
        return []
    (row,) = scores.loc[[name]].to_dict("records")
    values = {str(metric): float(value) for metric, value in row.items()}
    return panel_lines(values, Catalogue(scores.attrs.get("metrics", {})))


def pixels(image: Image) -> np.ndarray:
    """Convert an image in [0, 1] to bytes, (rows, cols, 3)."""
    found: np.ndarray = (image * 255).round().byte().permute(1, 2, 0).numpy()
    return found
