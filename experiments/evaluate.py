"""Choose pairs, explain them with every method, measure every map; leaves a self-sufficient run folder."""

from collections import Counter
from pathlib import Path

from omegaconf import DictConfig

from experiments.cli import script
from experiments.inputs import Inputs
from experiments.parts import begun, keep_pictures, labels, passes_for, ready, supported, wanting
from experiments.settings import build, resolved
from sfam_bench import pairs as pairing
from sfam_bench.cost import Cost
from sfam_bench.evaluate import evaluate
from sfam_bench.explainers.prepare import Prepared
from sfam_bench.retrieval import Catalogue, embed, retrieval
from sfam_bench.store import RunStore
from sfam_bench.stream import progress


@script("evaluate")
def main(cfg: DictConfig) -> None:
    inputs = Inputs.of(cfg)
    dataset, model, target, chosen = inputs.dataset, inputs.model, inputs.target, inputs.explained
    explainers, training = inputs.explainers, inputs.training
    choice, calibrate, metrics = build(cfg.pairs), build(cfg.passes), build(cfg.metric)
    identity = inputs.identity("metric", "pairs", "maps")
    directions = {name: {"higher_is_better": metric.higher_is_better} for name, metric in metrics.items()}
    facts = inputs.facts("evaluate", steps=resolved(cfg)["steps"], metrics=directions)
    store = begun(Path(cfg.run_dir), identity, cfg.resume)  # early; a new folder is made when all else is there
    gallery = embed(model, dataset, chosen, cfg.batch_size)
    pairs = choice(dataset, model.similarity, gallery, chosen)
    target.check(has_negatives=bool((pairs["negative_id"] != "").all()))
    frames = pairing.batches(pairs, cfg.batch_size)
    due = [number for number in range(len(frames)) if not store.has_shard(number)]
    stream = pairing.load(dataset, [frames[number] for number in due])
    costs: dict[str, Cost] = {}
    passes, how, spent = None, {}, Counter[str]()
    if due:
        explainers = ready(cfg, dataset, model, explainers, training)
        one = pairing.load_batch(dataset, frames[due[0]][:1])
        explainers, costs, left_out = supported(cfg.unsupported, model, target, explainers, one)
        images, count = pairing.load_batch(dataset, frames[due[0]]).query, sum(len(frames[number]) for number in due)
        passes = passes_for(calibrate, model, metrics, explainers, images, count, cfg.maps.save)
        prepared = {name: made.facts for name, made in explainers.items() if isinstance(made, Prepared)}
        how = {"passes": passes.facts, "unsupported": left_out, **({"prepared": prepared} if prepared else {})}
    store = RunStore.create(store.root, identity, facts, resume=cfg.resume)
    store.write_pairs(pairs)
    searched = Catalogue(gallery, labels(dataset, chosen), tuple(chosen))
    given = (model, target, stream, explainers, metrics, dataset.name, cfg.maps.save, passes, searched, cfg.curves)
    for number, shard in zip(due, progress(evaluate(*given), "evaluate", len(due), "batch"), strict=True):
        spent.update(shard.seconds)
        ids = {side: frames[number][side].to_numpy(str) for side in ("query_id", "reference_id")}
        store.write_shard(number, shard.records, {**ids, **shard.maps} if cfg.maps.save else None, shard.curves)
    keep_pictures(store, dataset, pairing.first(pairs, cfg.maps.pictures)[["query_id", "reference_id"]].to_numpy().flat)
    found = retrieval(model.similarity, gallery, labels(dataset, chosen), list(cfg.recall_at))
    if costs:
        how["cost"] = {k: {**vars(cost), "milliseconds": 1000 * spent[k] / count} for k, cost in costs.items()}
    silent = store.silent(name for name, metric in metrics.items() if getattr(metric, "share", 1) == 1)
    store.finish(shards=len(frames), retrieval=found, skipped=silent, **how)
    for wanted, names in wanting(silent, metrics).items():
        print(f"left out of {dataset.name}, for want of {wanted}: {', '.join(names)}")
    print(f"records of {len(pairs)} pairs: {cfg.run_dir}")


if __name__ == "__main__":
    main()
