"""Compute one shard of a planned evaluation, piece by piece; the command that any scheduler calls."""

import logging
import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file

from sfam_bench.app.cli import one_line
from sfam_bench.app.evaluation import Bench, Evaluation, write
from sfam_bench.app.stored import stored
from sfam_bench.core.errors import UserError
from sfam_bench.core.provenance import config_hash, differences
from sfam_bench.core.records import PairBatch
from sfam_bench.core.signals import ASKED, listening
from sfam_bench.core.stream import prefetched
from sfam_bench.datasets.pairs import load_batch
from sfam_bench.evaluation.evaluate import BatchResult
from sfam_bench.jobs.notes import leave, running
from sfam_bench.jobs.plan import FILE, PAIRS, Plan, Shard
from sfam_bench.retrieval.recall import Catalogue
from sfam_bench.runs.store import RunStore, frozen_passes

GALLERY = "gallery.safetensors"
SKIPPED = ("query_id", "reference_id", "why", "traceback")
Skipped = tuple[str, str, str, str]
log = logging.getLogger(__name__)


def work(root: Path, shard_id: str, stop_at: Sequence[signal.Signals] = ASKED, allow: Sequence[str] = ()) -> int | None:
    """Compute what is missing of a shard; the number of the signal that stopped it, or nothing.

    `allow` are further packages whose objects the plan may name.

    Leaves shards/ID.json when it came to the end, and failures/ID.json with the traceback when it did not.
    """
    plan = Plan.read(root)
    if shard_id not in plan.by_id:
        raise UserError(f"{root} has no shard {shard_id}: see submit.py status run_dir={root}")
    shard = plan.by_id[shard_id]
    with running(root, shard_id):
        try:
            return Worker.of(root, plan, shard, allow).run(stop_at)
        except Exception as error:
            leave(root, "failures", shard_id, error=one_line(error), traceback=traceback.format_exc())
            raise


@dataclass
class Worker:
    """One process at work on one shard."""

    root: Path
    plan: Plan
    shard: Shard
    store: RunStore
    frames: list[pd.DataFrame]
    bench: Bench
    catalogue: Catalogue
    spent: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, root: Path, plan: Plan, shard: Shard, allow: Sequence[str] = ()) -> "Worker":
        """Build what the plan says, and make sure that it is still the same."""
        plan.check(root)
        root = root.resolve()
        cfg = stored(plan.config, root / FILE, allow)
        try:
            os.chdir(plan.folder)  # where the config's relative paths begin
        except OSError as error:
            why = f"{error.strerror}: {plan.folder}"
            raise UserError(f"cannot enter the folder in which {root} was planned ({why}): plan again here") from error
        torch.set_num_threads(plan.passes["threads"])  # which may change the last bits
        evaluation = Evaluation.of(cfg)
        if config_hash(evaluation.identity) != plan.facts["identity"]:
            raise UserError(f"model or data set are no longer those of the plan {root}: restore them, or plan again")
        frames = evaluation.frames(pd.read_parquet(root / PAIRS))
        made = evaluation.prepared()
        explainers = {name: explainer for name, explainer in made.items() if name not in plan.left_out}
        bench = evaluation.bench(explainers, frames[shard.first], plan.pairs_of(shard))
        if changed := differences(plan.passes, frozen_passes(bench.facts)):
            raise UserError(
                f"passes cannot be computed here as in the plan {root} ({changed}): compute on such machines as "
                "planned it, or plan again"
            )
        catalogue = evaluation.catalogue(load_file(root / GALLERY)["gallery"])
        if any("gallery" in metric.needs for metric in evaluation.metrics.values()):
            catalogue = catalogue.to(evaluation.inputs.model.device)
        return cls(root, plan, shard, RunStore(root, plan.key, plan.passes), frames, bench, catalogue)

    def run(self, stop_at: Sequence[signal.Signals]) -> int | None:
        """Compute and write each batch that is missing; stops between two batches when it is asked to."""
        due = [number for number in self.shard.batches if not self.store.has_shard(number)]
        skipped: list[dict[str, Any]] = []
        with listening(stop_at) as asked:
            for number, explained, left in self.explained(due):
                write(self.store, number, self.frames[number], explained, [one[:3] for one in left])
                self.spent.update(explained.seconds)
                skipped += [dict(zip(("batch", *SKIPPED), (number, *one), strict=True)) for one in left]
                if asked.number is not None and number != due[-1]:
                    return asked.number
        self.end(sum(len(self.frames[number]) for number in due), skipped)
        return None

    def end(self, pairs: int, skipped: list[dict[str, Any]]) -> None:
        """Leave word of the shard; UserError where pairs of it could not be explained."""
        how: dict[str, Any] = {"pairs": pairs, "seconds": time.monotonic() - self.started, "spent": dict(self.spent)}
        leave(self.root, "shards", self.shard.id, state="incomplete" if skipped else "done", **how, skipped=skipped)
        if skipped:
            pair, why = " with ".join(skipped[0][name] for name in SKIPPED[:2]), skipped[0]["why"]
            cause = RuntimeError(skipped[0]["traceback"])
            raise UserError(f"{len(skipped)} of {pairs} pairs could not be explained, first {pair}: {why}") from cause
        (self.root / "failures" / f"{self.shard.id}.json").unlink(missing_ok=True)

    def explained(self, due: Sequence[int]) -> Iterator[tuple[int, BatchResult, list[Skipped]]]:
        """Each batch, explained; where it cannot be as a whole, pair by pair, without those that cannot."""
        for number, batch in zip(due, prefetched(self.loaded, [self.frames[number] for number in due]), strict=True):
            try:
                if isinstance(batch, Exception):
                    raise batch
                whole: tuple[BatchResult, list[Skipped]] = self.one(batch), []
            except Exception as error:  # of a method, a metric, a file: anything
                log.warning("batch %d cannot be explained as a whole (%s): pair by pair", number, one_line(error))
                whole = self.pair_by_pair(self.frames[number])
            yield number, *whole

    def loaded(self, frame: pd.DataFrame) -> PairBatch | Exception:
        """A batch, or why it cannot be read."""
        try:
            return load_batch(self.bench.evaluation.inputs.dataset, frame)
        except Exception as error:
            return error

    def one(self, batch: PairBatch) -> BatchResult:
        """One batch, explained."""
        return next(self.bench.explain([batch], self.catalogue))

    def pair_by_pair(self, frame: pd.DataFrame) -> tuple[BatchResult, list[Skipped]]:
        """The pairs of a batch that can be explained, and why the others cannot."""
        good, left = BatchResult([]), list[Skipped]()
        for at, (query, reference) in enumerate(zip(frame["query_id"], frame["reference_id"], strict=True)):
            try:
                found = self.one(load_batch(self.bench.evaluation.inputs.dataset, frame[at : at + 1]))
            except Exception as error:
                left.append((query, reference, one_line(error) or type(error).__name__, traceback.format_exc()))
                continue
            maps = {name: torch.cat([good.maps.get(name, made[:0]), made]) for name, made in found.maps.items()}
            took = Counter(good.seconds) + Counter(found.seconds)
            good = BatchResult(good.records + found.records, maps, dict(took), good.curves + found.curves)
        return good, left


def threads(cpus: int) -> int:
    """How many threads a task takes: what it asked for, and no more than it may use."""
    return max(1, min(cpus, len(os.sched_getaffinity(0))))
