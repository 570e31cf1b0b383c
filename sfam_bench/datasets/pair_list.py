"""Pairs listed in a CSV, for any data set."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.ranges import Natural
from sfam_bench.core.similarity import Gallery, SimilarityFunction
from sfam_bench.core.stream import split_chunks
from sfam_bench.core.verification import accept_pairs
from sfam_bench.datasets.base import Dataset
from sfam_bench.datasets.pairs import add_classes, add_controls
from sfam_bench.datasets.tables import parse_flag, parse_string, read_csv, read_lines

REQUIRED = {"query": parse_string, "reference": parse_string}
OPTIONAL = {"negative": parse_string, "same": parse_flag}
AT_ONCE = 4096
LISTED, TRIPLET, SAME, DIFFERENT = "listed", "triplet", "same", "different"


@dataclass(frozen=True)
class PairList(Checked):
    """The pairs of a CSV with the columns query, reference, and optional negative (for triplets) or same (true, false).

    A file that ends in .txt has the format of LFW's pairs.txt instead (`read_lfw_pairs`).

    Images are ids or paths of the data set's index. Kinds: "triplet" with negatives; with `same`, whether the model
    accepts the pair (`verification.accept_pairs`): same_accepted, same_rejected, different_accepted,
    different_rejected; "same" and "different" if there are fewer than two pairs of one of them; otherwise "listed".

    file: the CSV, or a list in the format of LFW.
    others: add two further references to each pair, as `PairChoice` does.
    """

    file: str
    others: bool = False
    seed: Natural = 0

    @cached_property
    def table(self) -> pd.DataFrame:
        """The rows of the file; UserError, with its line, for a row that is no pair."""
        path = Path(self.file).expanduser()
        if path.suffix == ".txt":
            return read_lfw_pairs(path)
        table = read_csv(path, REQUIRED, optional=OPTIONAL)
        if "negative" in table and "same" in table:
            raise UserError(f"{self.file} has the columns negative and same: give triplets, or pairs to verify")
        if table.empty:
            raise UserError(f"{self.file} lists no pairs: add a line for each")
        for name in (name for name in OPTIONAL if name in table):
            if len(empty := table.index[table[name].isna()]):
                raise UserError(f"{self.file}, line {empty[0]}: {name} is empty: fill it in, or remove the column")
        return table

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its pairs, before any image is embedded."""
        if "negative" in self.table:
            return (TRIPLET,)
        return (SAME, DIFFERENT) if "same" in self.table else (LISTED,)

    def check(self, dataset: Dataset, image_ids: Sequence[str]) -> None:
        """Raise UserError, with the line, if an image is not one of `image_ids`, or a pair makes no sense."""
        self.find_ids(dataset, image_ids)

    def find_ids(self, dataset: Dataset, image_ids: Sequence[str]) -> pd.DataFrame:
        """The ids of the images of each row: query_id, reference_id, negative_id ("" without)."""
        known = {image_id: image_id for image_id in image_ids}
        if "path" in dataset.index:
            index = dataset.index.loc[list(image_ids)]
            known = dict(zip(index["path"], index.index, strict=True)) | known
        columns = [name for name in (*REQUIRED, "negative") if name in self.table]
        for line, row in self.table[columns].iterrows():
            for name, value in row.items():
                if value not in known:
                    raise UserError(
                        f"{self.file}, line {line}: {name} {value!r} is not one of the {len(image_ids)} images of "
                        f"{dataset.name} that may be explained: correct it, copy the image, or set split=all"
                    )
        found = self.table[columns].map(known.__getitem__).rename(columns=lambda name: f"{name}_id")
        found["negative_id"] = found.get("negative_id", "")
        for line, row in found.iterrows():
            if row.query_id in (row.reference_id, row.negative_id):
                raise UserError(f"{self.file}, line {line}: compares {row.query_id} with itself: give two images")
        if len(again := found.index[found.duplicated(["query_id", "reference_id"])]):
            raise UserError(f"{self.file}, line {again[0]}: this pair is listed twice: remove one line")
        return found

    def __call__(
        self, dataset: Dataset, similarity: SimilarityFunction, gallery: Gallery, image_ids: Sequence[str]
    ) -> pd.DataFrame:
        """The listed pairs, in order, with their scores; the images' embeddings are the rows of `gallery`."""
        pairs = self.find_ids(dataset, image_ids)
        places = pd.Series(range(len(image_ids)), index=list(image_ids))
        queries, references = (places[pairs[f"{side}_id"]].tolist() for side in ("query", "reference"))

        def scores() -> Iterator[torch.Tensor]:
            for rows in split_chunks(range(len(pairs)), AT_ONCE):
                yield similarity(gallery[[queries[at] for at in rows]], gallery[[references[at] for at in rows]])

        pairs["score"] = torch.cat([*scores()]).double().numpy()
        pairs["kind"] = self._name_kinds(pairs["score"].to_numpy())
        index = dataset.index.loc[list(image_ids)]
        pairs = add_classes(pairs.reset_index(drop=True), index)
        return add_controls(pairs, index, self.seed) if self.others else pairs

    def _name_kinds(self, scores: np.ndarray) -> np.ndarray:
        if "same" not in self.table:
            return np.full(len(scores), self.kinds[0])
        same = self.table["same"].to_numpy(dtype=bool)
        kinds = np.where(same, SAME, DIFFERENT)
        if min(same.sum(), (~same).sum()) < 2:
            return kinds
        accepted = accept_pairs(scores, same)
        return np.char.add(kinds, np.where(accepted, "_accepted", "_rejected"))


def read_lfw_pairs(path: Path) -> pd.DataFrame:
    """The pairs of a list in LFW's format, by line: query, reference (PERSON/PERSON_0001.jpg) and same.

    The first line may hold the number of folds and of pairs; then "person i j" is a pair of one person, and
    "person i other j" one of two. Raises UserError, with the line.
    """
    lines = read_lines(path)
    if re.fullmatch(r"\d+(\s+\d+)?", lines[0][1]):
        lines = lines[1:]
    rows = []
    for at, line in lines:
        cells = line.split()
        numbers = cells[1:] if len(cells) == 3 else cells[1::2]
        if len(cells) not in (3, 4) or not all(number.isdecimal() for number in numbers):
            raise UserError(f"{path}, line {at}: {line!r}: expected 'person i j' or 'person i other j': copy it again")
        people = (cells[0], cells[0] if len(cells) == 3 else cells[2])
        images = [f"{person}/{person}_{int(number):04d}.jpg" for person, number in zip(people, numbers, strict=True)]
        rows.append((at, *images, len(cells) == 3))
    return pd.DataFrame(rows, columns=["line", "query", "reference", "same"]).set_index("line")
