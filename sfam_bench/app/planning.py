"""Freeze an evaluation in a plan: choose its pairs, measure its first batch, cut it into shards."""

import os
import shutil
import time
from pathlib import Path

import pandas as pd
import torch
import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig
from safetensors.torch import save

from sfam_bench.app.evaluation import Bench, Evaluation, write, write_pairs
from sfam_bench.app.rehearsal import check_inputs
from sfam_bench.app.settings import resolve
from sfam_bench.app.shards import GALLERY
from sfam_bench.app.stored import list_packages
from sfam_bench.core.errors import UserError
from sfam_bench.core.files import atomic, check_writable, digest
from sfam_bench.core.provenance import config_hash, differences, running_code
from sfam_bench.datasets import pairs as pairing
from sfam_bench.datasets.batches import load_batch
from sfam_bench.evaluation.evaluate import count_passes, own_passes
from sfam_bench.jobs.plan import FILE, PAIRS, Plan, count_shards, cut_shards
from sfam_bench.jobs.status import format_duration
from sfam_bench.runs.continued import EVALUATING, PLANNING, is_begun, refuse_results
from sfam_bench.runs.manifests import read_manifest
from sfam_bench.runs.store import RunStore, frozen_passes

CONFIG = "config.yaml"
WORKERS = (1, 8, 64)


def plan(cfg: DictConfig) -> None:
    """Write plan.json and the files that tasks need; an existing plan of the same config is kept."""
    root = Path(cfg.run_dir)
    check_writable(root)
    root.mkdir(parents=True, exist_ok=True)
    before = {path.name for path in root.iterdir()}
    try:
        with FileLock(root / PLANNING, timeout=1):
            freeze_plan(cfg, root)
    except Timeout as error:
        raise UserError(f"another plan is being made in {root}: wait for it, or choose another run_dir") from error
    except UserError:
        if {path.name for path in root.iterdir()} == before | {PLANNING} and PLANNING not in before:  # nothing begun
            (root / PLANNING).unlink()
            if not before:
                shutil.rmtree(root, ignore_errors=True)
        raise


def freeze_plan(cfg: DictConfig, root: Path) -> None:
    """Write the plan; the caller holds the lock of the folder."""
    torch.set_num_threads(max(1, min(cfg.cluster.cpus, len(os.sched_getaffinity(0)))))  # what a job has, at most
    evaluation = Evaluation.of(cfg)
    identity = config_hash(evaluation.identity)
    if (root / FILE).is_file():
        known = Plan.read(root)
        known.check(root)
        if known.facts["identity"] != identity:
            was = yaml.safe_load((root / CONFIG).read_text())
            changed = differences(was, evaluation.identity)
            raise UserError(f"{root} has the plan of another config ({changed}): choose another run_dir")
        print(f"already planned: {describe_plan(known)}")
        return
    if (root / "manifest.json").is_file() and read_manifest(root).get("done"):
        raise UserError(f"{root} has a finished evaluation: choose another run_dir")
    if (root / EVALUATING).exists():
        raise UserError(
            f"{root} has an evaluation without a plan: continue it with sfam-bench evaluate and resume=true, or choose "
            "another run_dir"
        )
    resume = is_resumable(root, identity)
    refuse_results(root, resume)
    if (root / "manifest.json").is_file():  # early if continued; a new folder is made last
        RunStore.create(root, evaluation.identity, evaluation.facts, resume)
    check_inputs(evaluation)
    gallery = evaluation.embed_images()
    pairs = evaluation.select_pairs(gallery)
    frames = evaluation.frames(pairs)
    bench = evaluation.try_batch(frames[0], len(pairs))
    RunStore.create(root, evaluation.identity, evaluation.facts, resume)
    mode = {name: bench.passes.facts[name] for name in ("mode", "batch")}
    passes = frozen_passes(bench.facts)
    decides = {"identity": identity, "code": running_code(), "passes": passes, "pairs": pairs.to_csv(index=False)}
    store = RunStore(root, config_hash(decides), passes)
    with atomic(root / GALLERY) as temporary:
        temporary.write_bytes(save({"gallery": gallery.contiguous()}))  # whose errors are OSError, as of a full disk
    write_pairs(store, pairs)
    evaluation.write_images(store, pairs)
    taken = passes_per_pair(evaluation, bench, frames[0])
    rate, size = (cfg.images_per_second or 0) / max(taken, 1), 0.0
    if not rate:  # also computes the first batch; skipped if images_per_second is given
        start = time.perf_counter()
        batch = load_batch(evaluation.inputs.dataset, frames[0])
        write(store, 0, frames[0], next(bench.explain([batch], evaluation.catalogue(gallery))))
        rate = len(batch) / (time.perf_counter() - start)
        size = store.size(0) / len(batch)
    sizes = [len(frame) for frame in frames]
    count = cfg.shards or count_shards(len(pairs), rate, cfg.task_minutes, cfg.workers or 1)
    facts = {
        "references": pairing.references_hash(pairs),
        "identity": identity,
        "passes_per_pair": taken,
        **evaluation.properties(gallery),
        **bench.facts,
        "core_hours": time.process_time() / 3600,  # of planning; the merged run adds its shards
    }
    config = {**resolve(cfg), "passes": {**resolve(cfg)["passes"], **mode, "seconds": 0.2}}
    made = Plan(
        key=store.key,
        code=running_code(),
        folder=str(Path.cwd()),
        config=config,
        passes=passes,
        left_out=bench.left_out or {},
        batches=sizes,
        rate=rate,
        size=size,
        shards=cut_shards(sizes, count, store.key),
        frozen={name: digest(root / name) for name in (GALLERY, PAIRS, CONFIG)},
        facts=facts,
    )
    store.write_manifest({**read_manifest(root), "shards": len(frames)})  # for reports of an unfinished run
    made.write(root)
    print(f"planned: {describe_plan(made)}")
    if packages := list_packages(made.config):
        print(f"  it names objects of {', '.join(packages)}: run it with allow=[{','.join(packages)}]")


