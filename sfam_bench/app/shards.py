"""Compute one shard of a planned evaluation, batch by batch."""

import logging
import signal
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file

from sfam_bench.app.cli import explain_error
from sfam_bench.app.evaluation import Bench, Evaluation, write
from sfam_bench.app.stored import admit_config
from sfam_bench.app.work import Perform
from sfam_bench.core.errors import UserError
from sfam_bench.core.provenance import config_hash, differences
from sfam_bench.core.records import PairBatch
from sfam_bench.core.signals import Interrupted, catch_signals
from sfam_bench.core.stream import prefetch
from sfam_bench.datasets.batches import load_batch
from sfam_bench.evaluation.evaluate import BatchResult
from sfam_bench.jobs.job import Job
from sfam_bench.jobs.plan import FILE, PAIRS, Plan, Shard
from sfam_bench.retrieval.recall import Catalogue
from sfam_bench.runs.store import RunStore, frozen_passes

GALLERY = "gallery.safetensors"
SKIPPED = ("query_id", "reference_id", "why", "traceback")
Skipped = tuple[str, str, str, str]
log = logging.getLogger(__name__)


class IncompleteError(UserError):
    """A shard that finished without some of its pairs; `facts` are for its note."""

    def __init__(self, message: str, facts: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.facts = facts


@contextmanager
def shard_worker(root: Path, plan: Plan, job: Job, allow: Sequence[str]) -> Iterator[Perform]:
    """A worker for shards."""
    worker = Worker.of(root, plan, plan.by_id[job.id], allow)
    yield lambda _, stop_at: worker.run(stop_at)


@dataclass
class Worker:
    """One process that computes one shard; `since` is the time of its processor cores when it began with it."""

    root: Path
    plan: Plan
    shard: Shard
    store: RunStore
    frames: list[pd.DataFrame]
    bench: Bench
    catalogue: Catalogue
    since: float
    spent: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, root: Path, plan: Plan, shard: Shard, allow: Sequence[str] = ()) -> "Worker":
        """Build the evaluation of the plan, and check that it is unchanged."""
        since = process_time()
        plan.check(root)
        cfg = admit_config(plan.config, root / FILE, allow)
        torch.set_num_threads(plan.passes["threads"])  # which may change the last bits
        evaluation = Evaluation.of(cfg)
        if config_hash(evaluation.identity) != plan.facts["identity"]:
            raise UserError(f"model or data set are no longer those of the plan {root}: restore them, or plan again")
        frames = evaluation.frames(pd.read_parquet(root / PAIRS))
        made = evaluation.prepare_explainers()
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
        return cls(root, plan, shard, RunStore(root, plan.key, plan.passes), frames, bench, catalogue, since)

    def run(self, stop_at: Sequence[signal.Signals]) -> dict[str, Any]:
        """Compute and write each missing batch; the number of pairs, the seconds of each method and of all cores.

        Interrupted, between two batches, at a signal; IncompleteError where pairs could not be explained.
        """
        due = [number for number in self.shard.batches if not self.store.has_chunk(number)]
        skipped: list[dict[str, Any]] = []
        with catch_signals(stop_at) as request:
            for number, explained, left in self.explain_batches(due):
                write(self.store, number, self.frames[number], explained, [one[:3] for one in left])
                self.spent.update(explained.seconds)
                skipped += [dict(zip(("batch", *SKIPPED), (number, *one), strict=True)) for one in left]
                if request.number is not None and number != due[-1]:
                    raise Interrupted(request.number, f"batch {number}")
        pairs = sum(len(self.frames[number]) for number in due)
        facts = {"pairs": pairs, "spent": dict(self.spent), "core_seconds": process_time() - self.since}
        if skipped:
            pair, why = " with ".join(skipped[0][name] for name in SKIPPED[:2]), skipped[0]["why"]
            message = f"{len(skipped)} of {pairs} pairs could not be explained, first {pair}: {why}"
            cause = RuntimeError(skipped[0]["traceback"])
            raise IncompleteError(message, {**facts, "skipped": skipped}) from cause
        return facts

    def explain_batches(self, due: Sequence[int]) -> Iterator[tuple[int, BatchResult, list[Skipped]]]:
        """Explain each batch; if a batch fails, explain it pair by pair and leave out those that fail."""
        for number, batch in zip(due, prefetch(self.load, [self.frames[number] for number in due]), strict=True):
            try:
                if isinstance(batch, Exception):
                    raise batch
                whole: tuple[BatchResult, list[Skipped]] = self.explain(batch), []
            except Exception as error:  # of a method, a metric, a file: anything
                log.warning("batch %d cannot be explained as a whole (%s): pair by pair", number, explain_error(error))
                whole = self.explain_singly(self.frames[number])
            yield number, *whole

    def load(self, frame: pd.DataFrame) -> PairBatch | Exception:
        """A batch, or the error on reading it."""
        try:
            return load_batch(self.bench.evaluation.inputs.dataset, frame)
        except Exception as error:
            return error

    def explain(self, batch: PairBatch) -> BatchResult:
        """One batch, explained."""
        return next(self.bench.explain([batch], self.catalogue))

    def explain_singly(self, frame: pd.DataFrame) -> tuple[BatchResult, list[Skipped]]:
        """The results of the pairs that can be explained, and why the others cannot."""
        good, left = BatchResult([]), list[Skipped]()
        for at, (query, reference) in enumerate(zip(frame["query_id"], frame["reference_id"], strict=True)):
            try:
                found = self.explain(load_batch(self.bench.evaluation.inputs.dataset, frame[at : at + 1]))
            except Exception as error:
                left.append((query, reference, explain_error(error), traceback.format_exc()))
                continue
            maps = {name: torch.cat([good.maps.get(name, made[:0]), made]) for name, made in found.maps.items()}
            took = Counter(good.seconds) + Counter(found.seconds)
            good = BatchResult(good.records + found.records, maps, dict(took), good.curves + found.curves)
        return good, left
