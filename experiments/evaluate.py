"""Choose pairs, explain them with every method, measure every map; leaves a self-sufficient run folder."""

from collections import Counter
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.cli import script
from experiments.parts import (
    begun,
    dataset_and_model,
    image_ids,
    keep_pictures,
    labels,
    passes_for,
    ready,
    supported,
    train_ids,
    wanting,
)
from experiments.settings import build
from sfam_bench import pairs as pairing
from sfam_bench.cost import Cost
from sfam_bench.datasets.base import split_hash
from sfam_bench.evaluate import evaluate
from sfam_bench.explainers.card import card_of
from sfam_bench.explainers.prepare import VERSION, Prepared
from sfam_bench.models.build import weights_hash
from sfam_bench.retrieval import Catalogue, embed, retrieval
from sfam_bench.store import RunStore
from sfam_bench.stream import progress

MATTERS = ("dataset", "model", "target", "explainer", "metric", "pairs", "maps", "split", "batch_size", "seed")


@script("evaluate")
def main(cfg: DictConfig) -> None:
    dataset, model = dataset_and_model(cfg)
    target, choice, calibrate = build(cfg.target), build(cfg.pairs), build(cfg.passes)
    explainers, metrics = build(cfg.explainer), build(cfg.metric)
    chosen = image_ids(dataset, cfg.split)
    training = train_ids(cfg, dataset, explainers, chosen)
    resolved: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)  # type: ignore[assignment]
    split = {"name": dataset.split_name, "hash": split_hash(dataset.index)}
    identity = {**{key: resolved[key] for key in MATTERS}, "split_hash": split["hash"], "weights": weights_hash(model)}
    if training:
        identity["prepare"] = {"split": cfg.prepare.split, "version": VERSION}
    facts = {
        "kind": "evaluate",
        **{"dataset": dataset.name, "model": model.name, "target": target.name, "similarity": model.similarity.name},
        **{"split": split, "seed": cfg.seed, "explainers": list(explainers), "image_counts": {cfg.split: len(chosen)}},
        **{"checkpoint": resolved["model"].get("checkpoint"), "steps": resolved["steps"]},
        **{"blind": [name for name, made in explainers.items() if card_of(made).blind]},
        "metrics": {name: {"higher_is_better": metric.higher_is_better} for name, metric in metrics.items()},
    }
    store = begun(Path(cfg.run_dir), identity, cfg.resume)  # early; a new folder is made when all else is there
    gallery = embed(model, dataset, chosen, cfg.batch_size)
    pairs = choice(dataset, model.similarity, gallery, chosen)
    target.check(has_negatives=bool((pairs["negative_id"] != "").all()))
    frames = pairing.batches(pairs, cfg.batch_size)
    todo = [number for number in range(len(frames)) if not store.has_shard(number)]
    stream = pairing.load(dataset, [frames[number] for number in todo])
    costs: dict[str, Cost] = {}
    passes, how, spent = None, {}, Counter[str]()
    if todo:
        explainers = ready(cfg, dataset, model, explainers, training)
        one = pairing.load_batch(dataset, frames[todo[0]][:1])
        explainers, costs, left_out = supported(cfg.unsupported, model, target, explainers, one)
        images, count = pairing.load_batch(dataset, frames[todo[0]]).query, sum(len(frames[number]) for number in todo)
        passes = passes_for(calibrate, model, metrics, explainers, images, count, cfg.maps.save)
        prepared = {name: made.facts for name, made in explainers.items() if isinstance(made, Prepared)}
        how = {"passes": passes.facts, "unsupported": left_out, **({"prepared": prepared} if prepared else {})}
    store = RunStore.create(store.root, identity, facts, resume=cfg.resume)
    store.write_pairs(pairs)
    searched = Catalogue(gallery, labels(dataset, chosen), tuple(chosen))
    given = (model, target, stream, explainers, metrics, dataset.name, cfg.maps.save, passes, searched, cfg.curves)
    for number, shard in zip(todo, progress(evaluate(*given), "evaluate", len(todo), "batch"), strict=True):
        spent.update(shard.seconds)
        ids = {side: frames[number][side].to_numpy(str) for side in ("query_id", "reference_id")}
        store.write_shard(number, shard.records, {**ids, **shard.maps} if cfg.maps.save else None, shard.curves)
    keep_pictures(store, dataset, pairing.first(pairs, cfg.maps.pictures)[["query_id", "reference_id"]].to_numpy().flat)
    found = retrieval(model.similarity, gallery, labels(dataset, chosen))
    if costs:
        how["cost"] = {k: {**vars(cost), "milliseconds": 1000 * spent[k] / count} for k, cost in costs.items()}
    silent = store.silent(name for name, metric in metrics.items() if getattr(metric, "share", 1) == 1)
    store.finish(shards=len(frames), retrieval=found, skipped=silent, **how)
    for wanted, names in wanting(silent, metrics).items():
        print(f"left out of {dataset.name}, for want of {wanted}: {', '.join(names)}")
    print(f"records of {len(pairs)} pairs: {cfg.run_dir}")


if __name__ == "__main__":
    main()
