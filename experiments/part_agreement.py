"""Part agreement: do maps of one query follow which parts its many references share with it? Leaves a run folder."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.cli import script
from experiments.parts import begun, dataset_and_model, image_ids, labels, ready, supported, train_ids
from experiments.settings import build
from sfam_bench.datasets.base import split_hash
from sfam_bench.explainers.card import card_of
from sfam_bench.explainers.prepare import VERSION
from sfam_bench.models.build import weights_hash
from sfam_bench.part_agreement import METRICS, encodings
from sfam_bench.retrieval import retrieval
from sfam_bench.store import RunStore
from sfam_bench.stream import progress

MATTERS = ("dataset", "model", "target", "explainer", "agreement", "split", "batch_size", "seed")


@script("part_agreement")
def main(cfg: DictConfig) -> None:
    dataset, model = dataset_and_model(cfg)
    target, agreement, explainers = build(cfg.target), build(cfg.agreement), build(cfg.explainer)
    target.check(has_negatives=False)
    chosen = image_ids(dataset, cfg.split)
    colours, training = agreement.colours(dataset), train_ids(cfg, dataset, explainers, chosen)
    resolved: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)  # type: ignore[assignment]
    split = {"name": dataset.split_name, "hash": split_hash(dataset.index)}
    identity = {**{key: resolved[key] for key in MATTERS}, "split_hash": split["hash"], "weights": weights_hash(model)}
    if training:
        identity["prepare"] = {"split": cfg.prepare.split, "version": VERSION}
    facts = {
        **{"kind": "part_agreement", "attributes": colours.level, "metrics": METRICS},
        **{"dataset": dataset.name, "model": model.name, "target": target.name, "similarity": model.similarity.name},
        **{"split": split, "seed": cfg.seed, "explainers": list(explainers), "image_counts": {cfg.split: len(chosen)}},
        **{"checkpoint": resolved["model"].get("checkpoint")},
        **{"blind": [name for name, made in explainers.items() if card_of(made).blind]},
    }
    store = begun(Path(cfg.run_dir), identity, cfg.resume)
    explainers = ready(cfg, dataset, model, explainers, training)
    encoded = encodings(model, dataset, chosen, cfg.batch_size)
    pairs = agreement.pairs(dataset, model.similarity, encoded.side.embeddings, chosen)
    explainers, _, left_out = supported(cfg.unsupported, model, target, explainers, encoded.pair(pairs))
    store = RunStore.create(store.root, identity, facts, resume=cfg.resume)
    store.write_pairs(pairs)
    todo = [number for number in range(len(pairs)) if not store.has_shard(number)]
    found = agreement(model, dataset, encoded, pairs.iloc[todo], explainers, colours, cfg.batch_size)
    for number, records in zip(todo, progress(found, "part agreement", len(todo), "query"), strict=True):
        store.write_shard(number, records)
    recall = retrieval(model.similarity, encoded.side.embeddings.cpu(), labels(dataset, chosen))
    store.finish(shards=len(pairs), retrieval=recall, unsupported=left_out)
    print(f"records of {len(pairs)} queries: {cfg.run_dir}")


if __name__ == "__main__":
    main()
