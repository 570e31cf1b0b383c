"""A run folder made light enough to be committed: all that tables and figures need, and no path of a machine."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from sfam_bench.errors import UserError
from sfam_bench.pieces import CURVES, FORMAT, PAIR, SCHEMA, read_table
from sfam_bench.report.pair_order import ordered
from sfam_bench.store import Run, image_path, read_manifest, read_maps, read_run, tables_of

TRAINING = ("model.json", "history.csv", "retrieval.parquet")


def keep(run: Path, out: Path, pictures: int = 0) -> Path:
    """Write the run folder `run`, of an evaluation or of a training, into the new folder `out`, whole or not at all.

    Records and curves become a file each; weights are left out. `pictures` is of how many pairs of each kind maps and
    images are kept: of so many first ones, and of as many on which the first method does worst.
    UserError where the run is unfinished, or `out` exists.
    """
    run, out = Path(run), Path(out)
    if out.exists():
        raise UserError(f"{out} exists: remove it first, or keep the run under another name")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        fresh = Path(temporary) / "run"
        fresh.mkdir()
        if (run / TRAINING[0]).is_file():
            _keep_training(run, fresh)
        else:
            _keep_evaluation(run, fresh, pictures)
        fresh.rename(out)
    return out


def _keep_training(run: Path, out: Path) -> None:
    if absent := [name for name in TRAINING if not (run / name).is_file()]:
        raise UserError(f"{run} is no finished training: it has no {absent[0]}; pass a run_dir of train.py")
    facts = json.loads((run / TRAINING[0]).read_text(encoding="utf-8"))
    _write_json(out / TRAINING[0], facts)
    for name in TRAINING[1:]:
        shutil.copyfile(run / name, out / name)


def _keep_evaluation(run: Path, out: Path, pictures: int) -> None:
    found, manifest = read_run(run), read_manifest(run)
    merged = {"batches": manifest.get("merged", {}).get("batches") or tables_of(run, "records", manifest)[0]}
    for kind, schema in (("records", SCHEMA), ("curves", CURVES)):
        paths = tables_of(run, kind, manifest)[1]
        parts = [read_table(path).replace_schema_metadata(None) for path in paths if path.exists()]
        table = pa.concat_tables([part.cast(schema) for part in parts] or [schema.empty_table()])
        pq.write_table(table.unify_dictionaries().combine_chunks(), out / f"{kind}.parquet", **FORMAT)
    found.pairs.to_parquet(out / "pairs.parquet", index=False)
    _write_json(out / "manifest.json", {**manifest, "merged": merged})
    if (run / "config.yaml").is_file():
        config = _placeless(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")))
        (out / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    if pictures:
        _keep_pictures(found, out, pictures)


def _keep_pictures(run: Run, out: Path, count: int) -> None:
    """Maps as one shard, and the images that the pairs show."""
    there = run.pairs.drop_duplicates(PAIR)
    seen = [image_path(run.root, pair).is_file() for pair in there["query_id"]]
    there = there[np.array(seen) & [image_path(run.root, pair).is_file() for pair in there["reference_id"]]]
    worst = pd.DataFrame([pair.row for pair in ordered(there, run.records, run.manifest)], columns=there.columns)
    few = pd.concat([pairs.groupby("kind", sort=False).head(count) for pairs in (there, worst)])
    wanted = set(few[[*PAIR]].itertuples(index=False, name=None))
    (out / "images").mkdir()
    for name in sorted({name for pair in wanted for name in pair}):
        shutil.copyfile(image_path(run.root, name), image_path(out, name))
    if maps := read_maps(run.root, wanted, points=True):
        (out / "maps").mkdir()
        np.savez_compressed(out / "maps" / "00000.npz", **maps)  # type: ignore[arg-type]


def _write_json(path: Path, facts: Any) -> None:
    path.write_text(json.dumps(_placeless(facts), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _placeless(value: Any) -> Any:
    """The same with each absolute path, and each that leads out, as its last two names."""
    if isinstance(value, dict):
        return {key: _placeless(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_placeless(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~", "..")):
        return "/".join(_names(value))
    return value


def _names(path: str) -> Iterator[str]:
    yield from [name for name in Path(path).parts if name not in ("/", "..", "~")][-2:]
