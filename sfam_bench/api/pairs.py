"""Pairs as a caller gives them, one or many, and the batches that a model reads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sfam_bench.core.errors import UserError, check_object, check_range
from sfam_bench.core.geometry import Geometry
from sfam_bench.core.ranges import Count
from sfam_bench.core.records import PairBatch
from sfam_bench.core.references import Given, Prototype, Supports, Vectors
from sfam_bench.core.stream import split_chunks
from sfam_bench.core.targets import Margin, Similarity, Target
from sfam_bench.datasets.pictures import Corners, Picture, Region, digest, sample
from sfam_bench.datasets.tables import parse_string, read_csv

Reference: TypeAlias = Picture | list[Picture] | tuple[Picture, ...] | Vectors
Pairs: TypeAlias = pd.DataFrame | str | Path | Sequence[Any] | Iterator[Any] | np.ndarray | Tensor
MARKS = ("foreground", "box")
SIDES = ("query", "reference", "negative")
COLUMNS = (*SIDES, *MARKS)
IMAGES = {"query": parse_string, "reference": parse_string}
FILES = {"negative": parse_string, "foreground": parse_string}
AS_PAIR = "give (query, reference) or (query, reference, negative)"


@dataclass(frozen=True)
class Pair:
    """One pair as it is given.

    A reference of several images is a prototype. `box` and `foreground` are of the query's object. `ids` name its
    images in records and seed random methods; `names` name them in errors.
    """

    query: Picture
    reference: Reference
    negative: Reference | None = None
    foreground: Region | None = None
    box: Corners | None = None
    ids: tuple[str, str, str] = SIDES
    names: tuple[str, str, str] = SIDES

    @property
    def pictures(self) -> dict[str, list[Picture]]:
        """The pictures of each side; none of a vector."""
        sides = {"query": self.query, "reference": self.reference, "negative": self.negative}
        return {name: _listed(given) for name, given in sides.items() if given is not None}

    def has(self, need: str) -> bool:
        """Whether it has what a metric needs: "foreground" (a mask or a box), "box" or "negative"."""
        boxed = need == "foreground" and self.box is not None
        return boxed or (need in ("negative", *MARKS) and getattr(self, need) is not None)

    def load(self, geometry: Geometry, background: str, how: Prototype) -> PairBatch:
        """Read its images as a batch of one pair; raises UserError if one is invalid or of another size."""
        found = sample(self.query, self.names[0], geometry, self.foreground, self.box, background)
        image = found.image[None]
        others = {
            name: _load_reference(given, name, image, geometry, background, how)
            for name, given in zip(self.names[1:], (self.reference, self.negative), strict=True)
            if given is not None
        }
        reference, *negatives = others.values()
        for negative in negatives:
            if isinstance(negative, Tensor) and torch.equal(negative, image):
                raise UserError(f"{self.names[2]} has the pixels of its query {self.names[0]}: give another image")
        return PairBatch(
            self.ids[:1],
            self.ids[1:2],
            image,
            reference,
            negative_ids=self.ids[2:] if negatives else None,
            negative=negatives[0] if negatives else None,
            masks={name: mask[None] for name, mask in found.masks.items()},
        )


def read_pairs(
    query: Picture | Pairs,
    reference: Reference | Pairs | None = None,
    negative: Reference | Pairs | None = None,
    foreground: Region | Sequence[Region] | None = None,
    box: Corners | Sequence[Corners] | None = None,
) -> tuple[list[Pair], bool]:
    """The pairs, and whether many were given: as two lists or batches, a list of pairs, a frame or a CSV of pairs.

    Raises UserError where the numbers of images differ, or it is not clear which images belong together.
    """
    if reference is None:
        if any(given is not None for given in (negative, foreground, box)):
            raise UserError("reference is missing: give one, or give negative, foreground and box with each pair")
        return _read_list(query), True
    if not _is_many(query):
        if isinstance(reference, np.ndarray | Tensor) and _is_many(reference):  # a list would be a prototype
            raise UserError(
                f"query is one image and reference a batch of {len(reference)}: give list(reference) for a prototype, "
                "or as many queries"
            )
        alone = {"query": query, "reference": reference, "negative": negative, "foreground": foreground, "box": box}
        return [_name(alone, SIDES)], False
    count = len(query)  # type: ignore[arg-type]
    given = {"reference": reference, "negative": negative, "foreground": foreground, "box": box}
    for name, several in given.items():
        if several is not None and (not _is_many(several, name) or len(_items(several)) != count):
            raise UserError(f"query holds {count} images, and {name} does not: give one for each, in the same order")
    columns = {"query": query, **{name: several for name, several in given.items() if several is not None}}
    rows = zip(*map(_items, columns.values()), strict=True)
    return _checked(
        [_number(dict(zip(columns, row, strict=True)), at) for at, row in enumerate(rows)], "the list"
    ), True


def load_batches(
    pairs: Sequence[Pair], geometry: Geometry, background: str, how: Prototype, size: int
) -> Iterator[PairBatch]:
    """Load pairs in order, in batches of at most `size`; only pairs of one kind and one size share a batch.

    Raises:
        UserError: at once if `how` or `size` is of another type or range.
    """
    check_object(how, "how", Prototype)
    check_range("batch_size", size, Count)
    return _load_batches(pairs, geometry, background, how, size)


def _load_batches(
    pairs: Sequence[Pair], geometry: Geometry, background: str, how: Prototype, size: int
) -> Iterator[PairBatch]:
    loaded = (pair.load(geometry, background, how) for pair in pairs)  # in one thread: PIL images may be shared
    for kind, run in groupby(loaded, key=_kind):
        for batches in split_chunks(run, size if kind else 1):
            yield _join(batches)


def target_of(pairs: Sequence[Pair]) -> Target:
    """The margin over the negatives if all pairs have them, the similarity if none has; UserError if some have."""
    having = sum(pair.negative is not None for pair in pairs)
    if 0 < having < len(pairs):
        raise UserError(f"{having} of {len(pairs)} pairs have a negative: give one for each, or for none")
    return Margin() if having else Similarity()


def _read_list(given: Any) -> list[Pair]:
    if isinstance(given, str | Path) and Path(given).suffix == ".csv":
        return _read_csv(Path(given).expanduser())
    if isinstance(given, pd.DataFrame):
        return _read_frame(given)
    given = list(given) if isinstance(given, Iterator) else given
    if isinstance(given, str | bytes | Path) or not isinstance(given, Sequence):
        raise UserError("reference is missing: give one, or a list, a frame or a CSV of pairs")
    pairs = []
    for at, row in enumerate(given):
        if not isinstance(row, tuple | list) or len(row) not in (2, 3):
            size = f" of {len(row)}" if isinstance(row, tuple | list) else ""
            raise UserError(f"pair {at} is of type {type(row).__name__}{size}: {AS_PAIR}")
        pairs.append(_number(dict(zip(COLUMNS, row, strict=False)), at))
    return _checked(pairs, "the list")


def _read_frame(frame: pd.DataFrame) -> list[Pair]:
    if absent := [name for name in ("query", "reference") if name not in frame]:
        raise UserError(f"the frame of pairs lacks the column {absent[0]}: it has {', '.join(map(str, frame.columns))}")
    if unknown := [str(name) for name in frame.columns if name not in COLUMNS]:
        raise UserError(f"the frame of pairs has the column {unknown[0]}: keep only {', '.join(COLUMNS)}")
    rows = frame.to_dict("records")
    for at, row in enumerate(rows):
        for name, cell in row.items():
            if cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell)):
                raise UserError(f"row {at} of the pairs has no {name}: fill it in, or remove the column")
    return _checked([_number(row, at) for at, row in enumerate(rows)], "the frame")


def _read_csv(file: Path) -> list[Pair]:
    """The pairs of a CSV, with paths below its folder."""
    table = read_csv(file, IMAGES, optional=FILES)
    for name in table.columns:
        if len(empty := table.index[table[name].isna()]):
            raise UserError(f"{file}, line {empty[0]}: {name} is empty: fill it in, or remove the column")
    pairs = []
    for row in table.to_dict("records"):
        ids = (row["query"], row["reference"], row.get("negative", "negative"))
        pairs.append(replace(_name({name: file.parent / cell for name, cell in row.items()}, ids), ids=ids))
    return _checked(pairs, str(file))


def _checked(pairs: list[Pair], what: str) -> list[Pair]:
    if not pairs:
        raise UserError(f"{what} holds no pairs: give at least one")
    return pairs


def _number(row: Mapping[Any, Any], at: int) -> Pair:
    """A pair of several, whose pictures are named in errors by their paths, or by the number of the pair."""
    query, reference, negative = (
        str(row[side]) if isinstance(row.get(side), str | Path) else f"{side} {at}" for side in SIDES
    )
    return _name(row, (query, reference, negative))


def _name(row: Mapping[Any, Any], names: tuple[str, str, str]) -> Pair:
    """A pair with its ids, which do not depend on the other pairs."""
    query, reference, negative = (side if row.get(side) is None else _identify(row[side]) for side in SIDES)
    return Pair(**{str(name): cell for name, cell in row.items()}, ids=(query, reference, negative), names=names)


def _identify(given: Reference) -> str:
    """The path as it is given; for other pictures and vectors a name made of their content."""
    if isinstance(given, str | Path):
        return str(given)
    if isinstance(given, Vectors):
        return f"vector {digest(given.embeddings)}"
    return ", ".join(map(_identify, given)) if isinstance(given, list | tuple) else f"image {digest(given)}"


def _is_many(given: object, name: str = "query") -> bool:
    """Whether several images (or masks, or boxes) are given: a list, or a batch of more than one."""
    if isinstance(given, np.ndarray | Tensor):
        axes = {"foreground": 3, "box": 2}.get(name, 4)
        return given.ndim == axes and len(given) != 1
    if name == "box":
        return isinstance(given, list | tuple) and all(isinstance(one, list | tuple) for one in given)
    return isinstance(given, list | tuple | pd.Series | Vectors)


def _items(given: Any) -> Any:
    return [Vectors(row[None]) for row in given.embeddings] if isinstance(given, Vectors) else given


def _listed(given: Reference) -> list[Picture]:
    if isinstance(given, Vectors):
        return []
    return list(given) if isinstance(given, list | tuple) else [given]


def _load_reference(
    given: Reference, name: str, query: Tensor, geometry: Geometry, background: str, how: Prototype
) -> Given:
    if isinstance(given, Vectors):
        return given
    pictures = _listed(given)
    if not pictures:
        raise UserError(f"the list of {name} images is empty: give at least one")
    single = not isinstance(given, list | tuple)
    names = (name,) if single else tuple(f"{name} {number}" for number in range(len(pictures)))
    images = [
        sample(picture, called, geometry, background=background).image
        for picture, called in zip(pictures, names, strict=True)
    ]
    for called, image in zip(names, images, strict=True):
        if image.shape != query.shape[1:]:
            shapes = f"query is {tuple(query.shape[1:])} and {called} {tuple(image.shape)}"
            raise UserError(f"{shapes}: give both one size, or files")
    first: dict[bytes, str] = {}
    for called, image in zip(names, images, strict=True):
        if (other := first.setdefault(image.numpy().tobytes(), called)) != called:
            raise UserError(f"{other} and {called} are the same image, which would count twice: leave one out")
    whole = torch.stack(images)
    return whole if single else Supports(whole, (tuple(range(len(images))),), names, how)


def _kind(batch: PairBatch) -> tuple[Any, ...]:
    """What pairs must have in common to share a batch; empty for prototypes, which are computed alone."""
    given = [batch.reference, *([] if batch.negative is None else [batch.negative])]
    if any(isinstance(one, Supports) for one in given):
        return ()
    return (batch.query.shape, *map(type, given), *sorted(batch.masks))


def _join(batches: Sequence[PairBatch]) -> PairBatch:
    if len(batches) == 1:
        return batches[0]
    joined: dict[str, Any] = {
        name: tuple(item for batch in batches for item in getattr(batch, name))
        for name in ("query_ids", "reference_ids", "negative_ids")
        if getattr(batches[0], name) is not None
    }
    joined |= {
        name: _concatenate([getattr(batch, name) for batch in batches])
        for name in ("query", "reference", "negative")
        if getattr(batches[0], name) is not None
    }
    masks = {name: torch.cat([batch.masks[name] for batch in batches]) for name in batches[0].masks}
    return PairBatch(**joined, masks=masks)


def _concatenate(given: Sequence[Any]) -> Any:
    if isinstance(given[0], Vectors):
        return Vectors(torch.cat([one.embeddings for one in given]))
    return torch.cat([*given])
