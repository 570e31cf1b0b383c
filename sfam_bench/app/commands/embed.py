"""Embed a split and print its retrieval results (leave-one-out): recall@k, R-precision, MAP@R; NMI with nmi=true.

Examples:

    sfam-bench embed experiment=planted model.checkpoint=RUN/model.safetensors
    sfam-bench embed experiment=cub dataset.root=CUB_200_2011 split=all model.checkpoint=RUN/model.safetensors nmi=true
    sfam-bench embed experiment=cub dataset.root=CUB_200_2011 verification=true

Settings: split, recall_at, nmi, verification, engine, batch_size, device.
"""

import json

from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.parts import check_protocol, dataset_and_model, image_ids, read_labels
from sfam_bench.retrieval.recall import embed, retrieval, roles_of
from sfam_bench.retrieval.thresholds import find_thresholds


@script("embed")
def main(cfg: DictConfig) -> None:
    dataset, model = dataset_and_model(cfg)
    chosen = image_ids(dataset, cfg.split)
    protocol = check_protocol(cfg, dataset, model, chosen)
    labels = read_labels(dataset, chosen)
    gallery = embed(model, dataset, chosen, cfg.batch_size)
    how = {"recall_at": list(cfg.recall_at), "nmi": cfg.nmi, "engine": cfg.engine, "roles": roles_of(dataset, chosen)}
    found = retrieval(model.similarity, gallery, labels, **how)
    thresholds = {"thresholds": find_thresholds(model.similarity, gallery, labels)} if cfg.verification else {}
    of = {"dataset": dataset.name, "split": cfg.split, "model": model.name, "protocol": protocol}
    print(json.dumps({**of, **found, **thresholds}, indent=2))
