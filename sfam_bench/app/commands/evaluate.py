"""Choose pairs, explain them with every method, measure every map; leaves a self-sufficient run folder.

Examples:

    sfam-bench evaluate experiment=planted model.checkpoint=RUN/model.safetensors run_dir=results/mine
    sfam-bench evaluate experiment=cub dataset.root=CUB_200_2011 'explainer=[sfam,grad_cam]' pairs.count=20
    sfam-bench evaluate experiment=planted model.checkpoint=RUN/model.safetensors run_dir=results/mine resume=true

Settings: run_dir, pairs.kinds, pairs.count, maps.save, split, batch_size, device, resume, seed, unsupported.
"""

from pathlib import Path

from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.evaluation import Evaluation, write
from sfam_bench.app.parts import group_by_need, open_run, restore_passes
from sfam_bench.app.rehearsal import check_inputs
from sfam_bench.core.files import acquire_lock, check_writable
from sfam_bench.core.stream import progress
from sfam_bench.datasets import pairs as pairing
from sfam_bench.runs.store import RunStore

LOCK = ".evaluating"


@script("evaluate")
def main(cfg: DictConfig) -> None:
    check_writable(Path(cfg.run_dir))
    evaluation = Evaluation.of(cfg)
    store = open_run(Path(cfg.run_dir), evaluation.identity, cfg.resume)  # early; a new folder is made last
    manifest = store.manifest
    restore_passes(cfg, evaluation.inputs.model, manifest.get("passes") or {})
    check_inputs(evaluation)
    gallery = evaluation.embed_images()
    pairs = store.read_pairs()
    pairs = evaluation.select_pairs(gallery) if pairs is None else pairs
    frames = evaluation.frames(pairs)
    due = store.due(len(frames))
    count = sum(len(frames[number]) for number in due)
    bench = None
    if due and store.passes:
        bench = evaluation.restore_bench(frames[due[0]], count, manifest)
    elif due:
        bench = evaluation.try_batch(frames[due[0]], count)
    facts = {**evaluation.facts, **(bench.facts if bench else {}), "shards": len(frames)}
    store = RunStore.create(store.root, evaluation.identity, facts, cfg.resume)
    with acquire_lock(store.root / LOCK, f"{store.root} is being evaluated"):
        store.write_pairs(pairs)
        if bench:
            stream = pairing.load_batches(evaluation.inputs.dataset, [frames[number] for number in due])
            shards = bench.explain(stream, evaluation.catalogue(gallery))
            for number, shard in zip(due, progress(shards, "evaluate", len(due), "batch"), strict=True):
                store.write_cost(number, len(frames[number]), shard.seconds)
                write(store, number, frames[number], shard)
        evaluation.write_images(store, pairs)
        silent = store.silent(name for name, metric in evaluation.metrics.items() if getattr(metric, "share", 1) == 1)
        store.finish(shards=len(frames), retrieval=evaluation.retrieval(gallery), skipped=silent)
    for wanted, names in group_by_need(silent, evaluation.metrics).items():
        print(f"skipped on {evaluation.inputs.dataset.name}, which lacks {wanted}: {', '.join(names)}")
    print(f"records of {len(pairs)} pairs: {cfg.run_dir}")
