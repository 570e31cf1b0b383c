"""Train a metric-learning model; leaves model.safetensors with its facts, the loss history and the resolved config."""

import json
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from experiments.cli import script
from experiments.parts import dataset_and_model, image_ids, labels
from experiments.settings import build
from sfam_bench.datasets.base import split_hash
from sfam_bench.models.build import save
from sfam_bench.provenance import run_facts
from sfam_bench.retrieval import embed, retrieval
from sfam_bench.store import begin
from sfam_bench.train import train


@script("train")
def main(cfg: DictConfig) -> None:
    dataset, model = dataset_and_model(cfg)
    train_ids, test_ids = image_ids(dataset, "train"), image_ids(dataset, "test")
    train_labels, test_labels = labels(dataset, train_ids), labels(dataset, test_ids)
    sizes = {
        "num_classes": len(train_labels.unique()),
        "embedding_size": model.encode(dataset.sample(train_ids[0]).image[None]).embeddings.shape[1],
    }
    given = {name: size for name, size in sizes.items() if name in set(cfg.loss.criterion)}
    criterion, miner = build(cfg.loss.criterion, **given), build(cfg.loss.miner)
    augment = build(cfg.augmentation)
    recipe = build(cfg.train)
    run = begin(Path(cfg.run_dir))

    def measure() -> dict[str, float]:
        return retrieval(model.similarity, embed(model, dataset, test_ids, cfg.batch_size), test_labels)

    before = measure()
    history = train(
        model,
        criterion,
        miner,
        train_ids,
        train_labels.tolist(),
        lambda image_id: augment(dataset.image(image_id)) if augment else dataset.sample(image_id).image,
        recipe,
    )
    history.to_csv(run / "history.csv", index=False)
    facts = {
        **run_facts(),
        "chosen": "last epoch",
        "split": {"name": dataset.split_name, "hash": split_hash(dataset.index)},
        "retrieval_before": before,
        "retrieval": measure(),
        "config": OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False),
    }
    save(model, run / "model.safetensors", facts)
    print(
        json.dumps({"before": before, "after": facts["retrieval"], "model": str(run / "model.safetensors")}, indent=2)
    )


if __name__ == "__main__":
    main()
