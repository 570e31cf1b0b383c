"""Choose pairs, explain them with every method, measure every map; leaves a self-sufficient run folder."""

from collections import Counter
from pathlib import Path

from omegaconf import DictConfig

from experiments.cli import script
from experiments.evaluation import Evaluation, write
from experiments.parts import begun, wanting
from experiments.rehearsal import rehearse
from sfam_bench import pairs as pairing
from sfam_bench.files import probe
from sfam_bench.store import RunStore
from sfam_bench.stream import progress


@script("evaluate")
def main(cfg: DictConfig) -> None:
    probe(Path(cfg.run_dir))
    evaluation = Evaluation.of(cfg)
    store = begun(Path(cfg.run_dir), evaluation.identity, cfg.resume)  # early; a new folder when all else is there
    rehearse(evaluation)
    gallery = evaluation.embedded()
    pairs = evaluation.paired(gallery)
    frames = evaluation.frames(pairs)
    due = [number for number in range(len(frames)) if not store.has_shard(number)]
    count = sum(len(frames[number]) for number in due)
    bench = evaluation.tried(frames[due[0]], count) if due else None
    store = RunStore.create(store.root, evaluation.identity, evaluation.facts, resume=cfg.resume)
    store.write_pairs(pairs)
    how = {}
    if bench:
        spent = Counter[str]()
        stream = pairing.load(evaluation.inputs.dataset, [frames[number] for number in due])
        shards = bench.explain(stream, evaluation.catalogue(gallery))
        for number, shard in zip(due, progress(shards, "evaluate", len(due), "batch"), strict=True):
            spent.update(shard.seconds)
            write(store, number, frames[number], shard)
        how = {**bench.facts, "cost": bench.cost(spent, count)}
    evaluation.pictures(store, pairs)
    silent = store.silent(name for name, metric in evaluation.metrics.items() if getattr(metric, "share", 1) == 1)
    store.finish(shards=len(frames), retrieval=evaluation.retrieval(gallery), skipped=silent, **how)
    for wanted, names in wanting(silent, evaluation.metrics).items():
        print(f"left out of {evaluation.inputs.dataset.name}, for want of {wanted}: {', '.join(names)}")
    print(f"records of {len(pairs)} pairs: {cfg.run_dir}")


if __name__ == "__main__":
    main()
