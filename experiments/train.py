"""Train a metric-learning model; leaves model.safetensors with its facts, the history, and how each image retrieves.

Stopped or killed, it is continued exactly by resume=true. On several GPUs: torchrun --nproc_per_node=N this file
"""

import json
import sys
from pathlib import Path

import pandas as pd
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.cli import script
from experiments.parts import dataset_and_model, judged, labels
from experiments.settings import build, resolved
from experiments.training import KEYS, Roles, best_epoch, choice_for, identity, lineage, loss, measured, tensorboard
from sfam_bench.continued import refuse
from sfam_bench.files import atomic
from sfam_bench.models.build import save
from sfam_bench.provenance import run_facts
from sfam_bench.retrieval import averages
from sfam_bench.signals import Interrupted
from sfam_bench.training.checkpoint import tidy
from sfam_bench.training.data import Examples
from sfam_bench.training.distributed import join, leave, rank
from sfam_bench.training.loop import train

SHOWN = ("dataset", "model", "loss", "augmentation", "train", "validation", "published")


@script("train")
def main(cfg: DictConfig) -> None:
    run, settings = Path(cfg.run_dir), resolved(cfg)
    if device := join():
        cfg.device = str(device)
    first = rank() == 0
    if first:
        refuse(run, cfg.resume)
    if (run / "model.safetensors").exists():
        print(f"trained already: {run / 'model.safetensors'}")
        return
    dataset, model = dataset_and_model(cfg)
    recipe, augment, validation = build(cfg.train), build(cfg.augmentation), build(cfg.validation)
    roles = Roles.of(dataset, validation)
    judged(cfg, dataset, model, roles.test)  # weights that a training begins from are no way round the protocol
    classes = labels(dataset, roles.train)
    examples = Examples(
        roles.train,
        classes.tolist(),
        lambda image_id: augment(dataset.image(image_id)) if augment else dataset.sample(image_id).image,
    )
    examples.numbered(recipe)  # what cannot be trained is said before anything is embedded
    width = model.encode(dataset.sample(roles.train[0]).image[None]).embeddings.shape[1]
    criterion, miner = loss(cfg, {"num_classes": len(classes.unique()), "embedding_size": width})
    if first:
        run.mkdir(parents=True, exist_ok=True)
        print(yaml.safe_dump({name: settings[name] for name in SHOWN}, sort_keys=False), flush=True)
        before = measured(cfg, dataset, model, roles.test)
    same = identity(cfg, dataset)
    try:
        with tensorboard(run / "tensorboard", cfg.tensorboard and first) as log:
            choice = choice_for(cfg, validation, dataset, model, roles.validation)
            history = train(model, criterion, miner, examples, recipe, choice=choice, run=run, identity=same, log=log)
    except Interrupted as stop:
        print(f"{stop}; where it stands is kept: continue with resume=true", file=sys.stderr)
        sys.exit(128 + stop.number)
    finally:
        leave()
    if not first:
        return
    after = measured(cfg, dataset, model, roles.test)
    with atomic(run / "retrieval.parquet") as file:
        stages = {"frozen": before, "trained": after}
        pd.concat([frame.assign(stage=stage) for stage, frame in stages.items()]).to_parquet(file, index=False)
    facts = {
        **run_facts(),
        **lineage(dataset, model.origin, "validation" if validation else "last epoch"),
        **({"validation": best_epoch(validation, history)} if validation else {}),
        **{group: HydraConfig.get().runtime.choices[group] for group in ("loss", "miner", "recipe")},
        "published": settings["published"],
        "retrieval_before": averages(before.drop(columns=KEYS)),
        "retrieval": averages(after.drop(columns=KEYS)),
        "config": settings,
    }
    save(model, run / "model.safetensors", facts)
    tidy(run)
    print(json.dumps({name: facts[name] for name in ("chosen", "retrieval_before", "retrieval")}, indent=2))
    print(f"trained: {run / 'model.safetensors'}")


if __name__ == "__main__":
    main()
