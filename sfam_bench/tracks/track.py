"""A frozen task: model, pairs, metrics and the digests of everything that decides a value."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import digest
from sfam_bench.core.records import PairBatch
from sfam_bench.core.targets import Target
from sfam_bench.datasets.base import Dataset
from sfam_bench.datasets.batches import cut_batches
from sfam_bench.datasets.folder import ImageFolder, resolve_inside
from sfam_bench.datasets.tables import parse_string, read_csv
from sfam_bench.explainers.saved_maps import pair_file
from sfam_bench.metrics.shared.base import Metric
from sfam_bench.models.checkpoint import content_digest, weights
from sfam_bench.models.similarity_model import SimilarityModel

FROZEN = Path(__file__).parent / "frozen"
SPEC, PAIRS, CHANCE, WEIGHTS = "track.yaml", "pairs.csv", "chance.csv", "model.safetensors"
DIGESTS = "digests.yaml"  # of the folder of each track
TEXTS = ("title", "headline", "weights", "images", "recipe", "batch")
NODES = ("dataset", "model", "target", "metrics")
RESTORE = "a frozen track never changes: restore its files, or install again"


@dataclass(frozen=True)
class Spec:
    """The verified files of a track.

    digest: SHA-256 of its files. folder: of these. settings: the content of track.yaml, of which `dataset`, `model`,
    `target` and `metrics` describe objects.
    """

    name: str
    folder: Path
    digest: str
    settings: Mapping[str, Any]

    @property
    def commitment(self) -> str:
        """The published digest of the private key of its images; empty for a public track."""
        return str(self.settings.get("commitment", ""))

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """The pairs in order: query_id, reference_id and other_id (see `Track`); of photos the paths of their files."""
        table = read_csv(
            self.folder / PAIRS, {"query": parse_string, "reference": parse_string}, optional={"other": str}
        )
        return table.fillna("").rename(columns=lambda name: f"{name}_id").reset_index(drop=True)

    @cached_property
    def chance(self) -> pd.DataFrame:
        """The values of random maps, a row for each pair and a column for each metric."""
        return pd.read_csv(self.folder / CHANCE)


def list_tracks() -> list[str]:
    """The names of all tracks."""
    return sorted(path.parent.name for path in FROZEN.glob(f"*/{SPEC}"))


def read_spec(name: str) -> Spec:
    """Read and verify the files of a track; UserError for an unknown one, or one of which a byte has changed."""
    if name not in list_tracks():
        raise UserError(f"there is no track {name!r}: choose {', '.join(list_tracks())}")
    folder = FROZEN / name
    known = yaml.safe_load((FROZEN / DIGESTS).read_text(encoding="utf-8")) or {}
    if (found := folder_digest(folder)) != known.get(name):
        raise UserError(f"the files of {name} in {folder} have another digest ({found[:12]}): {RESTORE}")
    settings = yaml.safe_load((folder / SPEC).read_text(encoding="utf-8"))
    if missing := [key for key in (*TEXTS, *NODES) if key not in settings]:
        raise UserError(f"{folder / SPEC} has no {missing[0]}: {RESTORE}")
    return Spec(name, folder, found, settings)


def folder_digest(folder: Path) -> str:
    """The SHA-256 of the names and contents of the files of a folder, without hidden ones, which file managers add."""
    shown = (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))
    files = [f"{path.name}\0{digest(path)}" for path in shown]
    return hashlib.sha256("\n".join(files).encode()).hexdigest()


@dataclass(frozen=True)
class Track:
    """The objects of a frozen task.

    pairs: query_id, reference_id, negative_id (""), kind, query_label, and other_id: another reference of the same
        query, by which it is measured whether a map depends on the reference; "" where none is needed.
    metrics: those of the leaderboard, by name; `headline` is the one that orders it.
    batch: pairs that are computed at a time.
    """

    spec: Spec
    dataset: Dataset
    model: SimilarityModel
    target: Target
    metrics: Mapping[str, Metric]
    pairs: pd.DataFrame = field(repr=False)
    batch: int

    @classmethod
    def of(
        cls, spec: Spec, dataset: Dataset, model: SimilarityModel, target: Target, metrics: Mapping[str, Metric]
    ) -> "Track":
        """Join objects with the pairs of their track; UserError where weights or images are not those of the track."""
        dataset = name_by_path(dataset)
        track = cls(spec, dataset, model, target, metrics, find_pairs(spec, dataset), int(spec.settings["batch"]))
        found = {"weights": content_digest(weights(model)), "images": images_digest(dataset, track.image_ids)}
        for what, value in found.items():
            if value != spec.settings[what]:
                raise UserError(
                    f"the {what} of {spec.name} are not those of the track (SHA-256 {value[:12]}, expected "
                    f"{str(spec.settings[what])[:12]}): {REMEDIES[what]}"
                )
        return track

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def headline(self) -> str:
        return str(self.spec.settings["headline"])

    @property
    def chance(self) -> pd.DataFrame:
        """The values of random maps, a row for each pair."""
        return self.spec.chance[: len(self.pairs)]

    @property
    def image_ids(self) -> list[str]:
        """The images of all pairs, each once."""
        ids = self.pairs[["query_id", "reference_id", "other_id"]].to_numpy().ravel()
        return [str(image_id) for image_id in dict.fromkeys(ids) if image_id]

    @property
    def controlled(self) -> pd.DataFrame:
        """The pairs whose query is also explained with another reference and with itself."""
        return self.pairs[self.pairs["other_id"] != ""]

    @property
    def explained(self) -> pd.DataFrame:
        """All pairs of which a submission needs a map."""
        return with_controls(self.pairs)

    def part(self, count: int) -> "Track":
        """The same task with its first pairs alone, for tests and quick checks; no row may be made of it."""
        return replace(self, pairs=self.pairs[:count])

    def batches(self, pairs: pd.DataFrame) -> Sequence[pd.DataFrame]:
        """The pairs in batches, in order."""
        return cut_batches(pairs, self.batch)


REMEDIES = {
    "weights": "use the file of the track, or the version of the package that docs/track.md names",
    "images": "install the versions of Pillow and NumPy that docs/track.md names, or copy the data set again",
}


def name_by_path(dataset: Dataset) -> Dataset:
    """The data set with the path of each file as its id, which does not depend on the layout of its tables."""
    if not isinstance(dataset, ImageFolder):
        return dataset
    paths = dataset.index["path"].str.removeprefix("images/")
    return replace(dataset, index=dataset.index.set_index(paths.rename("image_id")))


def find_pairs(spec: Spec, dataset: Dataset) -> pd.DataFrame:
    """The pairs of a track, with the columns of `Track.pairs`; UserError where the data set lacks an image."""
    if absent := sorted({*spec.pairs.to_numpy().ravel()} - {*map(str, dataset.index.index), ""}):
        raise UserError(f"{dataset.name} has no image {absent[0]}, which {spec.name} needs: copy the data set again")
    labels = dataset.index["label"].loc[spec.pairs["query_id"]].to_numpy()
    return spec.pairs.assign(negative_id="", kind="track", query_label=labels)


def with_controls(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs, then their controls: the queries with another reference, and with themselves."""
    controlled = pairs[pairs["other_id"] != ""]
    others = [controlled.assign(reference_id=controlled[f"{side}_id"]) for side in ("other", "query")]
    return pd.concat([pairs, *others], ignore_index=True)


