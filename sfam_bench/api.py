"""Explain, score and draw one pair, without a config: for notebooks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from sfam_bench.core.errors import UserError, check_object
from sfam_bench.core.files import atomic
from sfam_bench.core.geometry import Geometry
from sfam_bench.core.maps import normalise, upsample
from sfam_bench.core.metric_card import metric_facts
from sfam_bench.core.records import PairBatch
from sfam_bench.core.references import MEAN, Prototype, Supports, Vectors
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import Similarity
from sfam_bench.core.targets import score as target_score
from sfam_bench.core.types import Image, Images
from sfam_bench.datasets.own import from_folder
from sfam_bench.datasets.pictures import Corners, Picture, Region, pair, sample
from sfam_bench.evaluation.evaluate import PAIR, evaluate, find_flags, raw_maps, self_pairs
from sfam_bench.evaluation.named import Explainers, check_method, explainers_of, find_object
from sfam_bench.evaluation.ranking import Ranking, Result, explain_list
from sfam_bench.evaluation.supports import support_maps
from sfam_bench.metrics.shared.base import NOT_DRAWN, Metric
from sfam_bench.models.build import build
from sfam_bench.models.lite0 import lite0
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import SimilarityModel, encode_batch
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.figures.pair import MapPanel, check_suffix, pair_figure, panel_lines, save_figure
from sfam_bench.report.names import to_prose
from sfam_bench.report.page.ranking import Shown, render_ranking

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
        reference: the reference as the model reads it, (3, rows, cols), RGB in [0, 1]; of several images (supports, 3,
            rows, cols); None for a vector.
        query_maps: a map of the query for each method, (rows, cols), signed, largest magnitude 1: positive values
            raise the similarity, negative values lower it.
        reference_maps: the same of the reference; of several images (supports, rows, cols), on one scale; none for a
            vector.
        flags: for each method whose map is all zeros the reason: "self_pair", "constant_map" or "nonfinite_map".
    """

    score: float
    query: Image
    reference: Image | Images | None
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
    reference: Picture | list[Picture] | tuple[Picture, ...] | Vectors,
    explainers: Explainers = None,
    background: str = "white",
    how: Prototype = MEAN,
) -> Explanation:
    """Compute the maps of one pair: which regions of each image make `model` find the two alike.

    Args:
        model: the model to explain, or any module from images to embeddings (`SimilarityModel.wrap`); None for
            `default_model()`.
        query: a path, a PIL image, an array (rows, cols, 3) or a tensor (3, rows, cols) in [0, 1]. All but tensors are
            resized and cropped by `model.geometry`; photos are rotated as their EXIF tag says.
        reference: what the query is compared with: an image, given in the same way; a list of images, which form a
            prototype; or `Vectors` of one row, such as a stored embedding, a class proxy or a text embedding.
        explainers: names of methods, or objects by name; None for SFAM and the exact decomposition.
        background: colour behind transparent pixels.
        how: the embedding that represents a list of images: their mean, their medoid, or the nearest to the query.

    Returns:
        The score, both images and the maps of both. The map of an image compared with itself, a constant map and a map
        with NaN or infinity are zeros, with the reason in `flags`.

    Raises:
        UserError: if an image cannot be read, images differ in size, the query is among several reference images, or a
            method is unknown or does not support the model or the reference.
    """
    chosen, used = explainers_of(explainers), _model(model)
    pairs = _batch(query, reference, used.geometry, background, how)
    encoded = encode_batch(used, Similarity(), pairs)
    size = (pairs.query.shape[-2], pairs.query.shape[-1])
    sides: dict[str, dict[str, Tensor]] = {"query": {}, "reference": {}}
    flags: dict[str, str] = {}
    blend = encoded.terms[0].side.blend
    for name, explainer in chosen.items():
        raws = {"query": raw_maps(explainer, used, encoded, pairs)}
        if blend is not None:
            raws["reference"] = support_maps(explainer, used, encoded, pairs)
        for side, raw in raws.items():
            whole = raw.flatten(0, 1)[None]  # the images of one reference are on one scale
            (reason,) = find_flags(whole, self_pairs(pairs))
            maps = upsample(normalise(torch.zeros_like(whole) if reason else whole).view_as(raw), size).cpu()
            sides[side][name] = maps[0] if len(maps) == 1 else maps
            if reason:
                flags[name] = reason
    value = target_score(used.similarity, encoded.query.embeddings, encoded.terms)
    images = None if blend is None else blend.side.images[blend.rows].cpu()
    shown = images if images is None or len(images) > 1 else images[0]
    return Explanation(float(value), pairs.query[0], shown, sides["query"], sides["reference"], flags)


