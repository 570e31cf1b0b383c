"""Explain, score and draw one pair, without a config: for notebooks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

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
    """What `explain` returns: the score of a pair and its maps.

    Attributes:
        score: similarity of the two images, in the unit of the model's similarity (cosine: -1 to 1).
        query: the query as the model reads it, (3, rows, cols), RGB in [0, 1].
        reference: the reference as the model reads it, (3, rows, cols), RGB in [0, 1].
        query_maps: a map of the query for each method, (rows, cols), signed, largest magnitude 1: positive values
            raise the similarity, negative values lower it.
        reference_maps: the same of the reference.
        flags: for each method whose map is all zeros the reason: "self_pair", "constant_map" or "nonfinite_map".
    """

    score: float
    query: Image
    reference: Image
    query_maps: dict[str, Tensor]
    reference_maps: dict[str, Tensor]
    flags: dict[str, str]


def default_model() -> SimilarityModel:
    """Build EfficientNet-Lite0 with ImageNet weights, mean pooling and cosine similarity, for images of 224 px.

    Returns:
        A model that turns images (batch, 3, 224, 224) into embeddings (batch, 1280).

    Raises:
        UserError: if the pip package of the weights is not installed; the message names it.
    """
    return build("lite0", lite0(), GAP(), Cosine())


def explain(
    model: nn.Module | None,
    query: Picture,
    reference: Picture,
    explainers: Explainers = None,
    background: str = "white",
) -> Explanation:
    """Compute the maps of one pair: which regions of each image make `model` find the two alike.

    Args:
        model: the model to explain, or any module from images to embeddings (`SimilarityModel.wrap`); None for
            `default_model()`.
        query: a path, a PIL image, an array (rows, cols, 3) or a tensor (3, rows, cols) in [0, 1]. All but tensors are
            resized and cropped by `model.geometry`; photos are rotated as their EXIF tag says.
        reference: the image that the query is compared with, given in the same way.
        explainers: names of methods, or objects by name; None for SFAM and the exact decomposition.
        background: colour behind transparent pixels.

    Returns:
        The score, both images and the maps of both. The map of an image compared with itself, a constant map and a map
        with NaN or infinity are zeros, with the reason in `flags`.

    Raises:
        UserError: if an image cannot be read, the two differ in size, or a method is unknown or does not support the
            model.
    """
    chosen, used = explainers_of(explainers), _model(model)
    pairs = pair(query, reference, used.geometry, background=background)
    encoded = encode_pairs(used, Similarity(), pairs.query, pairs.reference)
    size = (pairs.query.shape[-2], pairs.query.shape[-1])
    sides: dict[str, dict[str, Tensor]] = {"query": {}, "reference": {}}
    flags: dict[str, str] = {}
    for name, explainer in chosen.items():
        for side, seen in (("query", encoded), ("reference", swap_sides(encoded))):
            raw = raw_maps(explainer, used, seen, pairs)
            (reason,) = find_flags(raw, self_pairs(pairs))
            sides[side][name] = upsample(normalise(torch.zeros_like(raw) if reason else raw), size)[0].cpu()
            if reason:
                flags[name] = reason
    value = target_score(used.similarity, encoded.query.embeddings, encoded.terms)
    return Explanation(float(value), pairs.query[0], pairs.reference[0], sides["query"], sides["reference"], flags)


def score(
    model: nn.Module | None,
    query: Picture,
    reference: Picture,
    explainers: Explainers = None,
    metrics: Mapping[str, Metric] | Sequence[str] | str | None = None,
    foreground: Region | None = None,
    box: Corners | None = None,
    background: str = "white",
) -> pd.DataFrame:
    """Measure the maps of one pair.

    Args:
        model: the model to explain, or any module from images to embeddings (`SimilarityModel.wrap`); None for
            `default_model()`.
        query: as in `explain`.
        reference: as in `explain`.
        explainers: names of methods, or objects by name; None for SFAM and the exact decomposition.
        metrics: names of metrics, or objects by name; None for deletion, insertion, their difference, average drop,
            Gini index and completeness, and with `foreground` or `box` the localisation metrics that apply.
        foreground: mask of the query's object, as large as the query's file: booleans, 0 and 1, or grey levels of which
            those above half of white are inside.
        box: box of the query's object, x1, y1, x2, y2 in pixels of the query's file.
        background: colour behind transparent pixels.

    Returns:
        A row for each method and a column for each metric, NaN where a metric is undefined. `attrs["score"]` is the
        similarity of the pair, `attrs["flags"]` the reason for each NaN by method and metric, `attrs["metrics"]` the
        direction, label and meaning of each metric.

    Raises:
        UserError: if an image or mask cannot be read, a name is unknown, a metric needs a region or a negative that was
            not given, the mask's levels may be class labels, or a photo with an EXIF rotation comes with a mask or box
            (which may refer to it before or after the rotation).
    """
    chosen, used = explainers_of(explainers), _model(model)
    measured = _metrics(METRICS if metrics is None else metrics)
    pairs = pair(query, reference, used.geometry, foreground, box, background)
    if metrics is None:
        measured = {name: metric for name, metric in measured.items() if all(map(pairs.has, metric.needs))}
    for name, metric in measured.items():
        for need in metric.needs:
            if not pairs.has(need):
                how = GIVE.get(need, "leave it out, or use sfam-bench evaluate")
                raise UserError(f"{name} needs {need}, which is not known of this pair: {how}")
    (shard,) = evaluate(used, Similarity(), [pairs], chosen, measured, "pair", keep_curves=False)
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


def _model(model: nn.Module | None) -> SimilarityModel:
    if model is None:
        return default_model()
    check_object(model, "model", nn.Module)
    return model if isinstance(model, SimilarityModel) else SimilarityModel.wrap(model)


def _metrics(chosen: Mapping[str, Metric] | Sequence[str] | str) -> dict[str, Metric]:
    """Return objects as they are, and build those given by name from conf/metric."""
    check_object(chosen, "metrics", Mapping, Sequence)
    if not isinstance(chosen, Mapping):
        chosen = {name: find_object("metric", name) for name in ([chosen] if isinstance(chosen, str) else chosen)}
    for name, metric in chosen.items():
        check_method(metric, f"metric {name!r}", Metric)
    if not chosen:
        raise UserError("no metric is chosen: give one, such as metrics=['deletion_mean_colour'], or leave them out")
    return dict(chosen)


def show(explanation: Explanation, path: str | Path | None = None, scores: pd.DataFrame | None = None) -> Figure:
    """Draw both images and both maps of each method.

    Args:
        explanation: what `explain` returned.
        path: where to save the figure too, as PNG or SVG by its suffix.
        scores: what `score` returned, to print its values beside the maps.

    Returns:
        A Matplotlib figure, which a notebook displays by itself.

    Raises:
        UserError: if the suffix of `path` is neither .png nor .svg.
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
    """Return why a map is flagged, or its values."""
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
