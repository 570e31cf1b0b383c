"""The steps of an evaluation, shared by a single process and by the tasks of a cluster."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from sfam_bench.app.inputs import Inputs
from sfam_bench.app.parts import (
    Choice,
    choose_passes,
    pair_choice,
    prepare_explainers,
    read_labels,
    select_supported,
    write_images,
    write_supports,
    write_vectors,
)
from sfam_bench.app.settings import build, resolve
from sfam_bench.core.errors import UserError
from sfam_bench.core.files import atomic
from sfam_bench.core.metric_card import metric_facts
from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import Gallery
from sfam_bench.core.targets import BestRival
from sfam_bench.core.verification import roc_of_pairs, verification_facts
from sfam_bench.datasets import pairs as pairing
from sfam_bench.datasets.batches import cut_batches, first_of_each_kind, load_batch
from sfam_bench.datasets.episodes import SUPPORTS, VECTOR, Episodes
from sfam_bench.datasets.planted.dataset import Planted
from sfam_bench.datasets.vector_pairs import VectorPairs
from sfam_bench.engine.passes import Passes
from sfam_bench.evaluation.cost import Cost
from sfam_bench.evaluation.evaluate import BatchResult, evaluate
from sfam_bench.evaluation.intervention import intervention_check, intervention_facts
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.explainers.shared.prepare import Prepared
from sfam_bench.metrics.shared.base import Metric
from sfam_bench.report.names import to_prose
from sfam_bench.report.page.pair_order import select_worst
from sfam_bench.retrieval.few_shot import describe_episodes, episode_facts
from sfam_bench.retrieval.recall import Catalogue, embed, retrieval, roles_of
from sfam_bench.runs.reader import read_run
from sfam_bench.runs.store import RunStore, frozen_passes

SIDES = ("query_id", "reference_id")
NOTHING: Mapping[str, Any] = MappingProxyType({})
CHECKED = 60  # queries of the intervention check
QUICK = 0.2  # seconds for the rate of a mode that is known


@dataclass(frozen=True)
class Evaluation:
    """The objects of a config, and the identity that a run must share with another to continue it."""

    cfg: DictConfig
    inputs: Inputs
    metrics: dict[str, Metric]
    identity: dict[str, Any]

    @classmethod
    def of(cls, cfg: DictConfig) -> "Evaluation":
        """Build them."""
        inputs, metrics = Inputs.of(cfg), build(cfg.metric)
        chosen = [name for name in ("episodes", "vectors") if cfg[name]]
        return cls(cfg, inputs, metrics, inputs.identity("metric", "pairs", "maps", *chosen))

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that a report reads from the manifest."""
        return self.inputs.facts("evaluate", steps=resolve(self.cfg)["steps"], metrics=metric_facts(self.metrics))

    @cached_property
    def choice(self) -> Choice:
        """How the pairs are chosen."""
        return pair_choice(self.cfg)

    @property
    def compares_images(self) -> bool:
        """Whether each reference is an image of the data set, which has a rank; not a prototype or a vector."""
        return not isinstance(self.choice, Episodes | VectorPairs)

    def embed_images(self) -> Gallery:
        """Every image that may be explained, embedded."""
        return embed(self.inputs.model, self.inputs.dataset, self.inputs.explained, self.cfg.batch_size)

    def select_pairs(self, gallery: Gallery) -> pd.DataFrame:
        """Which pairs to explain."""
        inputs = self.inputs
        pairs = self.choice(inputs.dataset, inputs.model.similarity, gallery, inputs.explained)
        if isinstance(inputs.target, BestRival) and self.compares_images:
            pairs = pairing.add_rivals(pairs, inputs.dataset, inputs.model.similarity, gallery, inputs.explained)
        inputs.target.check(has_negatives=bool((pairs["negative_id"] != "").all()))
        return pairs

    def frames(self, pairs: pd.DataFrame) -> list[pd.DataFrame]:
        """The pairs in batches."""
        return cut_batches(pairs, self.cfg.batch_size)

    def catalogue(self, gallery: Gallery) -> Catalogue:
        """The gallery with ids and labels."""
        explained = self.inputs.explained
        dataset = self.inputs.dataset
        return Catalogue(gallery, read_labels(dataset, explained), tuple(explained), roles_of(dataset, explained))

    def prepare_explainers(self) -> dict[str, Explainer]:
        """The explainers, those that need training images prepared."""
        inputs = self.inputs
        return dict(prepare_explainers(self.cfg, inputs.dataset, inputs.model, inputs.explainers, inputs.training))

    def properties(self, gallery: Gallery) -> dict[str, Any]:
        """What is measured of the model itself, for the manifest: retrieval, episodes and the intervention check."""
        return {"retrieval": self.retrieval(gallery), **self.episodes(gallery), **self.intervention()}

    def retrieval(self, gallery: Gallery) -> dict[str, Any]:
        """Retrieval measures of the embeddings; none, in one line, if each image is a class of its own."""
        found = self.catalogue(gallery)
        if len(found.labels.unique()) == len(found.labels):
            print(f"no retrieval measures: no class of {self.inputs.dataset.name} has two images")
            return {}
        recall_at = list(self.cfg.recall_at)
        return retrieval(self.inputs.model.similarity, gallery, found.labels, recall_at, roles=found.roles)

    def episodes(self, gallery: Gallery) -> dict[str, Any]:
        """The accuracy over all episodes under the key "episodes"; empty without them."""
        choice, inputs = self.choice, self.inputs
        if not isinstance(choice, Episodes):
            return {}
        facts = episode_facts(choice, inputs.dataset, inputs.model.similarity, gallery, inputs.explained)
        print(describe_episodes(facts))
        return {"episodes": facts}

    def intervention(self) -> dict[str, Any]:
        """The intervention check, where metrics need parts that can be redrawn and the data set is rendered."""
        dataset, model = self.inputs.dataset, self.inputs.model
        if not isinstance(dataset, Planted) or not any("redraws" in metric.needs for metric in self.metrics.values()):
            return {}
        check = intervention_check(lambda images: model.encode(images).embeddings, dataset, CHECKED, self.cfg.seed)
        return {"intervention": intervention_facts(check, dataset)}

    def write_images(self, store: RunStore, pairs: pd.DataFrame) -> None:
        """Store the images of a few pairs of each kind, or of all pairs."""
        count = self.cfg.maps.pictures
        self._write_images(store, pairs if count == "all" else first_of_each_kind(pairs, count))

    def write_worst_images(self, store: RunStore, pairs: pd.DataFrame) -> None:
        """Store the images of as many pairs with the worst values of the first method by each headline metric."""
        if (count := self.cfg.maps.pictures) and count != "all":
            worst = select_worst(read_run(store.root, allow_unfinished=True), count)
            keys = zip(*(pairs[side] for side in SIDES), strict=True)
            self._write_images(store, pairs[[pair in worst for pair in keys]])

    def _write_images(self, store: RunStore, pairs: pd.DataFrame) -> None:
        sides = [*SIDES] if self.compares_images else ["query_id"]
        write_images(store, self.inputs.dataset, pairs[sides].to_numpy().flat)
        if SUPPORTS in pairs:
            write_supports(store, self.inputs.dataset, pairs)
        elif VECTOR in pairs:  # one that has the id of an image is shown as that image
            known = pairs["reference_id"].isin(self.inputs.dataset.index.index)
            write_images(store, self.inputs.dataset, pairs["reference_id"][known])
            write_vectors(store, pairs[~known])

    def restore_bench(self, frame: pd.DataFrame, count: int, manifest: Mapping[str, Any]) -> "Bench":
        """The bench of a continued run, with its explainers and mode of passes; UserError if that mode fails here."""
        left_out, frozen = manifest.get("unsupported") or {}, frozen_passes(manifest)
        explainers = {name: made for name, made in self.prepare_explainers().items() if name not in left_out}
        known = {name: frozen[name] for name in ("mode", "batch")}
        bench = self.bench(explainers, frame, count, {**known, "seconds": QUICK, "cache": None})
        if (mode := bench.passes.facts["mode"]) != frozen["mode"]:
            why = bench.passes.facts["refused"].get(frozen["mode"])
            raise UserError(
                f"{self.cfg.run_dir} was started with passes.mode={frozen['mode']}, which cannot be used here ({why}; "
                f"{mode} can): continue it on the machine where it was started, or evaluate into another run_dir"
            )
        return bench

    def try_batch(self, frame: pd.DataFrame, count: int) -> "Bench":
        """Try explainers on a pair of `frame`; a bench of those that fit, with passes calibrated for `count` pairs."""
        inputs, cfg = self.inputs, self.cfg
        explainers = self.prepare_explainers()
        one = load_batch(inputs.dataset, frame[:1])
        fitting, costs, left_out = select_supported(cfg.unsupported, inputs.model, inputs.target, explainers, one)
        return replace(self.bench(fitting, frame, count), costs=costs, left_out=left_out)

    def bench(
        self, explainers: Mapping[str, Explainer], frame: pd.DataFrame, count: int, known: Mapping[str, Any] = NOTHING
    ) -> "Bench":
        """A bench of these explainers, with passes calibrated on `frame`; `known` are fields of the calibration."""
        images, model = load_batch(self.inputs.dataset, frame).query, self.inputs.model
        measure = replace(build(self.cfg.passes), **known)
        passes = choose_passes(measure, model, self.metrics, explainers, images, count, self.cfg.maps.save)
        return Bench(self, explainers, passes)


