"""Explain a ranked list: why each result is like the query, and why it is above the next."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from sfam_bench.api.explanation import pixels
from sfam_bench.api.models import find_model
from sfam_bench.core.errors import UserError, check_object, check_range
from sfam_bench.core.files import write_text
from sfam_bench.core.ranges import Count
from sfam_bench.core.types import Image
from sfam_bench.datasets.own import from_folder
from sfam_bench.datasets.pictures import Picture, sample
from sfam_bench.evaluation.named import Explainers, explainers_of
from sfam_bench.evaluation.ranking import Ranking, Result, explain_list
from sfam_bench.report.page.ranking import Shown, render_ranking


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
    check_object(k, "k", int)
    check_range("k", k, Count)
    check_range("batch_size", batch_size, Count)
    chosen, used = explainers_of(explainers), find_model(model)
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

    if labels is not None and (missing := [image_id for image_id in ids if labels.get(image_id) is None]):
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
    write_text(Path(path).expanduser(), page)


def _shown(result: Result) -> Shown:
    lines = [f"class: {result.label}"] if result.label is not None else []
    lines.append(f"similarity {result.score:.4f}")
    if result.margin is not None:
        where = "above" if result.margin > 0 else "below"
        lines.append(f"{abs(result.margin):.4f} {where} the best of other classes than its own, {result.rival_id}")
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
