"""Measure part agreement: do the maps of a query follow the parts that each reference shares with it?

Examples:

    sfam-bench part-agreement dataset=cub model=lite0 dataset.root=CUB_200_2011
    sfam-bench part-agreement dataset=cub model=lite0 dataset.root=CUB_200_2011 agreement.queries=30
    sfam-bench part-agreement dataset=cub model=lite0 dataset.root=CUB_200_2011 model.checkpoint=RUN/model.safetensors

Settings: run_dir, agreement.queries, agreement.references, agreement.level, resume.
"""

from pathlib import Path

from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.inputs import Inputs
from sfam_bench.app.parts import open_run, prepare_explainers, read_labels, restore_passes, select_supported
from sfam_bench.app.settings import build
from sfam_bench.core.files import check_writable
from sfam_bench.core.stream import progress
from sfam_bench.evaluation.part_agreement import METRICS, encode_images, passes_facts
from sfam_bench.retrieval.recall import retrieval, roles_of
from sfam_bench.runs.store import RunStore


@script("part_agreement")
def main(cfg: DictConfig) -> None:
    check_writable(Path(cfg.run_dir))
    inputs, agreement = Inputs.of(cfg), build(cfg.agreement)
    dataset, model, target, chosen = inputs.dataset, inputs.model, inputs.target, inputs.explained
    explainers, training = inputs.explainers, inputs.training
    target.check(has_negatives=False)
    colours = agreement.colours(dataset)
    identity = inputs.identity("agreement")
    facts = inputs.facts("part_agreement", attributes=colours.level, metrics=METRICS)
    store = open_run(Path(cfg.run_dir), identity, cfg.resume)
    restore_passes(cfg, model, store.manifest.get("passes") or {})
    explainers = prepare_explainers(cfg, dataset, model, explainers, training)
    encoded = encode_images(model, dataset, chosen, cfg.batch_size)
    pairs = store.read_pairs()
    if pairs is None:
        pairs = agreement.pairs(dataset, model.similarity, encoded.side.embeddings, chosen)
    explainers, _, left_out = select_supported(cfg.unsupported, model, target, explainers, encoded.pair(pairs))
    facts |= {"passes": passes_facts(model.device), "unsupported": left_out, "shards": len(pairs)}
    store = RunStore.create(store.root, identity, facts, resume=cfg.resume)
    store.write_pairs(pairs)
    due = store.due(len(pairs))
    found = agreement(model, dataset, encoded, pairs.iloc[due], explainers, colours, cfg.batch_size)
    for number, records in zip(due, progress(found, "part agreement", len(due), "query"), strict=True):
        store.write_chunk(number, records)
    gallery, roles = encoded.side.embeddings.cpu(), roles_of(dataset, chosen)
    recall = retrieval(model.similarity, gallery, read_labels(dataset, chosen), list(cfg.recall_at), roles=roles)
    store.finish(retrieval=recall)
    print(f"records of {len(pairs)} queries: {cfg.run_dir}")
