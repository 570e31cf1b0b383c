"""Train a metric-learning model; writes model.safetensors, model.json (about it), history.csv, retrieval.parquet.

Examples:

    sfam-bench train experiment=planted run_dir=results/train
    sfam-bench train experiment=train/cub_arcface_resnet50 dataset.root=CUB_200_2011
    sfam-bench train experiment=planted run_dir=results/train resume=true

Settings: run_dir, resume, seed, device.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.parts import check_protocol, dataset_and_model, read_labels
from sfam_bench.app.presets import read_published
from sfam_bench.app.settings import build, resolve
from sfam_bench.app.training import (
    KEYS,
    Roles,
    best_epoch,
    build_augmentation,
    build_loss,
    check_trained,
    epoch_choice,
    identity,
    learnable,
    log_tensorboard,
    measure_retrieval,
    still_random,
    training_facts,
)
from sfam_bench.core.files import atomic, check_writable, digest
from sfam_bench.core.provenance import Config, run_facts
from sfam_bench.core.signals import Interrupted
from sfam_bench.datasets.base import Dataset, split_hash
from sfam_bench.models.build import save
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.models.vectors import write_proxies
from sfam_bench.retrieval.recall import average_retrieval
from sfam_bench.runs.continued import refuse_results
from sfam_bench.training.checkpoint import check_can_save, lock_folder, remove_checkpoints
from sfam_bench.training.data import Examples
from sfam_bench.training.distributed import join_group, leave_group, rank
from sfam_bench.training.few_shot import check_episodes
from sfam_bench.training.loop import train

SHOWN = ("dataset", "model", "loss", "augmentation", "train", "validation")


@script("train")
def main(cfg: DictConfig) -> None:
    run, settings = Path(cfg.run_dir), resolve(cfg)
    if device := join_group():
        cfg.device = str(device)
    first = rank() == 0
    if first:
        refuse_results(run, bool(cfg.resume))
        check_writable(run)
    dataset, model = dataset_and_model(cfg)
    same = identity(settings, split_hash(dataset.index))
    if (run / "model.safetensors").exists():
        check_trained(run, same)
        print(f"trained already: {run / 'model.safetensors'}")
        return
    with lock_folder(run) if first else nullcontext():
        facts = train_and_write(cfg, run, settings, dataset, model, same, first)
    if facts:
        print(json.dumps({name: facts[name] for name in ("chosen", "retrieval_before", "retrieval")}, indent=2))
        print(f"trained: {run / 'model.safetensors'}")


def train_and_write(
    cfg: DictConfig,
    run: Path,
    settings: dict[str, Any],
    dataset: Dataset,
    model: SimilarityModel,
    same: Config,
    first: bool,
) -> dict[str, Any]:
    """Train and write the run folder; the facts of the run, or None in processes that do not write."""
    recipe, augment, validation = build(cfg.train), build_augmentation(cfg, model), build(cfg.validation)
    roles = Roles.of(dataset, validation)
    # weights that a training begins from are no way round the protocol
    check_protocol(cfg, dataset, model, roles.test, training=True)
    classes = read_labels(dataset, roles.train)
    examples = Examples(
        roles.train,
        classes.tolist(),
        lambda image_id: augment(dataset.image(image_id)) if augment else dataset.sample(image_id).image,
    )
    examples.number_classes(recipe)  # errors come before images are embedded
    width = model.encode(dataset.sample(roles.train[0]).image[None]).embeddings.shape[1]
    criterion, miner = build_loss(cfg, {"num_classes": len(classes.unique()), "embedding_size": width})
    check_episodes(criterion, recipe)
    if first:
        check_can_save(model, run)
        print(yaml.safe_dump({name: settings[name] for name in SHOWN}, sort_keys=False), flush=True)
        before = measure_retrieval(cfg, dataset, model, roles.test)
    start = learnable(model)
    options: dict[str, Any] = {"run": run, "identity": same, "any_code": cfg.resume == "anyway"}
    try:
        with log_tensorboard(run / "tensorboard", cfg.tensorboard and first) as log:
            choice = epoch_choice(cfg, validation, dataset, model, roles.validation)
            history = train(model, criterion, miner, examples, recipe, choice=choice, log=log, **options)
    except Interrupted as stop:
        print(f"{stop}; the state is saved: continue with resume=true", file=sys.stderr)
        sys.exit(128 + stop.number)
    finally:
        leave_group()
    if not first:
        return {}
    after = measure_retrieval(cfg, dataset, model, roles.test)
    with atomic(run / "retrieval.parquet") as file:
        stages = {"frozen": before, "trained": after}
        pd.concat([frame.assign(stage=stage) for stage, frame in stages.items()]).to_parquet(file, index=False)
    proxies = {}
    labels = sorted(set(examples.labels))
    names = dataset.index.loc[roles.train].drop_duplicates("label").set_index("label")["class_name"]
    if not recipe.shuffle_labels and write_proxies(criterion, labels, run):
        proxies = {"proxy_classes": [str(names[label]) for label in labels]}
    choices = HydraConfig.get().runtime.choices
    facts = {
        **run_facts(),
        "computed_by": history.attrs["code"],
        **training_facts(dataset, model.origin, "validation" if validation else "last epoch"),
        **({"validation": best_epoch(validation, history)} if validation else {}),
        "random": still_random(model, start),
        **{group: choices[group] for group in ("loss", "miner", "recipe")},
        "published": read_published().get(str(choices.get("experiment")).removeprefix("train/")),
        "retrieval_before": average_retrieval(before.drop(columns=KEYS)),
        "retrieval": average_retrieval(after.drop(columns=KEYS)),
        **proxies,
        "config": settings,
        "digests": {name: digest(run / name) for name in ("history.csv", "retrieval.parquet")},
    }
    save(model, run / "model.safetensors", facts)
    remove_checkpoints(run)
    return facts
