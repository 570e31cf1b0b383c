"""A light copy of a run folder, to commit: what tables and figures need, without absolute paths."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import yaml

from sfam_bench.core.errors import UserError, first_line
from sfam_bench.core.files import digest, read_json, temporary_folder, write_json
from sfam_bench.report.page.pair_order import sort_pairs
from sfam_bench.runs.chunks import PAIR, parquet_format
from sfam_bench.runs.proof import AGAIN, DIGESTS, check_digest, file_digests
from sfam_bench.runs.reader import (
    KINDS,
    Run,
    count_batches,
    image_path,
    pairs_with_images,
    read_maps,
    read_run,
    read_tables,
)

LEVEL = 19  # of zstd: a tenth smaller than by default, and read as fast
TRAINING = ("model.json", "history.csv", "retrieval.parquet")


def keep_run(run: Path, out: Path, pictures: int = 0, curves: bool = True) -> Path:
    """Write the run folder `run`, of an evaluation or of a training, into the new folder `out`, whole or not at all.

    Records and curves become a file each; weights are left out. `pictures` is of how many pairs of each kind maps and
    images are kept: the first ones, and as many with the worst score of the first method. Without `curves` there are
    none in the copy: tables and figures of means need none, and the page draws none.
    UserError where the run is unfinished, or `out` exists.
    """
    run, out = Path(run), Path(out)
    if out.exists():
        raise UserError(f"{out} exists: remove it first, or keep the run under another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(out) as temporary:
        fresh = temporary / "run"
        fresh.mkdir()
        if (run / TRAINING[0]).is_file():
            _keep_training(run, fresh)
        else:
            _keep_evaluation(run, fresh, pictures, curves)
        fresh.rename(out)
    return out


def _keep_training(run: Path, out: Path) -> None:
    if absent := [name for name in TRAINING if not (run / name).is_file()]:
        raise UserError(f"{run} is not a finished training (no {absent[0]}): pass a run_dir of train")
    facts = read_json(run / TRAINING[0], "train again into another run_dir")
    for name in TRAINING[1:]:
        check_digest(run, facts, run / name, "train again into another run_dir")
        shutil.copyfile(run / name, out / name)
    digests = {name: digest(out / name) for name in TRAINING[1:]}
    write_json(out / TRAINING[0], {**_shorten_paths(facts), DIGESTS: digests})


def _keep_evaluation(run: Path, out: Path, pictures: int, curves: bool) -> None:
    found = read_run(run)
    for kind, schema in KINDS.items():
        table = read_tables(run, found.manifest, kind) if curves or kind != "curves" else schema.empty_table()
        pq.write_table(table, out / f"{kind}.parquet", **parquet_format(schema), compression_level=LEVEL)
    found.pairs.to_parquet(out / "pairs.parquet", index=False, compression="zstd", compression_level=LEVEL)
    if (run / "config.yaml").is_file():
        check_digest(run, found.manifest, run / "config.yaml")
        try:
            config = _shorten_paths(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise UserError(f"cannot read {run / 'config.yaml'} ({first_line(error)}): {AGAIN}") from error
        (out / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    if pictures:
        _keep_pictures(found, out, pictures)
    merged = {"batches": count_batches(run, found.manifest)}
    write_json(out / "manifest.json", {**_shorten_paths(found.manifest), "merged": merged, DIGESTS: file_digests(out)})


def _keep_pictures(run: Run, out: Path, count: int) -> None:
    """Write the maps as one chunk, and the images of the pairs."""
    there = pairs_with_images(run).drop_duplicates(PAIR)
    worst = pd.DataFrame([pair.row for pair in sort_pairs(there, run.matrix, run.manifest)], columns=there.columns)
    few = pd.concat([pairs.groupby("kind", sort=False).head(count) for pairs in (there, worst)])
    wanted = set(few[[*PAIR]].itertuples(index=False, name=None))
    (out / "images").mkdir()
    for name in sorted({name for pair in wanted for name in pair}):
        check_digest(run.root, run.manifest, image_path(run.root, name))
        shutil.copyfile(image_path(run.root, name), image_path(out, name))
    if maps := read_maps(run.root, wanted, points=True):
        (out / "maps").mkdir()
        np.savez_compressed(out / "maps" / "00000.npz", **maps)  # type: ignore[arg-type]


def _shorten_paths(value: Any) -> Any:
    """The same value; paths that are absolute or lead outside become their last two names."""
    if isinstance(value, dict):
        return {key: _shorten_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shorten_paths(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~", "..")):
        return "/".join(_names(value))
    return value


def _names(path: str) -> Iterator[str]:
    yield from [name for name in Path(path).parts if name not in ("/", "..", "~")][-2:]
