"""Choose pairs, compute their maps with each chosen method, and score the maps with each chosen metric.

The run folder then has all that `sfam-bench report` reads: config, pairs, records, curves, and maps if saved.

A pair is a query and a reference. pairs.kinds says which ones are chosen, such as nearest_positive, the nearest
neighbour of the query if that is of its class. A group is a folder of conf/, and a choice one of its files.

Examples:

    sfam-bench evaluate experiment=planted model.checkpoint=RUN/model.safetensors run_dir=results/mine
    sfam-bench evaluate experiment=cub dataset.root=CUB_200_2011 'explainer=[sfam,grad_cam]' pairs.count=20
    sfam-bench evaluate dataset=folder dataset.root=photos pairs=pairs.csv 'metric=[insertion_minus_deletion]'

Settings: run_dir, pairs.kinds, pairs.count, maps.save, split, batch_size, device, resume, seed, unsupported.
"""

from pathlib import Path
from time import process_time

from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.evaluation import Evaluation, write, write_pairs
from sfam_bench.app.parts import group_by_need, open_run, restore_passes
from sfam_bench.app.rehearsal import check_inputs
from sfam_bench.core.errors import UserError
from sfam_bench.core.files import acquire_lock, check_writable
from sfam_bench.core.stream import progress
from sfam_bench.datasets import pairs as pairing
from sfam_bench.datasets.batches import load_batches
from sfam_bench.runs.continued import EVALUATING, PLAN, PLANNING
from sfam_bench.runs.store import RunStore


@script("evaluate")
def main(cfg: DictConfig) -> None:
    root = Path(cfg.run_dir)
    check_writable(root)
    planning = (root / PLANNING).exists() and not (root / EVALUATING).exists()  # else a plan was refused here
    if planning or (root / PLAN).is_file():
        raise UserError(
            f"{root} has a plan, made or begun, whose shards share this folder: continue it with sfam-bench submit "
            f"(plan, run) and run_dir={root}, or choose another run_dir"
        )
    evaluation = Evaluation.of(cfg)
    store = open_run(root, evaluation.identity, cfg.resume)  # early; a new folder is made last
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
    facts["references"] = pairing.references_hash(pairs)
    store = RunStore.create(store.root, evaluation.identity, facts, cfg.resume)
    with acquire_lock(store.root / EVALUATING, f"{store.root} is being evaluated"):
        store.remove_stale()
        write_pairs(store, pairs)
        if bench:
            stream = load_batches(evaluation.inputs.dataset, [frames[number] for number in due])
            shards = bench.explain(stream, evaluation.catalogue(gallery))
            spent = 0.0  # setting up belongs to the first batch
            for number, shard in zip(due, progress(shards, "evaluate", len(due), "batch"), strict=True):
                until = process_time()
                store.write_cost(number, len(frames[number]), shard.seconds, until - spent)
                spent = until
                write(store, number, frames[number], shard)
        evaluation.write_images(store, pairs)
        evaluation.write_worst_images(store, pairs)
        silent = store.silent(name for name, metric in evaluation.metrics.items() if getattr(metric, "share", 1) == 1)
        properties = evaluation.properties(gallery)
        store.finish(shards=len(frames), skipped=silent, **properties)
    for wanted, names in group_by_need(silent, evaluation.metrics).items():
        print(f"skipped on {evaluation.inputs.dataset.name}, which lacks {wanted}: {', '.join(names)}")
    if why := properties.get("intervention", {}).get("fails"):
        print(f"the model does not count as a known answer: {why}")
    print(f"records of {len(pairs)} pairs: {cfg.run_dir}")
