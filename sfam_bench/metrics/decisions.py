"""Retrieval and margin along deletion and insertion: does the query still find its reference?"""

from dataclasses import dataclass
from math import log
from typing import ClassVar, Literal, TypeAlias

import torch

from sfam_bench.core.baselines import Baseline
from sfam_bench.core.errors import Checked
from sfam_bench.core.metric_card import ANY, SHARE, MetricCard, label
from sfam_bench.core.ranges import Finite
from sfam_bench.core.types import Flags, Scores
from sfam_bench.metrics.perturbation import AUC, MEAN, TWENTY
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values, no_reason
from sfam_bench.metrics.shared.steps import Steps, format_steps, sample_steps
from sfam_bench.metrics.shared.walks import Curves, Direction, Walk, area

Curve: TypeAlias = Literal["deletion", "insertion", "insertion_minus_deletion"]
DECISIONS = {"reference": "rank", "class": "lead", "margin": "margin"}  # and the column that decides
AREAS = {
    "rank": ("retrieval rank", "rank of the reference in the gallery while pixels are changed: 1 first, 0 last"),
    "recall_at_1": ("retrieval recall@1", "share of the curve on which the nearest image is of the query's class"),
    "average_precision": (
        "retrieval average precision",
        "average precision over the query's class while pixels are changed",
    ),
}
UNTIL = {
    ("reference", "deletion"): ("match is lost", "are removed until the query no longer finds its reference first"),
    ("reference", "insertion"): ("match is found", "are restored until the query finds its reference first"),
    ("class", "deletion"): ("class is lost", "are removed until the nearest image is of another class"),
    ("class", "insertion"): ("class is found", "are restored until the nearest image is of the query's class"),
    ("margin", "deletion"): ("negative is nearer", "are removed until the query is nearer to the negative"),
    ("margin", "insertion"): ("reference is nearer", "are restored until the query is nearer to its reference"),
}


@dataclass(frozen=True)
class RetrievalArea(Checked):
    """Area under a retrieval measure of the query as pixels are deleted or inserted, most relevant first; defined here.

    The query searches the gallery of the run, without itself; the gallery's embeddings do not change, and ties count as
    errors. With the baseline and steps of deletion or insertion it shares their passes. The curve is not scaled.

    of: `rank` of the reference, as 1 - log(rank) / log(items), from 1 (first) to 0 (last), since the reciprocal hardly
        separates rank 10 from rank 1000; `recall_at_1`, the share of the curve on which the nearest item is of the
        query's class; `average_precision` over the query's class.
    walk: the curve, or the difference of both.
    """

    of: Literal["rank", "recall_at_1", "average_precision"]
    walk: Curve = "deletion"
    baseline: Baseline = MEAN
    steps: Steps = TWENTY
    needs: ClassVar[tuple[str, ...]] = ("gallery",)
    share: ClassVar[float] = 1.0

    @property
    def card(self) -> MetricCard:
        name, meaning = AREAS[self.of]
        return MetricCard(
            range=(-1, 1) if self.walk == "insertion_minus_deletion" else SHARE,
            degenerate=(
                "ranks on a log scale depend on the size of the gallery: a random rank gives 1 / log(items)",
                "in a gallery of one class recall@1 and average precision are always 1",
            ),
            group="Metrics that depend on the pair",
            label=label(f"{name}, {AUC[self.walk]}", self.baseline.name),
            meaning=meaning,
            family=f"retrieval_{self.of}_{self.walk}",
            baseline=self.baseline.name,
            steps=format_steps(self.steps),
        )

    @property
    def higher_is_better(self) -> bool:
        return self.walk != "deletion"

    @property
    def probes(self) -> tuple[Walk, ...]:
        return walks(self.walk, self.baseline, self.steps)

    def reasons(self, explained: Explained) -> dict[str, Flags]:
        return ranking_reasons(explained, of_class=self.of != "rank")

    def __call__(self, explained: Explained) -> Measured:
        reasons = self.reasons(explained)
        needed = no_reason(reasons)
        name = {"recall_at_1": DECISIONS["class"]}.get(self.of, self.of)

        def area_of(walk: Walk) -> Scores:
            found = walk.readings(explained, needed, name)
            if self.of == "rank":
                logs = found.new_tensor([log(max(count, 2)) for count in count_ranked(explained)])
                found = 1 - found.log() / logs[:, None]
            elif self.of == "recall_at_1":
                found = holds("class", found).to(found)
            return walk.integral(found, explained)

        return mask_values(area(self.probes, area_of), reasons)


@dataclass(frozen=True)
class MarginArea(Checked):
    """Area under the margin over the negative as pixels are deleted or inserted, most relevant first; defined here.

    The negative is an image of another class. With target=margin this is deletion or insertion; with target=similarity
    it tests whether the map of a pair also explains the margin. With the baseline and steps of deletion or insertion it
    shares their passes.

    walk: "deletion", "insertion", or "insertion_minus_deletion".
    min_range: the value is NaN where g_full - g_base, a difference of margins, is smaller than this.
    """

    walk: Curve
    baseline: Baseline = MEAN
    steps: Steps = TWENTY
    min_range: Finite = 0.05
    needs: ClassVar[tuple[str, ...]] = ("negative",)
    share: ClassVar[float] = 1.0

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=ANY,
            degenerate=("where the margin is below g_base or above g_full, the area may lie outside of [0, 1]",),
            group="Metrics that depend on the pair",
            label=label(f"margin, {AUC[self.walk]}", self.baseline.name),
            meaning="margin over another class while pixels are changed",
            family=f"margin_{self.walk}",
            baseline=self.baseline.name,
            steps=format_steps(self.steps),
        )

    @property
    def higher_is_better(self) -> bool:
        return self.walk != "deletion"

    @property
    def probes(self) -> tuple[Walk, ...]:
        return walks(self.walk, self.baseline, self.steps)

    def reasons(self, explained: Explained) -> dict[str, Flags]:
        full, base = read_ends(explained, self.baseline, "margin")
        return {"zero_range": full - base < self.min_range}

    def __call__(self, explained: Explained) -> Measured:
        reasons = self.reasons(explained)
        needed = no_reason(reasons)
        full, base = (end[:, None] for end in read_ends(explained, self.baseline, "margin"))

        def area_of(walk: Walk) -> Scores:
            return walk.integral((walk.readings(explained, needed, "margin") - base) / (full - base), explained)

        return mask_values(area(self.probes, area_of), reasons)


