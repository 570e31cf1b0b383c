"""Cut pairs into batches and load their images, regions and references."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from sfam_bench.core.records import PairBatch, Redrawing, Sample
from sfam_bench.core.references import Prototype, Supports, Vectors
from sfam_bench.core.stream import prefetch
from sfam_bench.core.types import Flags, Images, KeypointsBatch, Mask, Masks
from sfam_bench.datasets.base import Dataset
from sfam_bench.datasets.episodes import HOW, NEGATIVE_VECTOR, NEGATIVES, RIVAL_VECTORS, RIVALS, SUPPORTS, VECTOR
from sfam_bench.datasets.pairs import OTHERS


def cut_batches(pairs: pd.DataFrame, batch_size: int) -> list[pd.DataFrame]:
    """Split the pairs into batches of one kind each, in order."""
    return [
        of_kind.iloc[start : start + batch_size]
        for _, of_kind in pairs.groupby("kind", sort=False)
        for start in range(0, len(of_kind), batch_size)
    ]


def first_of_each_kind(pairs: pd.DataFrame, count: int) -> pd.DataFrame:
    """The first pairs of each kind."""
    return pairs.groupby("kind", sort=False).head(count)


def load_batches(dataset: Dataset, frames: Sequence[pd.DataFrame]) -> Iterator[PairBatch]:
    """Load the images and regions of each batch, ahead of use."""
    return prefetch(partial(load_batch, dataset), frames)


def load_batch(dataset: Dataset, frame: pd.DataFrame) -> PairBatch:
    """Load one batch; the mask of a region that a pair lacks is empty, missing further references are NaN.

    Pairs of episodes have prototypes or class weights as references, and the regions that the query has with every
    support; pairs with other vectors have the query's own masks.
    """
    of_episodes = SUPPORTS in frame
    if VECTOR in frame and not of_episodes:
        return _load_vectors(dataset, frame)
    queries = [dataset.sample(image_id) for image_id in frame["query_id"]]
    shown = frame[SUPPORTS] if of_episodes else [[reference_id] for reference_id in frame["reference_id"]]
    regions = [
        common_regions(dataset, query_id, own, sample)
        for query_id, own, sample in zip(frame["query_id"], shown, queries, strict=True)
    ]
    masks, lacking = stack_regions(regions)
    redraws, points = dataset if isinstance(dataset, Redrawing) else None, stack_keypoints(queries)
    if VECTOR in frame:
        found = _load_vectors(dataset, frame)
        return replace(found, masks=masks, redraws=redraws, lacking={**found.lacking, **lacking})
    if of_episodes:
        return PairBatch(
            query_ids=tuple(frame["query_id"]),
            reference_ids=tuple(frame["reference_id"]),
            query=torch.stack([sample.image for sample in queries]),
            reference=load_supports(dataset, frame, [*frame[SUPPORTS]]),
            negative_ids=tuple(frame["negative_id"]),
            negative=load_supports(dataset, frame, [*frame[NEGATIVES]]),
            masks=masks,
            keypoints=points,
            rivals=tuple(load_supports(dataset, frame, own) for own in zip(*frame.get(RIVALS, ()), strict=True)),
            redraws=redraws,
            lacking=lacking,
        )
    references = [dataset.sample(image_id) for image_id in frame["reference_id"]]
    images = torch.stack([sample.image for sample in references])
    negatives = [image_id for image_id in frame["negative_id"] if image_id]
    if negatives and "shared" in masks:
        unlike = zip(frame["query_id"], negatives, queries, masks["shared"], strict=True)
        masks["distinguishing"] = torch.stack([_distinguish(dataset, *triplet) for triplet in unlike])
        if "shared" in lacking:
            lacking["distinguishing"] = lacking["shared"]
    return PairBatch(
        query_ids=tuple(frame["query_id"]),
        reference_ids=tuple(frame["reference_id"]),
        query=torch.stack([sample.image for sample in queries]),
        reference=images,
        negative_ids=tuple(negatives) or None,
        negative=torch.stack([dataset.sample(image_id).image for image_id in negatives]) if negatives else None,
        masks=masks,
        keypoints=points,
        reference_keypoints=stack_keypoints(references),
        others={
            role: more for role in OTHERS if (more := further_references(dataset, frame, role, images)) is not None
        },
        redraws=redraws,
        lacking={**lacking, **without_keypoints(queries, references)},
    )


def _load_vectors(dataset: Dataset, frame: pd.DataFrame) -> PairBatch:
    """Load one batch of pairs whose references are vectors."""
    queries = [dataset.sample(image_id) for image_id in frame["query_id"]]
    masks, lacking = stack_regions([sample.masks for sample in queries])

    def vectors(rows: Iterable[Any]) -> Vectors:
        return Vectors(torch.tensor(np.array([*map(list, rows)]), dtype=torch.float32))

    return PairBatch(
        query_ids=tuple(frame["query_id"]),
        reference_ids=tuple(frame["reference_id"]),
        query=torch.stack([sample.image for sample in queries]),
        reference=vectors(frame[VECTOR]),
        negative_ids=tuple(frame["negative_id"]),
        negative=vectors(frame[NEGATIVE_VECTOR]),
        masks=masks,
        keypoints=stack_keypoints(queries),
        rivals=tuple(vectors(own) for own in zip(*frame.get(RIVAL_VECTORS, ()), strict=True)),
        lacking=lacking,
    )


def _distinguish(dataset: Dataset, query_id: str, negative_id: str, sample: Sample, shared: Mask) -> Mask:
    """What the query shares with its reference and not with the negative."""
    with_negative = dataset.regions(query_id, negative_id, sample).get("shared")
    return shared if with_negative is None else shared & ~with_negative


def load_supports(dataset: Dataset, frame: pd.DataFrame, members: Sequence[Sequence[str]]) -> Supports:
    """The supports of each pair by id, each image loaded once."""
    ids = list(dict.fromkeys(image_id for own in members for image_id in own))
    rows = {image_id: row for row, image_id in enumerate(ids)}
    images = torch.stack([dataset.sample(image_id).image for image_id in ids])
    how = Prototype(*frame[HOW].iloc[0].split())
    return Supports(images, tuple(tuple(rows[image_id] for image_id in own) for own in members), tuple(ids), how)


def common_regions(dataset: Dataset, query_id: str, reference_ids: Sequence[str], sample: Sample) -> dict[str, Mask]:
    """The regions of a query that are the same with each of some references."""
    first, *others = (dataset.regions(query_id, reference_id, sample) for reference_id in reference_ids)
    return {
        name: mask
        for name, mask in first.items()
        if all(name in found and torch.equal(mask, found[name]) for found in others)
    }


def stack_regions(regions: Sequence[dict[str, Mask]]) -> tuple[dict[str, Masks], dict[str, Flags]]:
    """The regions that some pairs have, (batch, rows, cols) each, empty for the others, and which these are."""
    masks, lacking = dict[str, Masks](), dict[str, Flags]()
    for name in dict.fromkeys(name for found in regions for name in found):
        without = torch.tensor([name not in found for found in regions])
        empty = torch.zeros_like(next(found[name] for found in regions if name in found))
        masks[name] = torch.stack([found.get(name, empty) for found in regions])
        if without.any():
            lacking[name] = without
    return masks, lacking


def further_references(dataset: Dataset, frame: pd.DataFrame, role: str, like: Images) -> Images | None:
    """The further references of one role, NaN for pairs without one; None if no pair of the run has one."""
    if f"{role}_id" not in frame:
        return None
    ids = frame[f"{role}_id"]
    images = {image_id: dataset.sample(image_id).image for image_id in ids.unique() if image_id}
    missing = torch.full_like(like[0], torch.nan)
    return torch.stack([images.get(image_id, missing) for image_id in ids])


def stack_keypoints(samples: Sequence[Sample]) -> KeypointsBatch | None:
    """The keypoints of all images, none visible where an image has none; None if no image has any."""
    like = next((sample.keypoints for sample in samples if sample.keypoints is not None), None)
    if like is None:
        return None
    return torch.stack([torch.zeros_like(like) if one.keypoints is None else one.keypoints for one in samples])


def without_keypoints(queries: Sequence[Sample], references: Sequence[Sample]) -> dict[str, Flags]:
    """The pairs of which an image has no keypoints, if there are such pairs."""
    pairs = zip(queries, references, strict=True)
    without = torch.tensor([query.keypoints is None or reference.keypoints is None for query, reference in pairs])
    return {"keypoints": without} if without.any() else {}