@dataclass(frozen=True)
class Bench:
    """An evaluation, ready to explain."""

    evaluation: Evaluation
    explainers: Mapping[str, Explainer]
    passes: Passes
    costs: dict[str, Cost] | None = None
    left_out: dict[str, str] | None = None

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Facts for the manifest: passes, costs, unsupported and prepared methods."""
        made = {name: made.facts for name, made in self.explainers.items() if isinstance(made, Prepared)}
        counted = {name: vars(cost) for name, cost in (self.costs or {}).items()}
        known = {"passes": self.passes.facts, "unsupported": self.left_out, "cost": counted}
        return {**known, **({"prepared": made} if made else {})}

    def explain(
        self, batches: Iterator[PairBatch] | Sequence[PairBatch], catalogue: Catalogue
    ) -> Iterator[BatchResult]:
        """Records, maps and curves of each batch."""
        cfg, inputs = self.evaluation.cfg, self.evaluation.inputs
        return evaluate(
            inputs.model,
            inputs.target,
            batches,
            self.explainers,
            self.evaluation.metrics,
            inputs.dataset.name,
            keep_maps=cfg.maps.save,
            passes=self.passes,
            gallery=catalogue if self.evaluation.compares_images else None,
            keep_curves=cfg.curves,
        )


def write_pairs(store: RunStore, pairs: pd.DataFrame) -> None:
    """Write the pairs; of pairs to verify also the points of the ROC, and print the verification in one line."""
    store.write_pairs(pairs)
    if (roc := roc_of_pairs(pairs)) is not None:
        with atomic(store.root / "roc.csv") as file:
            roc.to_csv(file, index=False)
        facts = verification_facts(pairs)
        print("verification: " + ", ".join(f"{to_prose(name)} {value:.4g}" for name, value in facts.items()))


def write(
    store: RunStore, number: int, frame: pd.DataFrame, shard: BatchResult, skipped: Sequence[tuple[str, str, str]] = ()
) -> None:
    """Write one batch, less the pairs that could not be explained; `skipped` says why."""
    left = {pair[:2] for pair in skipped}
    pairs = [pair for pair in zip(frame["query_id"], frame["reference_id"], strict=True) if pair not in left]
    ids = {side: np.array([pair[i] for pair in pairs], dtype=str) for i, side in enumerate(SIDES)}
    maps = {**ids, **{name: made.numpy() for name, made in shard.maps.items()}} if shard.maps else None
    store.write_chunk(number, shard.records, maps, shard.curves, skipped)
