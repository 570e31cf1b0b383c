"""Explain a ranked list: why each result is like the query, and why it stands above the next."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

import torch
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.core.maps import normalise, upsample
from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import Gallery
from sfam_bench.core.stream import split_chunks
from sfam_bench.core.targets import Margin, Similarity
from sfam_bench.core.types import Image, Images
from sfam_bench.datasets.pictures import digest
from sfam_bench.evaluation.evaluate import find_flags, raw_maps, self_pairs, swap_pairs
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.models.similarity_model import SimilarityModel, encode_batch

Maps = Mapping[str, Tensor]  # of each method, (rows, cols), signed, largest magnitude 1


@dataclass(frozen=True)
class Result:
    """One result of a list.

    Attributes:
        place: in the list, from 1.
        image_id: in the gallery.
        label: its class; None in a gallery without labels.
        image: (3, rows, cols), RGB in [0, 1].
        score: its similarity to the query.
        is_right: whether it has the query's class; None if one of the two is not known.
        rival_id: the item of another class than the result's that is most similar to the query; None without labels.
        margin: its score minus that of the rival, negative where the rival stands above it.
        query_maps: the query's map for this result, for each method.
        own_maps: the result's map.
        above_next: the query's map of its margin over the next result shown; empty for the last.
        flags: for each method whose map of the query is all zeros the reason.
    """

    place: int
    image_id: str
    label: str | None
    image: Image
    score: float
    is_right: bool | None
    rival_id: str | None
    margin: float | None
    query_maps: Maps
    own_maps: Maps
    above_next: Maps
    flags: Mapping[str, str]


@dataclass(frozen=True)
class Ranking:
    """A query and its results.

    Attributes:
        query: (3, rows, cols), RGB in [0, 1].
        label: its class; None if it is not known.
        results: the first k, and behind them the first of another class than the query's if it stands below.
        searched: the number of items that were ranked.
        excluded: items that were not, since they have the pixels of the query.
    """

    query: Image
    label: str | None
    results: tuple[Result, ...]
    searched: int
    excluded: tuple[str, ...] = field(default=())


def explain_list(
    model: SimilarityModel,
    query: Image,
    load: Callable[[str], Image],
    image_ids: Sequence[str],
    k: int,
    explainers: Mapping[str, Explainer],
    labels: Mapping[str, str] | None = None,
    label: str | None = None,
    batch_size: int = 32,
) -> Ranking:
    """Rank a gallery for a query and explain the first k results.

    Args:
        model: the model.
        query: (3, rows, cols), RGB in [0, 1].
        load: reads a gallery image by its id, of the query's size.
        image_ids: of the gallery.
        k: number of results.
        explainers: the methods by name.
        labels: the class of each gallery image, if known.
        label: the query's class, if known.
        batch_size: images that are encoded at once.

    Raises:
        UserError: if k is not positive, the gallery has no image but the query, or an embedding is not finite.
    """
    if k < 1:
        raise UserError(f"{k} results are asked for: give at least 1")
    known = sorted({*(labels or {}).values()})
    if label is not None and label not in known:
        near = get_close_matches(label, known)
        meant = f"did you mean {' or '.join(near)}?" if near else "leave the query's class out, or correct it"
        raise UserError(f"the gallery has no class '{label}': {meant}")
    embeddings, excluded = _embed(model, query, load, image_ids, batch_size)
    own = model.encode(query[None]).embeddings
    scores = model.similarity.matrix(own, embeddings.to(own))[0].cpu()
    if not scores.isfinite().all():
        raise UserError(f"the score of {image_ids[int((~scores.isfinite()).nonzero()[0, 0])]} is not finite")
    kept = [place for place in scores.argsort(descending=True, stable=True).tolist() if place not in excluded]
    if not kept:
        raise UserError("the gallery holds no image but the query: nothing can be ranked")
    order = [image_ids[place] for place in kept]
    found = {image_ids[place]: float(scores[place]) for place in kept}
    classes = dict(labels or {})
    shown = list(range(min(k, len(order))))
    wrong = [place for place, item in enumerate(order) if label is not None and classes[item] != label]
    shown += [wrong[0]] if wrong and wrong[0] >= k else []
    chosen = [order[place] for place in shown]
    images = torch.stack([load(item) for item in chosen])
    query_maps, own_maps, above, flags = _maps(model, query, images, chosen, explainers, batch_size)
    results = []
    for at, (place, item) in enumerate(zip(shown, chosen, strict=True)):
        rival = next((other for other in order if classes and classes[other] != classes[item]), None)
        results.append(
            Result(
                place + 1,
                item,
                classes.get(item),
                images[at],
                found[item],
                None if label is None else classes[item] == label,
                rival,
                None if rival is None else found[item] - found[rival],
                {name: maps[at] for name, maps in query_maps.items()},
                {name: maps[at] for name, maps in own_maps.items()},
                {name: maps[at] for name, maps in above.items()} if at + 1 < len(chosen) else {},
                {name: why[at] for name, why in flags.items() if why[at]},
            )
        )
    return Ranking(query, label, tuple(results), len(order), tuple(image_ids[place] for place in sorted(excluded)))


def _embed(
    model: SimilarityModel, query: Image, load: Callable[[str], Image], image_ids: Sequence[str], batch_size: int
) -> tuple[Gallery, set[int]]:
    """The embeddings of the gallery, and the places of images with the pixels of the query."""
    chunks, excluded = [], set[int]()
    for places in split_chunks(range(len(image_ids)), batch_size):
        images = torch.stack([load(image_ids[place]) for place in places])
        if images.shape[1:] != query.shape:
            shapes = f"{tuple(images.shape[1:])} and the query {tuple(query.shape)}"
            raise UserError(f"gallery images are {shapes}: give both one size, or files")
        excluded |= {place for place, same in zip(places, (images == query).flatten(1).all(dim=1), strict=True) if same}
        chunks.append(model.encode(images).embeddings.cpu())
    if not chunks:
        raise UserError("the gallery is empty: give at least one image")
    return torch.cat(chunks), excluded


def _maps(
    model: SimilarityModel,
    query: Image,
    images: Images,
    ids: Sequence[str],
    explainers: Mapping[str, Explainer],
    batch_size: int,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], dict[str, list[str]]]:
    """For each method the query's map for each image, the image's own, the query's over the next, and flags."""
    found: tuple[dict[str, list[Tensor]], ...] = tuple({name: [] for name in explainers} for _ in range(3))
    flags: dict[str, list[str]] = {name: [] for name in explainers}
    for rows in split_chunks(range(len(images)), batch_size):
        pairs = _pairs(query, images[list(rows)], [ids[row] for row in rows])
        following = [row for row in rows if row + 1 < len(images)]
        below = [row + 1 for row in following]
        encoded = encode_batch(model, Similarity(), pairs)
        swapped = swap_pairs(encoded, pairs)
        if following:
            steps = _pairs(query, images[following], [ids[row] for row in following])
            steps = replace(steps, negative=images[below], negative_ids=tuple(ids[row] for row in below))
            over = encode_batch(model, Margin(), steps)
        for name, explainer in explainers.items():
            raw = raw_maps(explainer, model, encoded, pairs)
            flags[name] += find_flags(raw, self_pairs(pairs))
            found[0][name].append(_scale(raw, query))
            found[1][name].append(_scale(raw_maps(explainer, model, *swapped), query))
            if following:
                found[2][name].append(_scale(raw_maps(explainer, model, over, steps), query))
    whole = [{name: torch.cat(maps) for name, maps in kind.items() if maps} for kind in found]
    return whole[0], whole[1], whole[2], flags


def _pairs(query: Image, images: Images, ids: Sequence[str]) -> PairBatch:
    names = (f"image {digest(query)}",) * len(images)  # seeds random methods; no image of the gallery is called so
    return PairBatch(names, tuple(ids), query.expand_as(images).contiguous(), images)


def _scale(raw: Tensor, query: Image) -> Tensor:
    """Maps of the query's size, divided by their largest magnitude; zeros where a value is not finite."""
    finite = torch.where(raw.isfinite().all(dim=(1, 2))[:, None, None], raw, 0)
    return upsample(normalise(finite), (query.shape[-2], query.shape[-1])).cpu()