def is_resumable(root: Path, identity: str) -> bool:
    """Whether a folder has a stopped plan of this config: its manifest, or files written before it."""
    if (root / "manifest.json").is_file():
        return True
    found = {path.name for path in root.iterdir() if not path.name.startswith(".")}
    same = CONFIG not in found or config_hash(yaml.safe_load((root / CONFIG).read_text())) == identity
    return same and is_begun(root)


def passes_per_pair(evaluation: Evaluation, bench: Bench, frame: pd.DataFrame) -> float:
    """The maximal number of forward passes per pair, over all methods and metrics."""
    model, cfg = evaluation.inputs.model, evaluation.cfg
    query = load_batch(evaluation.inputs.dataset, frame[:1]).query.to(model.device)
    own = own_passes(bench.explainers.values(), model.encode(query), cfg.maps.save)
    return float(count_passes(evaluation.metrics.values(), len(bench.explainers), 1, query[0, 0].numel(), own))


def describe_plan(plan: Plan) -> str:
    """Shards, hours and gigabytes of a plan, in one line."""
    longest = max(plan.pairs_of(shard) for shard in plan.shards)
    batch = max(plan.batches) / plan.rate
    counts = [n for n in WORKERS if n == 1 or n <= len(plan.shards)]
    lines = [
        f"{plan.pairs} pairs in {len(plan.batches)} batches, {len(plan.shards)} shards of at most {longest} pairs",
        f"{plan.facts['passes_per_pair']:,.0f} forward passes a pair, most of them of perturbed images",
        f"{plan.rate:.3g} pairs a second: {format_duration(longest / plan.rate)} a shard, {format_duration(batch)} a "
        "batch, which is what a killed task loses",
        "with " + ", ".join(f"{n} workers {format_duration(compute_makespan(plan, n))}" for n in counts),
    ]
    if plan.size:
        lines.append(f"{plan.size * plan.pairs / 1e9:.3g} GB on disk ({plan.size / 1e3:.3g} kB a pair)")
    return "\n  ".join(lines)


def compute_makespan(plan: Plan, workers: int) -> float:
    """Seconds until all workers are done, each taking the next shard when free."""
    free = [0.0] * workers
    for shard in plan.shards:
        at = free.index(min(free))
        free[at] += plan.pairs_of(shard) / plan.rate
    return max(free)
