"""Embed a split and print how well it retrieves: recall@k, R-precision, MAP@R, leave-one-out."""

import json

from omegaconf import DictConfig

from experiments.cli import script
from experiments.parts import dataset_and_model, image_ids, labels
from sfam_bench.retrieval import embed, retrieval


@script("embed")
def main(cfg: DictConfig) -> None:
    dataset, model = dataset_and_model(cfg)
    chosen = image_ids(dataset, cfg.split)
    found = retrieval(model.similarity, embed(model, dataset, chosen, cfg.batch_size), labels(dataset, chosen))
    print(json.dumps({"dataset": dataset.name, "split": cfg.split, "model": model.name, **found}, indent=2))


if __name__ == "__main__":
    main()