def name_files(pairs: pd.DataFrame) -> list[str]:
    """The file of the map of each pair."""
    return [pair_file(query, reference) for query, reference in list_ids(pairs)]


def list_ids(pairs: pd.DataFrame) -> list[tuple[str, str]]:
    """query_id and reference_id of each pair."""
    return list(zip(pairs["query_id"].astype(str), pairs["reference_id"].astype(str), strict=True))


def images_digest(dataset: Dataset, image_ids: Iterable[str]) -> str:
    """The SHA-256 of images: bytes of files and their boxes, or pixels and masks of those that are rendered."""
    found = hashlib.sha256()
    for image_id in image_ids:
        found.update(image_id.encode() + b"\0")
        if isinstance(dataset, ImageFolder):
            row = dataset.index.loc[image_id]
            found.update(digest(resolve_inside(dataset.root, row.path)).encode())
            found.update(np.asarray(row.box if row.box is not None else (), dtype=np.float64).tobytes())
            continue
        sample = dataset.sample(image_id)
        found.update((sample.image * 255).round().byte().numpy().tobytes())
        for name, mask in sorted(sample.masks.items()):
            found.update(name.encode() + mask.numpy().tobytes())
    return found.hexdigest()


def without_answers(pairs: PairBatch) -> PairBatch:
    """The pairs with what a method may read: ids and images, and neither regions nor redrawn parts."""
    return replace(pairs, masks={}, keypoints=None, reference_keypoints=None, others={}, redraws=None)
