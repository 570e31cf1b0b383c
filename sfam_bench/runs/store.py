"""Run folders: a manifest, the pairs, and chunks of records, curves and maps, each written whole or not at all."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import yaml
from PIL import Image

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import atomic, digest, read_json, remove_stale_temporaries, write_json, write_text
from sfam_bench.core.provenance import Config, config_hash, run_facts, running_code, to_plain
from sfam_bench.runs.chunks import Chunk, check_code_and_mode, chunk_path, chunk_paths, read_footer, write_chunk
from sfam_bench.runs.continued import Resume, check_same, claim, is_begun, refuse_results, release
from sfam_bench.runs.manifests import read_manifest
from sfam_bench.runs.proof import DIGESTS, FROZEN, RESTORE, file_digests, read_pairs
from sfam_bench.runs.reader import image_path, list_codes

PASSES = ("mode", "batch", "threads", "device")  # of how forward passes are taken, what may change values

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunStore:
    """Writes one run folder; make it with `RunStore.create`. Every chunk records the `key` of its run.

    It also records the mode of `passes` and the hash of the code; `codes` are the hashes of code whose chunks
    are continued.
    """

    root: Path
    key: str = ""
    passes: Mapping[str, Any] = field(default_factory=dict)
    codes: tuple[str, ...] = field(default_factory=lambda: (running_code(),))

    @classmethod
    def create(
        cls, root: Path, config: Config, facts: Mapping[str, Any], resume: Resume = False, key: str = ""
    ) -> "RunStore":
        """Start the run folder `root`, or continue it if `resume` is set and config and code agree.

        `config` must hold only what changes the numbers: its hash decides whether a run may be continued, and is the
        key unless another is given. The mode in `facts["passes"]` is frozen with that; of a folder that is continued it
        stays as it was. resume="anyway" continues with other code, which the manifest lists under `resumed`.
        """
        store = cls(Path(root), key or config_hash(config))
        refuse_results(store.root, resume)
        if (store.root / "manifest.json").exists() or not (is_begun(store.root) or not store.root.exists()):
            return store._continued(config, facts, resume)
        claim(store.root, resume)
        created = {"created": datetime.now(UTC).isoformat(timespec="seconds"), **run_facts()}
        try:
            text = yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)
            write_text(store.root / "config.yaml", text)
            store.write_manifest({**facts, **created, "config_hash": config_hash(config), "done": False})
        except Exception:
            release(store.root)
            raise
        return replace(store, passes=frozen_passes(facts))

    def _continued(self, config: Config, facts: Mapping[str, Any], resume: Resume) -> "RunStore":
        manifest = read_manifest(self.root)
        late = {name: value for name, value in facts.items() if name not in manifest}
        if other := check_same(self.root, manifest, config, resume):
            late["resumed"] = [*(manifest.get("resumed") or []), other]
        if late:
            self.write_manifest(manifest := {**manifest, **late})
        made = [manifest, *(manifest.get("resumed") or [])]
        return replace(
            self, passes=frozen_passes(manifest), codes=tuple(dict.fromkeys(one.get("code") for one in made))
        )

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest; empty before the run has started."""
        return read_manifest(self.root) if (self.root / "manifest.json").exists() else {}

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Replace the manifest and update the digests of the run's files; those of config and pairs are kept."""
        frozen = {name: known for name, known in (manifest.get(DIGESTS) or {}).items() if name in FROZEN}
        digests = {**file_digests(self.root), **frozen}
        write_json(self.root / "manifest.json", to_plain({**manifest, DIGESTS: digests}))

    def write_pairs(self, pairs: pd.DataFrame) -> None:
        """Write the pairs of the run: ids, kind, classes and score.

        UserError where the run has begun with others.
        """
        manifest, path = read_manifest(self.root), self.root / "pairs.parquet"
        with atomic(path) as temporary:
            pairs.to_parquet(temporary, index=False)
            if (manifest.get(DIGESTS) or {}).get(path.name, found := digest(temporary)) != found:
                raise UserError(f"{path} was lost, and the pairs selected now differ: {RESTORE}")
        self.write_manifest(manifest)

    def read_pairs(self) -> pd.DataFrame | None:
        """The pairs of a started run; None if it has not started, or they were lost."""
        path = self.root / "pairs.parquet"
        if not path.exists() or path.name not in (manifest := read_manifest(self.root)).get(DIGESTS, ()):
            return None
        return read_pairs(self.root, manifest, f"delete it and evaluate with resume=true, or {RESTORE}")

    def write_chunk(
        self,
        number: int,
        records: Sequence[Any] | pd.DataFrame,
        maps: Mapping[str, np.ndarray] | None = None,
        curves: Sequence[Any] = (),
        skipped: Sequence[tuple[str, str, str]] = (),
    ) -> None:
        """Write one chunk, records last: a chunk is complete when its records can be read.

        Records are a frame, or a sequence of dicts or dataclasses with the fields of `Record`; curves have the fields
        of `Curve`; skipped are pairs that could not be explained: query, reference, and why.
        """
        write_chunk(self.root, number, self.key, records, maps, curves, skipped, self.passes)

    def remove_stale(self) -> None:
        """Remove the temporary files of killed writers."""
        for folder in (self.root, *(self.root / kind for kind in ("records", "maps", "curves", "costs"))):
            remove_stale_temporaries(folder)

    def write_cost(self, number: int, pairs: int, seconds: Mapping[str, float], core_seconds: float) -> None:
        """Write the seconds of each explainer for the pairs of a chunk, apart from the reproducible results.

        `core_seconds` is the time of all processor cores for the chunk, metrics and setting up included.
        """
        (self.root / "costs").mkdir(exist_ok=True)
        write_json(
            self.root / "costs" / f"{number:05d}.json",
            {"pairs": pairs, "seconds": dict(seconds), "core_seconds": core_seconds},
        )

    def cost(self, counted: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """The cost of each explainer: as counted, and milliseconds per pair over all chunks."""
        notes = self._cost_notes()
        spent, pairs = Counter[str](), sum(note["pairs"] for note in notes)
        for note in notes:
            spent.update(note["seconds"])
        return {
            name: {**one, **({"milliseconds": 1000 * spent[name] / pairs} if pairs else {})}
            for name, one in counted.items()
        }

    def core_hours(self) -> float | None:
        """The time of all processor cores over all chunks; None if that of a chunk was not recorded."""
        spent = [note["core_seconds"] for note in self._cost_notes() if "core_seconds" in note]
        whole = len(spent) == len(chunk_paths(self.root))
        return sum(spent) / 3600 if spent and whole else None

    def _cost_notes(self) -> list[dict[str, Any]]:
        paths = sorted((self.root / "costs").glob("[0-9]*.json"))
        return [read_json(path, "delete it and evaluate with resume=true: only times are lost") for path in paths]

    def path(self, number: int) -> Path:
        """The path of the records of a chunk."""
        return chunk_path(self.root, "records", number)

    def has_chunk(self, number: int) -> bool:
        """Whether the chunk exists with this store's key and no skipped pairs, by its footer."""
        facts = read_footer(self.path(number))
        if (facts.get("key"), facts.get("batch"), facts.get("skipped")) != (self.key, number, []):
            return False
        try:
            check_code_and_mode(self.path(number), facts, self.passes, self.codes)
        except ValueError:
            return False
        return all(chunk_path(self.root, kind, number).exists() for kind in ("maps", "curves") if facts[kind])

    def due(self, chunks: int) -> list[int]:
        """The chunks that are missing or invalid; invalid ones are set aside, with a warning, and computed again."""
        found = []
        for number in range(chunks):
            if self.path(number).exists() and (wrong := self.check_chunk(number)):
                log.warning("set aside, to be computed again: %s", wrong)
                self.set_aside(number)
            if not self.has_chunk(number):
                found.append(number)
        return found

    def check_chunk(self, number: int) -> str:
        """Read a chunk and describe its error in one line; empty if it is valid."""
        try:
            Chunk.read(self.root, number, self.key, self.passes, self.codes)
        except ValueError as error:
            return str(error)
        return ""

    def set_aside(self, number: int) -> None:
        """Rename an invalid chunk, so that it is computed again and can be inspected."""
        path, count = self.path(number), 0
        while (aside := path.with_name(f"{path.name}.bad{count or ''}")).exists():
            count += 1
        with suppress(FileNotFoundError):  # another has done so
            path.rename(aside)

    def size(self, number: int) -> int:
        """The bytes of a chunk on disk."""
        paths = [chunk_path(self.root, kind, number) for kind in ("records", "maps", "curves")]
        return sum(path.stat().st_size for path in paths if path.exists())

    def write_image(self, image_id: str, pixels: np.ndarray) -> None:
        """Write an image as the model saw it, uint8 (rows, cols, 3)."""
        with atomic(image_path(self.root, image_id)) as temporary:
            Image.fromarray(pixels).save(temporary, format="PNG")

    def silent(self, metrics: Iterable[str]) -> list[str]:
        """The metrics without a record in any chunk, because data that they need is missing."""
        heard = {
            name
            for path in chunk_paths(self.root)
            for name in pq.read_table(path, columns=["metric"])["metric"].unique().to_pylist()
        }
        return [name for name in metrics if name not in heard]

    def finish(self, **facts: Any) -> None:
        """Mark the run as complete, and add costs and the chunks by code version to its manifest."""
        manifest = read_manifest(self.root)
        costs: dict[str, Any] = {"cost": self.cost(manifest["cost"])} if manifest.get("cost") else {}
        if (hours := self.core_hours()) is not None:
            costs["core_hours"] = hours
        codes = list_codes({int(path.stem): read_footer(path) for path in chunk_paths(self.root)})
        self.write_manifest(
            {**manifest, **costs, **({"codes": codes} if len(codes) > 1 else {}), **facts, "done": True}
        )


def frozen_passes(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The mode of forward passes in a manifest, which all chunks of a run share."""
    return {name: value for name, value in (facts.get("passes") or {}).items() if name in PASSES}
