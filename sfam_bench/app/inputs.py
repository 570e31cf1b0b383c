"""The inputs of evaluate and part-agreement, and what their manifests record of them."""

import pydoc
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig

from sfam_bench.app.parts import check_protocol, dataset_and_model, image_ids, train_ids
from sfam_bench.app.settings import build, resolve
from sfam_bench.app.tuned import read_studies
from sfam_bench.core.files import digest
from sfam_bench.core.method_card import card_of, method_settings
from sfam_bench.core.targets import Target
from sfam_bench.datasets.base import Dataset, split_hash
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.explainers.shared.prepare import VERSION
from sfam_bench.models.build import weights_hash
from sfam_bench.models.similarity_model import SimilarityModel

INSTALLED = ("site-packages", "dist-packages")
READ = ("dataset", "pairs", "vectors")  # settings that may name files
MATTERS = ("dataset", "model", "target", "explainer", "split", "batch_size", "seed")


@dataclass(frozen=True)
class Inputs:
    """The objects of a config; `explained` and `training` are image ids, `protocol` the facts of Protocol.admit.

    `tuned` describes how each tuned explainer was tuned.
    """

    cfg: DictConfig
    dataset: Dataset
    model: SimilarityModel
    target: Target
    explainers: Mapping[str, Explainer]
    explained: list[str]
    training: list[str]
    protocol: dict[str, Any]
    tuned: dict[str, Any]

    @classmethod
    def of(cls, cfg: DictConfig) -> "Inputs":
        """Build them; UserError if the model or the explainers may not be evaluated on these images."""
        dataset, model = dataset_and_model(cfg)
        target, explainers = build(cfg.target), build(cfg.explainer)
        explained = image_ids(dataset, cfg.split)
        protocol = check_protocol(cfg, dataset, model, explained)
        studies, variants = read_studies(cfg.tuned), dict(explainers)
        for study in studies:
            study.check(dataset, explained)
            variants[study.name] = study.variant(explainers, resolve(cfg)["explainer"])
        training = train_ids(cfg, dataset, variants, explained)
        tuned = {study.name: study.facts for study in studies}
        return cls(cfg, dataset, model, target, variants, explained, training, protocol, tuned)

    def identity(self, *matters: str) -> dict[str, Any]:
        """The identity that a run must share with another to continue it; `matters` are further config keys."""
        settings = resolve(self.cfg)
        identified = {name: settings[name] for name in (*MATTERS, *matters)}
        identity = {
            **identified,
            **{"split_hash": split_hash(self.dataset.index), "weights": weights_hash(self.model)},
            "protocol": self.protocol,
            **({"tuned": self.tuned} if self.tuned else {}),
            **({"own_code": own} if (own := own_code(settings)) else {}),
            **({"files": read} if (read := named_files({name: identified.get(name) for name in READ})) else {}),
        }
        prepare = {"prepare": {"split": self.cfg.prepare.split, "version": VERSION}}
        return {**identity, **prepare} if self.training else identity

    def facts(self, kind: str, **more: Any) -> dict[str, Any]:
        """The facts that a report reads from the manifest."""
        dataset, model, explainers = self.dataset, self.model, self.explainers
        return {
            **{"kind": kind, "dataset": dataset.name, "model": model.name, "target": self.target.name},
            **({"embedding": model.embedding} if model.embedding else {}),
            **{"similarity": model.similarity.name, "seed": self.cfg.seed, "explainers": list(explainers)},
            "explainer_settings": {name: method_settings(made) for name, made in explainers.items()},
            **{"split": {"name": dataset.split_name, "hash": split_hash(dataset.index)}, "protocol": self.protocol},
            "image_counts": {self.cfg.split: len(self.explained)},
            **({"tuned": self.tuned} if self.tuned else {}),
            "blind": [name for name, made in explainers.items() if card_of(made).blind],
            **more,
        }


def named_files(settings: Any, setting: str = "") -> dict[str, str]:
    """The digest of each file that a setting names, such as a list of pairs: another content is another run."""
    if isinstance(settings, dict | list):
        inside = settings.items() if isinstance(settings, dict) else enumerate(settings)
        named = [named_files(item, f"{setting}.{name}".lstrip(".")) for name, item in inside]
        return {name: found for one in named for name, found in one.items()}
    return {setting: digest(Path(settings))} if isinstance(settings, str) and Path(settings).is_file() else {}


def own_code(settings: Any) -> dict[str, str]:
    """The digest of each source file that the settings name, and of those that it imports, by class and by module.

    Without files of this package and of site-packages.
    """
    if isinstance(settings, list):
        return {name: found for item in settings for name, found in own_code(item).items()}
    if not isinstance(settings, dict):
        return {}
    found = own_code([*settings.values()])
    target = settings.get("_target_")
    if isinstance(target, str) and not target.startswith("sfam_bench."):
        first = getattr(pydoc.locate(target), "__module__", "")
        found |= {target if name == first else name: digest(path) for name, path in own_files(first).items()}
    return found


def own_files(name: str) -> dict[str, Path]:
    """The file of a module of the user's own, and those of the modules that its names come from, by module."""
    found, waiting = dict[str, Path](), [name]
    while waiting:
        module = sys.modules.get(name := waiting.pop())
        path = Path(getattr(module, "__file__", None) or "")
        shared = name.partition(".")[0] in {"sfam_bench", *sys.stdlib_module_names} or {*INSTALLED} & {*path.parts}
        if name in found or shared or path.suffix != ".py":
            continue
        found[name] = path
        for value in vars(module).values():
            waiting.append(value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", "")))
    return found
