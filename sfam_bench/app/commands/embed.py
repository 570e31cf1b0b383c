"""Embed a split and print how well it retrieves: recall@k, R-precision, MAP@R, NMI, leave-one-out.

Examples:

    sfam-bench embed experiment=planted model.checkpoint=RUN/model.safetensors
    sfam-bench embed experiment=cub dataset.root=CUB_200_2011 split=all
    sfam-bench embed experiment=cub dataset.root=CUB_200_2011 model.checkpoint=RUN/model.safetensors nmi=true

Settings: split, recall_at, nmi, engine, batch_size, device.
"""

import json

from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.parts import check_protocol, dataset_and_model, image_ids, read_labels
from sfam_bench.retrieval.recall import embed, retrieval, roles_of


@script("embed")
def main(cfg: DictConfig) -> None:
    dataset, model = dataset_and_model(cfg)
    chosen = image_ids(dataset, cfg.split)
    protocol = check_protocol(cfg, dataset, model, chosen)
    gallery = embed(model, dataset, chosen, cfg.batch_size)
    how = {"recall_at": list(cfg.recall_at), "nmi": cfg.nmi, "engine": cfg.engine, "roles": roles_of(dataset, chosen)}
    found = retrieval(model.similarity, gallery, read_labels(dataset, chosen), **how)
    of = {"dataset": dataset.name, "split": cfg.split, "model": model.name, "protocol": protocol}
    print(json.dumps({**of, **found}, indent=2))
