"""part_agreement: one query with many references of other classes; takes no pass beyond encoding."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.maps import find_flaws, normalise, upsample
from sfam_bench.core.metric_card import Described, MetricCard, metric_facts
from sfam_bench.core.ranges import Count, Natural, Positive
from sfam_bench.core.records import Encoded, PairBatch, Record, Reference, Sample, Side, pair_seed
from sfam_bench.core.similarity import Gallery, SimilarityFunction
from sfam_bench.core.stream import prefetch, progress, split_chunks
from sfam_bench.core.targets import Similarity
from sfam_bench.core.types import Keypoints, RawMaps
from sfam_bench.datasets.attributes import GROUPS, Level, PartColours, part_colours
from sfam_bench.datasets.base import Dataset, roles
from sfam_bench.datasets.pairs import balanced_order
from sfam_bench.engine.modes import without_grad
from sfam_bench.engine.passes import Passes
from sfam_bench.evaluation.evaluate import raw_maps
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.metrics.part_agreement import rank_agreement, relevance_near_parts
from sfam_bench.models.similarity_model import SimilarityModel

METRIC, SHUFFLED = "part_agreement", "part_agreement_shuffled"
CARD = MetricCard(
    range=(-1, 1),
    group="Metrics that depend on the pair",
    label="part agreement",
    meaning="does the map follow the similarity of each part?",
    family="part_agreement",
)
CHANCE = replace(
    CARD,
    label="part agreement (classes exchanged)",
    meaning="part agreement with the descriptions of whole classes exchanged",
    role="chance",
    of=METRIC,
)
METRICS = metric_facts({METRIC: Described(CARD, higher_is_better=True), SHUFFLED: Described(CHANCE)})
MANY = "*"  # the reference id of a value over many references


@dataclass(frozen=True)
class Encodings:
    """All images of a run, encoded once: some 0.9 MB for an image of 224 px with 1280 channels of 7 x 7."""

    image_ids: tuple[str, ...]
    side: Side
    keypoints: tuple[Keypoints | None, ...]

    def __getitem__(self, rows: Sequence[int]) -> Side:
        chosen = list(rows)
        return Side(self.side.images[chosen], self.side.activations[chosen], self.side.embeddings[chosen])

    def pair(self, pairs: pd.DataFrame) -> PairBatch:
        """The first query with the first of its references, to test methods."""
        query, reference = pairs["query_id"].iloc[0], pairs["references"].iloc[0][0]
        ours, theirs = (self[[self.image_ids.index(image_id)]] for image_id in (query, reference))
        return PairBatch((query,), (reference,), ours.images, theirs.images)


def encode_images(model: SimilarityModel, dataset: Dataset, image_ids: Sequence[str], batch: int) -> Encodings:
    """Load and encode the images."""

    def load(chunk: Sequence[str]) -> list[Sample]:
        return [dataset.sample(image_id) for image_id in chunk]

    chunks, sides, keypoints = list(split_chunks(image_ids, batch)), list[Side](), list[Keypoints | None]()
    for samples in progress(prefetch(load, chunks), f"encode {dataset.name}", len(chunks), "batch"):
        sides.append(model.encode(torch.stack([sample.image for sample in samples])))
        keypoints += [sample.keypoints for sample in samples]
    whole = (torch.cat([getattr(side, name) for side in sides]) for name in ("images", "activations", "embeddings"))
    return Encodings(tuple(image_ids), Side(*whole), tuple(keypoints))


@dataclass(frozen=True)
class PartAgreement(Checked):
    """Does relevance near a part increase with its similarity over references of other classes; defined here.

    The value of a query is `rank_agreement`; its chance level is the value with the classes of the references shuffled.

    queries: number, spread evenly over the classes.
    references: the nearest images of other classes, at most `per_class` of each, since a class has one description.
    sigma: of the Gaussian around a part, as a share of the longer side of the image.
    level: of the attributes that are compared; auto uses those of images where the data set has them, else of classes.
    """

    queries: Count = 120
    references: Count = 60
    per_class: Count = 4
    sigma: Positive = 24 / 224
    level: Level = "auto"
    seed: Natural = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.references < 3:
            raise UserError(f"agreement.references={self.references}: a rank correlation needs at least 3")

    def colours(self, dataset: Dataset) -> PartColours:
        """The attributes of the data set's parts; raises UserError where it has none."""
        index, root = dataset.index, getattr(dataset, "root", None)
        parts = index["keypoints"].dropna() if "keypoints" in index else ()
        if root is None or not len(parts) or any(len(found) != len(GROUPS) for found in parts):
            raise UserError(
                f"{dataset.name} does not have CUB's {len(GROUPS)} parts: part agreement needs dataset=cub with parts/"
            )
        return part_colours(root, index["label"], self.level)

    def pairs(
        self, dataset: Dataset, similarity: SimilarityFunction, gallery: Gallery, image_ids: Sequence[str]
    ) -> pd.DataFrame:
        """One row for each query, with the ids of its references; `gallery` are the embeddings of the images."""
        index = dataset.index.loc[list(image_ids)]
        labels = index["label"].to_numpy()
        random = np.random.default_rng([self.seed, *METRIC.encode()])
        rows = []
        of_query, searched = roles(index)
        places = np.flatnonzero(of_query)
        for query in places[balanced_order(index["label"].iloc[places], random, None)[: self.queries]]:
            scores = similarity.matrix(gallery[[query]], gallery)[0].cpu()
            near = scores.argsort(descending=True, stable=True).numpy()
            near = near[(labels[near] != labels[query]) & searched[near]]
            turn = pd.Series(labels[near]).groupby(labels[near]).cumcount().to_numpy()
            near = near[turn < self.per_class][: self.references]
            references = [str(image_id) for image_id in index.index[near]]
            rows.append((str(index.index[query]), references, float(scores[near].mean())))
        frame = pd.DataFrame(rows, columns=["query_id", "references", "score"])
        frame.insert(1, "reference_id", MANY)
        own = index.loc[frame["query_id"], ["label", "class_name"]].to_numpy()
        return frame.assign(kind="other_classes", query_label=own[:, 0].astype(int), query_class=own[:, 1].astype(str))

    def __call__(
        self,
        model: SimilarityModel,
        dataset: Dataset,
        encoded: Encodings,
        pairs: pd.DataFrame,
        explainers: Mapping[str, Explainer],
        colours: PartColours,
        batch: int = 32,
    ) -> Iterator[list[Record]]:
        """The records of each query in turn; `pairs` as from `pairs`, `batch` maps at once."""
        place = {image_id: number for number, image_id in enumerate(encoded.image_ids)}
        passes, target = Passes(without_grad(model, model)), Similarity()
        names = (dataset.name, model.name, target.name)
        size = (encoded.side.images.shape[-2], encoded.side.images.shape[-1])
        for query, references in zip(pairs["query_id"], map(list, pairs["references"]), strict=True):
            at, rows = place[query], [place[reference] for reference in references]
            chunks = []
            for some in split_chunks(rows, batch):
                ours, theirs = encoded[[at] * len(some)], encoded[some]
                ids = tuple(encoded.image_ids[row] for row in some)
                batch_pairs = PairBatch((query,) * len(some), ids, ours.images, theirs.images)
                chunks.append((Encoded(ours, target.terms(Reference.of(theirs), None), passes), batch_pairs))
            agreement = colours.agreement(query, references)
            classes = dataset.index.loc[list(references), "label"].to_numpy()
            random = np.random.default_rng(pair_seed(self.seed, query, MANY, METRIC))
            agreements = {METRIC: agreement, SHUFFLED: agreement[shuffle_classes(classes, random)]}
            found = []
            for name, explainer in explainers.items():
                raw = torch.cat([raw_maps(explainer, model, *chunk) for chunk in chunks])
                relevance, flag = self.relevance(raw, size, encoded.keypoints[at])
                for metric, table in agreements.items():
                    value, why = (math.nan, flag) if flag else rank_agreement(relevance, table)
                    found.append(Record(*names, name, metric, query, MANY, value, why))
            yield found

    def relevance(
        self, raw: RawMaps, size: tuple[int, int], keypoints: Keypoints | None
    ) -> tuple[Float[np.ndarray, "refs parts"], str]:
        """The relevance near each part, 0 in constant maps, and the reason for a query without a value."""
        nonfinite, constant = (flags.cpu().numpy() for flags in find_flaws(raw))
        if keypoints is None:
            return np.empty((len(raw), 0)), "few_parts"
        found = relevance_near_parts(upsample(normalise(raw), size), keypoints, self.sigma * max(size)).cpu().numpy()
        few = (~constant).sum() < 3 <= len(raw)
        return found, "nonfinite_map" if nonfinite.any() else "constant_map" if few else ""


def passes_facts(device: torch.device) -> dict[str, Any]:
    """The forward passes of this evaluation, for the manifest."""
    batch = Passes(lambda images: images).batch
    return {"mode": "eager", "batch": batch, "threads": torch.get_num_threads(), "device": device.type}


def shuffle_classes(classes: Int[np.ndarray, " refs"], random: np.random.Generator) -> Int[np.ndarray, " refs"]:
    """For each reference one of another class; whole classes are exchanged, since those of one class are similar."""
    members = [np.flatnonzero(classes == label) for label in np.unique(classes)]
    found = np.empty(len(classes), dtype=int)
    order = random.permutation(len(members))
    for one, other in zip(order, np.roll(order, 1), strict=True):  # in a circle, so that no class keeps its place
        found[members[one]] = np.resize(members[other], len(members[one]))
    return found
