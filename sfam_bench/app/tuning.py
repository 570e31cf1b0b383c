"""The inputs of tuning: a method, an objective, and two folds of the training classes."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from sfam_bench.app.parts import check_protocol, choose_passes, dataset_and_model, image_ids, pair_choice, read_labels
from sfam_bench.app.settings import build, check_fields, resolve
from sfam_bench.app.tuned import KIND, classes_hash
from sfam_bench.core.errors import UserError
from sfam_bench.core.provenance import config_hash, run_facts
from sfam_bench.core.records import PairBatch
from sfam_bench.core.targets import Target
from sfam_bench.datasets.base import Dataset, split_hash
from sfam_bench.datasets.batches import cut_batches, first_of_each_kind, load_batch, load_batches
from sfam_bench.engine.calibration import Calibration
from sfam_bench.engine.passes import Passes
from sfam_bench.evaluation.evaluate import evaluate
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.explainers.shared.prepare import Preparable
from sfam_bench.metrics.shared.base import Metric
from sfam_bench.models.build import weights_hash
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.retrieval.recall import Catalogue, embed, roles_of
from sfam_bench.runs.matrix import Matrix
from sfam_bench.statistics import paired_difference
from sfam_bench.tuning.spaces import Space
from sfam_bench.tuning.studies import split_classes

MATTERS = ("dataset", "model", "target", "explainer", "space", "pairs", "split", "held_out", "objective", "seed")


@dataclass(frozen=True)
class Fold:
    """Some training classes, and the pairs of their images."""

    classes: list[int]
    pairs: pd.DataFrame
    batches: list[PairBatch]
    catalogue: Catalogue


@dataclass(frozen=True)
class Tuning:
    """A tuning: method, space, objective, model and data."""

    cfg: DictConfig
    dataset: Dataset
    model: SimilarityModel
    target: Target
    space: Space
    node: dict[str, Any]
    explainer: Explainer
    metric: Metric
    protocol: dict[str, Any]

    @classmethod
    def of(cls, cfg: DictConfig) -> "Tuning":
        """Build it; UserError if this model or these classes may not be used for tuning."""
        space: Space = build(cfg.space)
        node, explainer = read_method(cfg, space)
        space.distributions({name: getattr(explainer, name) for name in space.fields})
        metric = read_objective(cfg)
        dataset, model = dataset_and_model(cfg)
        # the tuned method is for the test classes, so the model must be one that may be evaluated on these
        protocol = check_protocol(cfg, dataset, model, image_ids(dataset, "test"))
        return cls(cfg, dataset, model, build(cfg.target), space, node, explainer, metric, protocol)

    def folds(self) -> dict[str, Fold]:
        """The folds: pairs of the tuning classes and of held-out ones; UserError if they are test classes."""
        index, ids = self.dataset.index, image_ids(self.dataset, self.cfg.split)
        classes = index.loc[ids, "label"]
        if both := len(set(classes) & set(index.loc[index["split"] == "test", "label"])):
            raise UserError(f"split={self.cfg.split}: {both} of its classes are test classes: tune on split=train")
        tuning, held_out = split_classes([int(label) for label in classes], self.cfg.held_out, self.cfg.seed)
        return {name: self.fold(ids, part) for name, part in (("tuning", tuning), ("held_out", held_out))}

    def fold(self, ids: list[str], classes: list[int]) -> Fold:
        """A fold: pairs within some classes, with images loaded."""
        known = self.dataset.index["label"].isin(classes)
        own = [image_id for image_id in ids if known[image_id]]
        gallery = embed(self.model, self.dataset, own, self.cfg.batch_size)
        pairs = pair_choice(self.cfg)(self.dataset, self.model.similarity, gallery, own)
        self.target.check(has_negatives=bool((pairs["negative_id"] != "").all()))
        loaded = list(load_batches(self.dataset, cut_batches(pairs, self.cfg.batch_size)))
        catalogue = Catalogue(gallery, read_labels(self.dataset, own), tuple(own), roles_of(self.dataset, own))
        return Fold(classes, pairs, loaded, catalogue)

    def variant(self, fields: Mapping[str, Any]) -> Explainer:
        """The method with other fields; UserError if it does not accept them."""
        check_fields({"_target_": self.node["_target_"], **fields}, f"explainer.{self.space.method}")
        made: Explainer = dataclasses.replace(self.explainer, **fields)  # type: ignore[type-var]
        return made

    def evaluate(
        self, explainers: Mapping[str, Explainer], fold: Fold, batches: list[PairBatch], passes: Passes | None
    ) -> Matrix:
        """The objective of each explainer on each pair."""
        name, metric = self.cfg.objective, {self.cfg.objective: self.metric}
        shards = evaluate(
            *(self.model, self.target, batches, explainers, metric, self.dataset.name),
            passes=passes,
            gallery=fold.catalogue,
            keep_curves=False,
        )
        frame = pd.DataFrame([vars(record) for shard in shards for record in shard.records if record.metric == name])
        if frame.empty:
            raise UserError(
                f"objective={name} needs {', '.join(self.metric.needs) or 'more'} of each pair, which "
                f"{self.dataset.name} or pairs.kinds={[*pair_choice(self.cfg).kinds]} lacks: choose another objective"
            )
        return Matrix.of(frame, fold.pairs)

    def try_one(self, fold: Fold) -> None:
        """Raise UserError, before any output, if method, model, target and objective do not fit."""
        frames = cut_batches(first_of_each_kind(fold.pairs, 1), 1)
        few = [load_batch(self.dataset, frame) for frame in frames]
        self.evaluate({self.space.method: self.explainer}, fold, few, None)

    def passes(self, fold: Fold, known: Mapping[str, Any] | None, count: int) -> Passes:
        """Choose the mode of passes; a continued study reuses its `known` mode, to get the same numbers."""
        measure: Calibration = build(self.cfg.passes)
        if known:
            measure = dataclasses.replace(measure, mode=known["mode"], batch=known["batch"])
        explainers, metrics = {self.space.method: self.explainer}, {self.cfg.objective: self.metric}
        passes = choose_passes(measure, self.model, metrics, explainers, fold.batches[0].query, count, False)
        if known and passes.facts["mode"] != known["mode"]:
            raise UserError(
                f"{self.cfg.run_dir} was started with passes.mode={known['mode']}, which cannot be used here: "
                "continue it on the machine where it was started, or tune in another run_dir"
            )
        return passes

    def compare(self, fold: Fold, chosen: Explainer, passes: Passes) -> dict[str, Any]:
        """The objective of default and chosen setting over the pairs that both define, and their difference."""
        name, tuned = self.space.method, f"{self.space.method} tuned"
        matrix = self.evaluate({name: self.explainer, tuned: chosen}, fold, fold.batches, passes)
        columns = [(self.cfg.objective, each) for each in (name, tuned)]
        entries = matrix.block(columns)
        means = entries[np.isfinite(entries).all(axis=1)].mean(axis=0).tolist()
        (found,) = paired_difference(matrix, to=name, seed=self.cfg.seed).to_dict("records")
        return {
            **{"classes": len(fold.classes), "pairs": int(found["count"]), "default": means[0], "chosen": means[1]},
            **{key: float(found[key]) for key in ("difference", "low", "high", "p")},
            "flagged": {column[1]: int((matrix.codes[column] != 0).sum()) for column in columns},
        }

    def identity(self) -> dict[str, Any]:
        """The identity that a study must share to be continued."""
        settings = resolve(self.cfg)
        return {
            **{name: settings[name] for name in MATTERS},
            "metric": settings["metric"][self.cfg.objective],
            **{"batch_size": settings["batch_size"], "weights": weights_hash(self.model)},
            **{"split_hash": split_hash(self.dataset.index), "protocol": self.protocol},
        }

    def facts(self, folds: Mapping[str, Fold]) -> dict[str, Any]:
        """The facts that are in the manifest from the start."""
        classes = {name: fold.classes for name, fold in folds.items()}
        made = run_facts()
        return {
            **{"kind": KIND, "dataset": self.dataset.name, "model": self.model.name, "target": self.target.name},
            **{"similarity": self.model.similarity.name, "seed": self.cfg.seed, "weights": weights_hash(self.model)},
            **{"method": self.space.method, "space": self.space.fields},
            "objective": {"metric": self.cfg.objective, "higher_is_better": self.metric.higher_is_better},
            "default": self.default,
            "split": {"name": self.dataset.split_name, "hash": split_hash(self.dataset.index)},
            **{"classes": classes, "classes_hash": classes_hash(classes), "protocol": self.protocol},
            "pairs": {name: len(fold.pairs) for name, fold in folds.items()},
            **{**made, "versions": {**made["versions"], "optuna": version("optuna")}},
            **{"identity": self.identity(), "config_hash": config_hash(self.identity())},
        }

    @property
    def default(self) -> dict[str, Any]:
        """The default value of each field of the space."""
        return {name: getattr(self.explainer, name) for name in self.space.fields}

    def measure(self, fold: Fold, passes: Passes, fields: Mapping[str, Any]) -> pd.Series:
        """The objective of one setting by pair, NaN where undefined; a pair in two kinds counts once."""
        matrix = self.evaluate({self.space.method: self.variant(fields)}, fold, fold.batches, passes)
        return pd.Series(matrix.entries[self.cfg.objective, self.space.method])


def read_method(cfg: DictConfig, space: Space) -> tuple[dict[str, Any], Explainer]:
    """The method's config node, and the method with defaults; UserError if it lacks fields of the space."""
    if space.method not in cfg.explainer:
        raise UserError(f"the space is of {space.method}, which is not chosen: add explainer=[{space.method}]")
    explainer: Explainer = build(cfg.explainer[space.method])
    known = [field.name for field in dataclasses.fields(explainer)]  # type: ignore[arg-type]
    if unknown := [name for name in space.fields if name not in known]:
        raise UserError(
            f"space.fields names '{unknown[0]}', which is not a field of {space.method}: choose from {', '.join(known)}"
        )
    if isinstance(explainer, Preparable):
        raise UserError(
            f"{space.method} is prepared from training images, which tuning explains: it cannot be tuned; choose "
            "another space"
        )
    return resolve(cfg.explainer)[space.method], explainer


def read_objective(cfg: DictConfig) -> Metric:
    """The objective; UserError if neither higher nor lower is better."""
    if cfg.objective not in cfg.metric:
        raise UserError(
            f"objective={cfg.objective} is not among the metrics: choose one of {', '.join(map(str, cfg.metric))}, or "
            "other files with metric=[...]"
        )
    metric: Metric = build(cfg.metric[cfg.objective])
    if metric.higher_is_better is None:
        raise UserError(f"objective={cfg.objective} has no better end: choose a metric that has")
    return metric