def _batch(
    query: Picture,
    reference: Picture | list[Picture] | tuple[Picture, ...] | Vectors,
    geometry: Geometry,
    background: str,
    how: Prototype,
) -> PairBatch:
    """A batch of one pair."""
    if isinstance(reference, Vectors):
        image = sample(query, "query", geometry, background=background).image
        return PairBatch(("query",), ("vector",), image[None], reference)
    if not isinstance(reference, list | tuple):
        return pair(query, reference, geometry, background=background)
    if not reference:
        raise UserError("the list of reference images is empty: give at least one")
    batches = [pair(query, other, geometry, background=background) for other in reference]
    names = tuple(f"reference {number}" for number in range(len(batches)))
    images = torch.cat([batch.reference_images for batch in batches])
    supports = Supports(images, (tuple(range(len(batches))),), names, how)
    return replace(batches[0], reference=supports, reference_ids=("prototype",))


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


def explain_ranking(
    model: nn.Module | None,
    query: Picture,
    gallery: str | Path | Mapping[str, Picture],
    k: int = 10,
    explainers: Explainers = None,
    labels: Mapping[str, str] | None = None,
    label: str | None = None,
    background: str = "white",
    batch_size: int = 32,
) -> Ranking:
    """Rank a gallery for a query and explain the first k results: why each is like it, and why it is above the next.

    Args:
        model: the model to explain; None for `default_model()`.
        query: as in `explain`.
        gallery: a folder of images, or of class folders, whose names are the labels; or pictures by id.
        k: the number of results. If the query's class is known, the first result of another class is explained too.
        explainers: as in `explain`.
        labels: the class of each picture of the gallery, by id.
        label: the class of the query.
        background: colour behind transparent pixels.
        batch_size: images that are encoded at once.

    Returns:
        The results, best first. An image with the pixels of the query is left out, and named in `excluded`.

    Raises:
        UserError: if an image cannot be read, the gallery is empty, a picture has no label while others have, or a
            method is unknown or does not support the model.
    """
    chosen, used = explainers_of(explainers), _model(model)
    if isinstance(gallery, str | Path):
        folder = from_folder(gallery, geometry=used.geometry, background=background)
        ids = [str(image_id) for image_id in folder.index.index]
        if labels is None and not folder.split_name.startswith("unlabelled"):
            labels = dict(zip(ids, folder.index["class_name"], strict=True))

        def load(image_id: str) -> Image:
            return folder.sample(image_id).image

    else:
        check_object(gallery, "gallery", Mapping)
        ids = [*gallery]

        def load(image_id: str) -> Image:
            return sample(gallery[image_id], f"gallery image {image_id}", used.geometry, background=background).image

    if labels is not None and (missing := [image_id for image_id in ids if image_id not in labels]):
        raise UserError(
            f"{len(missing)} gallery images have no label, such as {missing[0]}: give one for each, or none"
        )
    image = sample(query, "query", used.geometry, background=background).image
    return explain_list(used, image, load, ids, k, chosen, labels, label, batch_size)


def save_ranking(ranking: Ranking, path: str | Path, title: str = "Ranked list") -> None:
    """Write a ranking as one HTML page with embedded images.

    Args:
        ranking: what `explain_ranking` returned.
        path: of the page, which is replaced.
        title: of the page.

    Raises:
        UserError: if the page cannot be written.
    """
    methods = list(ranking.results[0].query_maps)
    facts = [("query's class", ranking.label or "not known"), ("ranked", f"{ranking.searched} images")]
    if ranking.excluded:
        facts.append(("left out, since they are the query", ", ".join(ranking.excluded)))
    page = render_ranking(title, pixels(ranking.query), facts, methods, [_shown(one) for one in ranking.results])
    with atomic(Path(path).expanduser()) as file:
        file.write_text(page, encoding="utf-8")


def _shown(result: Result) -> Shown:
    lines = [f"class: {result.label}"] if result.label is not None else []
    lines.append(f"similarity {result.score:.4f}")
    if result.margin is not None:
        where = "above" if result.margin > 0 else "below"
        lines.append(f"{abs(result.margin):.4f} {where} the best of another class, {result.rival_id}")
    maps = [
        (
            result.query_maps[name].numpy(),
            result.own_maps[name].numpy(),
            result.above_next[name].numpy() if result.above_next else None,
        )
        for name in result.query_maps
    ]
    flags = [result.flags.get(name, "") for name in result.query_maps]
    return Shown(result.place, result.image_id, lines, pixels(result.image), result.is_right, maps, flags)


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
    if explanation.reference is None or explanation.reference.ndim > 3:
        raise UserError("show draws a reference of one image: draw the maps of the explanation one by one")
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
