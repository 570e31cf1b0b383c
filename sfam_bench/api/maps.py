"""Explain pairs: which regions of each image make a model find the two alike."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from sfam_bench.api.explanation import Explanation
from sfam_bench.api.models import find_model
from sfam_bench.api.pairs import Pair, Pairs, Reference, load_batches, read_pairs, target_of
from sfam_bench.core.maps import normalise, upsample
from sfam_bench.core.records import Encoded, PairBatch, Term, check_names
from sfam_bench.core.references import MEAN, Prototype, Supports
from sfam_bench.core.stream import progress
from sfam_bench.core.targets import Target
from sfam_bench.core.targets import score as target_score
from sfam_bench.core.types import RawMaps
from sfam_bench.datasets.pictures import Picture
from sfam_bench.evaluation.evaluate import find_flags, raw_maps, self_pairs
from sfam_bench.evaluation.named import Explainers, explainers_of
from sfam_bench.evaluation.supports import support_maps
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.models.similarity_model import SimilarityModel, encode_batch

BATCH = 8  # pairs that are computed at once


@overload
def explain(  # type: ignore[overload-overlap]  # a string is a picture, or alone the name of a CSV
    model: nn.Module | None,
    query: Picture,
    reference: Reference,
    explainers: Explainers = None,
    background: str = "white",
    how: Prototype = MEAN,
    negative: Reference | None = None,
    batch_size: int = BATCH,
) -> Explanation: ...


@overload
def explain(
    model: nn.Module | None,
    query: Pairs,
    reference: Pairs | None = None,
    explainers: Explainers = None,
    background: str = "white",
    how: Prototype = MEAN,
    negative: Pairs | None = None,
    batch_size: int = BATCH,
) -> list[Explanation]: ...


def explain(
    model: nn.Module | None,
    query: Picture | Pairs,
    reference: Reference | Pairs | None = None,
    explainers: Explainers = None,
    background: str = "white",
    how: Prototype = MEAN,
    negative: Reference | Pairs | None = None,
    batch_size: int = BATCH,
) -> Explanation | list[Explanation]:
    """Compute the maps of a pair, or of many: which regions of each image make `model` find the two alike.

    Args:
        model: the model to explain, or any module from images to embeddings (`SimilarityModel.wrap`); None for
            `default_model()`.
        query: a path, the bytes of a file, a PIL image, an array (rows, cols, 3) or (3, rows, cols), or a tensor (3,
            rows, cols); uint8, or floats in [0, 1]. All but tensors are resized and cropped by `model.geometry`; photos
            are rotated as their EXIF tag says. Or many pairs: a list or batch of queries, with as many references; or,
            without `reference`, a list of (query, reference) or (query, reference, negative), a DataFrame with the
            columns query, reference and optional negative, or the name of such a CSV, whose paths are below its folder.
        reference: what the query is compared with: an image, given in the same way; a list of images, which form a
            prototype; or `Vectors` of one row, such as a stored embedding, a class proxy or a text embedding.
        explainers: names of methods, objects, a list of both, or a mapping from names to them; None for SFAM and the
            exact decomposition.
        background: colour behind transparent pixels.
        how: the embedding that represents a list of images: their mean, their medoid, or the nearest to the query.
        negative: an image of something else, given as the reference: explains the margin, which is the similarity to
            the reference minus that to the negative.
        batch_size: pairs that are computed at once, if many are given.

    Returns:
        The score, the images and their maps; a list of these if many pairs are given. The map of an image compared with
        itself, a constant map and a map with NaN or infinity are zeros, with the reason in `flags`, as "reference:
        constant_map" where the query has a map.

    Raises:
        UserError: if an image cannot be read, images differ in size, it is not clear which images form a pair, the
            query is among several reference images, or a method is unknown or does not support the model or the
            reference.
    """
    chosen, used = explainers_of(explainers), find_model(model)
    check_names(chosen, ())
    pairs, are_many = read_pairs(query, reference, negative)
    found = explain_pairs(used, pairs, chosen, background, how, batch_size)
    if are_many:
        return [*progress(found, "explain", len(pairs), "pair")]
    (one,) = found
    return one


def explain_pairs(
    model: SimilarityModel,
    pairs: Sequence[Pair],
    explainers: Mapping[str, Explainer],
    background: str = "white",
    how: Prototype = MEAN,
    batch_size: int = BATCH,
) -> Iterator[Explanation]:
    """Explain pairs in order."""
    target, todo = target_of(pairs), iter(pairs)
    for batch in load_batches(pairs, model.geometry, background, how, batch_size):
        for facts, pair in zip(_explain_batch(model, target, batch, explainers), todo, strict=False):
            chosen = facts.pop("chosen")
            pictures = {side: [own[row] for row in chosen.get(side, [0])] for side, own in pair.pictures.items() if own}
            yield Explanation(
                **facts,
                target=target.name,
                ids=pair.ids,
                pictures=pictures,
                geometry=model.geometry,
                background=background,
            )


def _explain_batch(
    model: SimilarityModel, target: Target, pairs: PairBatch, explainers: Mapping[str, Explainer]
) -> Iterator[dict[str, Any]]:
    """The fields of each pair's explanation, and under "chosen" which images form each reference."""
    encoded = encode_batch(model, target, pairs)
    sides = dict(zip(("reference", "negative"), encoded.terms, strict=False))
    batches = {"reference": pairs}
    if pairs.negative is not None and pairs.negative_ids is not None:
        batches["negative"] = PairBatch(pairs.query_ids, pairs.negative_ids, pairs.query, pairs.negative)
    alone = {side: Encoded(encoded.query, (Term(1.0, term.side),), encoded.passes) for side, term in sides.items()}
    raws: dict[str, dict[str, RawMaps]] = {"query": {}, **{side: {} for side in sides}}
    for name, explainer in explainers.items():
        raws["query"][name] = raw_maps(explainer, model, encoded, pairs)
        for side, term in sides.items():
            if term.side.blend is not None:
                raws[side][name] = support_maps(explainer, model, alone[side], batches[side])
    scores = target_score(model.similarity, encoded.query.embeddings, encoded.terms)
    given, same = {"reference": pairs.reference, "negative": pairs.negative}, self_pairs(pairs)
    size = (pairs.query.shape[-2], pairs.query.shape[-1])
    for at in range(len(pairs)):
        reasons: dict[str, dict[str, str]] = {name: {} for name in explainers}
        chosen: dict[str, list[int]] = {}
        facts: dict[str, Any] = {"score": float(scores[at]), "query": pairs.query[at], "reference": None}
        for side, maps in raws.items():
            rows = [at]
            if side in sides and (blend := sides[side].side.blend) is not None:
                entries = (blend.pairs == at).nonzero()[:, 0]
                images = blend.side.images[blend.rows[entries]].cpu()
                facts[side] = images if len(images) > 1 else images[0]
                rows = entries.tolist()
                chosen[side] = blend.rows[entries].tolist() if isinstance(given[side], Supports) else [0]
            facts[f"{side}_maps"] = {}
            for name, whole in maps.items():
                reason, facts[f"{side}_maps"][name] = _scale(whole[rows], same[at] if side != "negative" else "", size)
                if reason:
                    reasons[name][side] = reason
        flags = {name: _join_reasons(by_side) for name, by_side in reasons.items() if by_side}
        yield {**facts, "flags": flags, "chosen": chosen}


def _join_reasons(by_side: Mapping[str, str]) -> str:
    """Why the query's map is zeros; where it is not, why those of other images are."""
    return by_side.get("query") or "; ".join(f"{side}: {reason}" for side, reason in by_side.items())


def _scale(raw: RawMaps, same: str, size: tuple[int, int]) -> tuple[str, Tensor]:
    """The reason for a map of zeros, or none; and maps of the images of one reference, on one scale, of `size`."""
    whole = raw.flatten(0, 1)[None]
    (reason,) = find_flags(whole, [same])
    maps = upsample(normalise(torch.zeros_like(whole) if reason else whole).view_as(raw), size).cpu()
    return reason, maps[0] if len(maps) == 1 else maps


def show(explanation: Explanation, path: str | Path | None = None, scores: pd.DataFrame | None = None) -> Figure:
    """Draw the images and the maps of each method: of query, reference (each of several), and negative.

    Args:
        explanation: what `explain` returned.
        path: where to save the figure too, as PNG or SVG by its suffix.
        scores: what `score` returned, to print its values beside the maps.

    Returns:
        A Matplotlib figure, which a notebook displays by itself.

    Raises:
        UserError: if the suffix of `path` is neither .png nor .svg.
    """
    return explanation.show(path, scores)