@dataclass(frozen=True)
class PixelsUntil(Checked):
    """Fraction of the pixels, most relevant first, that are changed until a decision on the query flips; defined here.

    The fraction at the first step of the walk at which the decision does not hold, or on insertion at which it holds,
    so that values are fractions of `steps`; 1 where it never flips. Ties count as errors. With the baseline and steps
    of deletion or insertion it shares their passes.

    decision: the query finds its `reference` first; the first item is of the query's `class` (recall@1); the query is
        nearer to its reference than to its negative (`margin`).
    walk: pixels are deleted until the decision is lost, or inserted until it is made.
    """

    decision: Literal["reference", "class", "margin"]
    walk: Direction = "deletion"
    baseline: Baseline = MEAN
    steps: Steps = TWENTY
    higher_is_better: ClassVar[bool] = False
    share: ClassVar[float] = 1.0

    @property
    def card(self) -> MetricCard:
        until, meaning = UNTIL[self.decision, self.walk]
        return MetricCard(
            range=SHARE,
            degenerate=("where a decision also holds for the baseline image, deletion may give 1 for any map",),
            group="Metrics that depend on the pair",
            label=label(f"pixels until the {until}", self.baseline.name),
            meaning=f"share of pixels that {meaning}",
            family=f"pixels_until_{self.decision}_{self.walk}",
            baseline=self.baseline.name,
            steps=format_steps(self.steps),
        )

    @property
    def needs(self) -> tuple[str, ...]:
        return ("negative",) if self.decision == "margin" else ("gallery",)

    @property
    def probes(self) -> tuple[Walk, ...]:
        return walks(self.walk, self.baseline, self.steps)

    def reasons(self, explained: Explained) -> dict[str, Flags]:
        ends = read_ends(explained, self.baseline, DECISIONS[self.decision])
        full, base = (holds(self.decision, end) for end in ends)
        empty = {"holds_when_empty": base} if self.walk == "insertion" else {}
        if self.decision == "margin":
            return {"not_ahead": ~full, **empty}
        return {**ranking_reasons(explained, of_class=self.decision == "class"), "not_matched": ~full, **empty}

    def __call__(self, explained: Explained) -> Measured:
        reasons = self.reasons(explained)
        (walk,) = self.probes
        held = holds(self.decision, walk.readings(explained, no_reason(reasons), DECISIONS[self.decision]))
        flipped = held if self.walk == "insertion" else ~held
        flipped[:, -1] = True
        pixels = explained.maps[0].numel()
        counts = explained.maps.new_tensor(sample_steps(self.steps, pixels)[0])
        return mask_values(counts[flipped.int().argmax(dim=1)] / pixels, reasons)


def walks(curve: Curve, baseline: Baseline, steps: Steps) -> tuple[Walk, ...]:
    """The walks of a curve, insertion first; they are those of deletion and insertion."""
    ways: tuple[Direction, ...] = ("insertion", "deletion")
    return tuple(Walk(way, baseline, steps) for way in ways if way in curve)


def read_ends(explained: Explained, baseline: Baseline, name: str) -> tuple[Scores, Scores]:
    """A column for the queries and for their baseline images."""
    scene = explained.scene
    return scene.reading(scene.encoded.query.embeddings, name), scene.reading(scene.bare(baseline), name)


def holds(decision: str, readings: Curves | Scores) -> torch.Tensor:
    """Whether a decision holds by its column; False where it is NaN."""
    return readings < 2 if decision == "reference" else readings > 0


def count_ranked(explained: Explained) -> list[int]:
    """The number of items of the gallery that each query ranks."""
    gallery, queries = explained.scene.gallery, explained.scene.pairs.query_ids
    return [0 if gallery is None else int(gallery.others(query).sum()) for query in queries]


def ranking_reasons(explained: Explained, of_class: bool) -> dict[str, Flags]:
    """By reason, pairs that a gallery cannot rank; by class also those of two classes, or alone in one."""
    scene = explained.scene
    if scene.gallery is None:
        raise ValueError("these pairs have no gallery")
    names = scene.pairs.query_ids
    query, reference = (scene.gallery.find_places(ids) for ids in (names, scene.pairs.reference_ids))
    labels = scene.gallery.labels
    ranked = torch.stack([scene.gallery.others(name) for name in names])
    reasons = {"self_pair": query == reference}
    reasons["not_searched"] = ~ranked.gather(1, reference[:, None])[:, 0]
    if of_class:
        reasons["alone_in_class"] = ~(ranked & (labels == labels[query][:, None])).any(dim=1)
        reasons["other_class"] = labels[query] != labels[reference]
    return reasons
