"""Run folders: a manifest, the pairs, and shards of records and maps, each written whole or not at all."""

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml
from PIL import Image

from sfam_bench.errors import UserError
from sfam_bench.files import atomic
from sfam_bench.pieces import (
    CURVES,
    PLAIN,
    POINT_TO_POINT,
    Piece,
    check_made,
    line,
    place,
    read_table,
    says,
    write_piece,
)
from sfam_bench.provenance import Config, running_code, config_hash, plain, run_facts


@dataclass(frozen=True)
class Run:
    """A run folder, read; `unfinished` says how much of it is there, where not all is."""

    root: Path
    manifest: dict[str, Any]
    pairs: pd.DataFrame
    records: pd.DataFrame
    unfinished: str = ""


@dataclass(frozen=True)
class RunStore:
    """Writes one run folder; make it with `RunStore.create`. Every shard carries the `key` of what made it.

    It carries the mode of `passes` and the hash of the running code, too; `codes` are the hashes of code whose shards
    are continued.
    """

    root: Path
    key: str = ""
    passes: Mapping[str, Any] = field(default_factory=dict)
    codes: tuple[str, ...] = field(default_factory=lambda: (running_code(),))

    @classmethod
    def create(
        cls, root: Path, config: Config, facts: Mapping[str, Any], resume: bool = False, key: str = ""
    ) -> "RunStore":
        """Begin the run folder `root`, or continue it when `resume` is set and the configs agree.

        `config` must hold only what changes the numbers: its hash decides whether a run may be continued, and is the
        key unless another is given.
        """
        store = cls(Path(root), key or config_hash(config))
        refuse(store.root, resume)
        if _holds_results(store.root):
            if read_manifest(store.root).get("config_hash") != config_hash(config):
                raise UserError(f"run folder {root} has another config: restore it (config.yaml), or change run_dir")
            return store
        for name in ("records", "maps", "images", "curves"):
            _claim(store.root / name)
        with atomic(store.root / "config.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))
        created = {"created": datetime.now(UTC).isoformat(timespec="seconds"), **run_facts()}
        store.write_manifest({**facts, **created, "config_hash": config_hash(config), "done": False})
        return store

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Replace the manifest."""
        with atomic(self.root / "manifest.json") as temporary:
            temporary.write_text(json.dumps(plain(manifest), indent=2, ensure_ascii=False) + "\n")

    def write_pairs(self, pairs: pd.DataFrame) -> None:
        """Write which pairs the run explains: their ids, kind, classes and score."""
        with atomic(self.root / "pairs.parquet") as temporary:
            pairs.to_parquet(temporary, index=False)

    def write_shard(
        self,
        number: int,
        records: Sequence[Any] | pd.DataFrame,
        maps: Mapping[str, np.ndarray] | None = None,
        curves: Sequence[Any] = (),
        skipped: Sequence[tuple[str, str, str]] = (),
    ) -> None:
        """Write one shard, records last: a shard is complete when its records can be read.

        Records are a frame, or a sequence of dicts or dataclasses with the fields of `Record`; curves have the fields
        of `Curve`; skipped are pairs that could not be explained: query, reference, and why.
        """
        write_piece(self.root, number, self.key, records, maps, curves, skipped, self.passes)

    def path(self, number: int) -> Path:
        """Where the records of a shard lie."""
        return place(self.root, "records", number)

    def has_shard(self, number: int) -> bool:
        """Whether the shard is there, made as this store makes them and without skipped pairs, by its footer alone."""
        said = says(self.path(number))
        if (said.get("key"), said.get("batch"), said.get("skipped")) != (self.key, number, []):
            return False
        try:
            check_made(self.path(number), said, self.passes, self.codes)
        except ValueError:
            return False
        return all(place(self.root, kind, number).exists() for kind in ("maps", "curves") if said[kind])

    def check_shard(self, number: int) -> str:
        """What is wrong with a shard, in one line, with all of it read; nothing where it is sound."""
        try:
            Piece.read(self.root, number, self.key, self.passes, self.codes)
        except ValueError as error:
            return str(error)
        return ""

    def set_aside(self, number: int) -> None:
        """Rename a shard that is not sound, so that it is computed anew and can be looked at."""
        path, count = self.path(number), 0
        while (aside := path.with_name(f"{path.name}.bad{count or ''}")).exists():
            count += 1
        with suppress(FileNotFoundError):  # another has done so
            path.rename(aside)

    def size(self, number: int) -> int:
        """Bytes of a shard on disk."""
        paths = [place(self.root, kind, number) for kind in ("records", "maps", "curves")]
        return sum(path.stat().st_size for path in paths if path.exists())

    def write_image(self, image_id: str, pixels: np.ndarray) -> None:
        """Write the picture that the model saw, uint8 (rows, cols, 3), for the gallery."""
        with atomic(image_path(self.root, image_id)) as temporary:
            Image.fromarray(pixels).save(temporary, format="PNG")

    def silent(self, metrics: Iterable[str]) -> list[str]:
        """The metrics that have no record in any shard, for want of something that they need."""
        shards = (self.root / "records").glob("[0-9]*.parquet")
        heard = {name for path in shards for name in read_table(path)["metric"].unique().to_pylist()}
        return [name for name in metrics if name not in heard]

    def finish(self, **facts: Any) -> None:
        """Mark the run complete, and add late facts to its manifest."""
        self.write_manifest({**read_manifest(self.root), **facts, "done": True})


def image_path(root: Path, image_id: str) -> Path:
    """Where the picture of `image_id` lies, whatever slashes the id holds."""
    return Path(root) / "images" / f"{quote(image_id, safe='')}.png"


def read_run(root: Path, allow_unfinished: bool = False) -> Run:
    """Read a run folder, or say in one line what is wrong with it."""
    root = Path(root)
    manifest = read_manifest(root)
    there, paths = tables_of(root, "records", manifest)
    planned = manifest.get("shards", there)
    unfinished = ""
    if not manifest.get("done") or there < planned:
        unfinished = f"{there} of {planned}" if "shards" in manifest else f"{there}"
    if unfinished and not allow_unfinished:
        raise UserError(
            f"run folder {root} is unfinished: {unfinished} shards are there; continue it with resume=true (a planned "
            "one with submit.py run and merge), or read what is there with allow_unfinished=true"
        )
    tables = [read_table(path).cast(PLAIN) for path in paths]
    records = pa.concat_tables(tables or [PLAIN.empty_table()]).to_pandas()
    return Run(root, manifest, read_table(root / "pairs.parquet").to_pandas(), records, unfinished)


def tables_of(root: Path, kind: str, manifest: Mapping[str, Any]) -> tuple[int, list[Path]]:
    """How many shards a run has, and the files that hold them: one where they were merged."""
    if merged := manifest.get("merged"):
        return merged["batches"], [root / f"{kind}.parquet"]
    paths = sorted((root / kind).glob("[0-9]*.parquet"))
    return len(paths), paths


def read_manifest(root: Path) -> dict[str, Any]:
    """Read the manifest of a run folder."""
    if not Path(root).is_dir():
        raise UserError(f"there is no run folder {root}: check the path")
    if not (path := Path(root) / "manifest.json").is_file():
        raise UserError(f"{root} is no run folder: it has no manifest.json; pass the folder that an evaluation wrote")
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"cannot read {path} ({error}): evaluate again into another run_dir") from error
    return dict(manifest)


def read_maps(
    root: Path, wanted: Container[tuple[str, str]] | None = None, points: bool = False
) -> dict[str, np.ndarray]:
    """Read the raw maps of all pairs, or of the `wanted` (query_id, reference_id) alone, as one array a name.

    With `points` the large point-to-point maps stand among them, where the run kept any.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for path in sorted((Path(root) / "maps").glob("[0-9]*.npz")):
        for name, array in _read_npz(path, wanted, () if points else (POINT_TO_POINT,)).items():
            parts.setdefault(name, []).append(array)
    maps = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    if len({len(array) for array in maps.values()}) > 1:
        raise UserError(f"the map shards in {root} hold different explainers: evaluate again into another run_dir")
    return maps


def read_curves(root: Path) -> pd.DataFrame:
    """Read the raw curves of a run: explainer, curve, query_id, reference_id, and arrays of fraction and score."""
    manifest = read_manifest(root) if (Path(root) / "manifest.json").is_file() else {}
    tables = [read_table(path) for path in tables_of(Path(root), "curves", manifest)[1]]
    return pa.concat_tables(tables or [CURVES.empty_table()], promote_options="permissive").to_pandas()


def _holds_results(root: Path) -> bool:
    """Whether the folder holds more than what Hydra puts into a new one: hidden files and the log."""
    return root.exists() and any(not path.name.startswith(".") and path.suffix != ".log" for path in root.iterdir())


def refuse(root: Path, resume: bool) -> None:
    """Raise UserError where a folder holds results and is not to be continued."""
    if _holds_results(root) and not resume:
        raise UserError(f"run folder {root} exists: pass resume=true to continue it, or another run_dir")


def begin(root: Path) -> Path:
    """Make a folder for results that come all at the end (training); refuses one that holds results."""
    if _holds_results(root):
        raise UserError(f"run folder {root} exists: choose another run_dir")
    root.mkdir(parents=True, exist_ok=True)
    return root


def _claim(folder: Path) -> None:
    """Make the folder, which of two jobs with the same run folder only one can do."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UserError(f"another job has just begun the run folder {folder.parent}: choose another run_dir") from None


def _read_npz(path: Path, wanted: Container[tuple[str, str]] | None, without: Container[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            pairs = zip(arrays["query_id"].tolist(), arrays["reference_id"].tolist(), strict=True)
            chosen = np.array([wanted is None or pair in wanted for pair in pairs], dtype=bool)
            names = [name for name in arrays.files if name not in without]
            return {name: arrays[name][chosen] for name in names} if chosen.any() else {}
    except Exception as error:  # a broken zip raises half a dozen kinds
        lost = f"{path.parent.parent / 'records' / path.stem}.parquet"
        raise UserError(
            f"cannot read {path} ({line(error)}): delete it and {lost}, evaluate with resume=true"
        ) from error
