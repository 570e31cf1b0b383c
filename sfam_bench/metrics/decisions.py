"""While pixels go or come: does the query still find its reference, and is it still ahead of the negative?"""

from collections.abc import Callable
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
from sfam_bench.metrics.shared.base import Explained, Measured, defined, sound
from sfam_bench.metrics.shared.steps import Steps, named_steps, placed
from sfam_bench.metrics.shared.walks import Curves, Direction, Walk

Curve: TypeAlias = Literal["deletion", "insertion", "insertion_minus_deletion"]
DECISIONS = {"reference": "rank", "class": "lead", "margin": "margin"}  # and the reading that decides
AREAS = {
    "rank": ("retrieval rank", "rank of the reference in the gallery while pixels go or come: 1 first, 0 last"),
    "recall_at_1": ("retrieval recall@1", "share of the way on which the nearest image is of the query's class"),
    "average_precision": (
        "retrieval average precision",
        "average precision over the query's class while pixels go or come",
    ),
}
UNTIL = {
    ("reference", "deletion"): ("match is lost", "go until the query no longer finds its reference first"),
    ("reference", "insertion"): ("match is found", "come until the query finds its reference first"),
    ("class", "deletion"): ("class is lost", "go until the nearest image is of another class"),
    ("class", "insertion"): ("class is found", "come until the nearest image is of the query's class"),
    ("margin", "deletion"): ("negative is nearer", "go until the query is nearer to the other class"),
    ("margin", "insertion"): ("reference is nearer", "come until the query is nearer to its reference"),
}


@dataclass(frozen=True)
class RetrievalArea(Checked):
    """Area under how well the query finds its reference as pixels go or come, most relevant first; defined here.

    Leave-one-out in the gallery of the run, whose embeddings stay as they are; ties count against. With the baseline
    and steps of deletion or insertion it reads their passes. Values are not set in relation to the ends of the walk.

    of: `rank` of the reference, as 1 - log(rank) / log(items), from 1 (found first) to 0 (last), since the reciprocal
        hardly tells rank 10 from rank 1000; `recall_at_1`, the share of the way on which the nearest item is of the
        query's class; `average_precision` over the query's class.
    walk: which curve, or the gap between the two.
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
                "ranks on a log scale hang on the size of the gallery: a rank drawn at random gives 1 / log(items)",
                "in a gallery of one class recall@1 and average precision are always 1",
            ),
            group="Metrics that see the pair",
            label=label(f"{name}, {AUC[self.walk]}", self.baseline.name),
            meaning=meaning,
            family=f"retrieval_{self.of}_{self.walk}",
            baseline=self.baseline.name,
            steps=named_steps(self.steps),
        )

    @property
    def higher_is_better(self) -> bool:
        return self.walk != "deletion"

    @property
    def probes(self) -> tuple[Walk, ...]:
        return walks(self.walk, self.baseline, self.steps)

    def asked(self, explained: Explained) -> Flags:
        return sound(self._reasons(explained))

    def _reasons(self, explained: Explained) -> dict[str, Flags]:
        return unfit(explained, of_class=self.of != "rank")

    def __call__(self, explained: Explained) -> Measured:
        reasons = self._reasons(explained)
        asked = sound(reasons)
        return defined(area(explained, self.probes, lambda walk: self._curve(walk, explained, asked)), reasons)

    def _curve(self, walk: Walk, explained: Explained, asked: Flags) -> Curves:
        name = {"recall_at_1": DECISIONS["class"]}.get(self.of, self.of)
        found = walk.readings(explained, asked, name)
        if self.of == "rank":
            return 1 - found.log() / found.new_tensor([log(max(count, 2)) for count in others(explained)])[:, None]
        return found if self.of == "average_precision" else holds("class", found).to(found)


@dataclass(frozen=True)
class MarginArea(Checked):
    """Area under the margin over the negative as pixels go or come, most relevant first; defined here.

    The margin is m = s(query, reference) - s(query, negative), the area that of (m - m_base) / (m_full - m_base), so
    that all methods share both ends; NaN where m_full - m_base < `min_range`, in units of the score. With target=margin
    this is deletion or insertion itself; with target=similarity it asks whether the map of a match also explains the
    choice between two. With their baseline and steps it reads their passes.

    walk: which curve, or the gap between the two.
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
            degenerate=("a margin that grows on the way gives areas beyond 0 and 1",),
            group="Metrics that see the pair",
            label=label(f"margin, {AUC[self.walk]}", self.baseline.name),
            meaning="the margin over another class while pixels go or come",
            family=f"margin_{self.walk}",
            baseline=self.baseline.name,
            steps=named_steps(self.steps),
        )

    @property
    def higher_is_better(self) -> bool:
        return self.walk != "deletion"

    @property
    def probes(self) -> tuple[Walk, ...]:
        return walks(self.walk, self.baseline, self.steps)

    def asked(self, explained: Explained) -> Flags:
        return sound(self._reasons(explained))

    def _reasons(self, explained: Explained) -> dict[str, Flags]:
        full, base = ends(explained, self.baseline, "margin")
        return {"zero_range": full - base < self.min_range}

    def __call__(self, explained: Explained) -> Measured:
        reasons = self._reasons(explained)
        asked = sound(reasons)
        full, base = (end[:, None] for end in ends(explained, self.baseline, "margin"))

        def curve(walk: Walk) -> Curves:
            return (walk.readings(explained, asked, "margin") - base) / (full - base)

        return defined(area(explained, self.probes, curve), reasons)


@dataclass(frozen=True)
class PixelsUntil(Checked):
    """Fraction of the pixels, most relevant first, that go until the query is decided otherwise; defined here.

    It is that of the first step of the walk at which the decision does not hold, or on insertion at which it holds, so
    that values are fractions that `steps` names; 1 where it holds to the end. Ties count against. With the baseline and
    steps of deletion or insertion it reads their passes.

    decision: the `reference` is the first that the query finds; the first is of the query's `class` (recall@1); the
        query is nearer to its reference than to its negative (`margin`).
    walk: pixels go until it is lost, or come until it is made.
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
            degenerate=(
                "deletion may never change a decision that holds for the baseline image too: 1, whatever the map",
            ),
            group="Metrics that see the pair",
            label=label(f"pixels until the {until}", self.baseline.name),
            meaning=f"share of pixels that {meaning}",
            family=f"pixels_until_{self.decision}_{self.walk}",
            baseline=self.baseline.name,
            steps=named_steps(self.steps),
        )

    @property
    def needs(self) -> tuple[str, ...]:
        return ("negative",) if self.decision == "margin" else ("gallery",)

    @property
    def probes(self) -> tuple[Walk, ...]:
        return walks(self.walk, self.baseline, self.steps)

    def asked(self, explained: Explained) -> Flags:
        return sound(self._reasons(explained))

    def _reasons(self, explained: Explained) -> dict[str, Flags]:
        full, base = (holds(self.decision, end) for end in ends(explained, self.baseline, DECISIONS[self.decision]))
        made = {"holds_when_empty": base} if self.walk == "insertion" else {}
        if self.decision == "margin":
            return {"not_ahead": ~full, **made}
        return {**unfit(explained, of_class=self.decision == "class"), "not_matched": ~full, **made}

    def __call__(self, explained: Explained) -> Measured:
        reasons = self._reasons(explained)
        (walk,) = self.probes
        held = holds(self.decision, walk.readings(explained, sound(reasons), DECISIONS[self.decision]))
        over = held if self.walk == "insertion" else ~held
        over[:, -1] = True  # at the latest
        pixels = explained.maps[0].numel()
        counts = explained.maps.new_tensor(placed(self.steps, pixels)[0])
        return defined(counts[over.int().argmax(dim=1)] / pixels, reasons)


def walks(curve: Curve, baseline: Baseline, steps: Steps) -> tuple[Walk, ...]:
    """The walks of a curve, insertion first: the same that deletion and insertion ask."""
    ways: tuple[Direction, ...] = ("insertion", "deletion")
    return tuple(Walk(way, baseline, steps) for way in ways if way in curve)


def area(explained: Explained, probes: tuple[Walk, ...], curve: Callable[[Walk], Curves]) -> Scores:
    """The area under a walk's curve, or of the first walk less that of the second."""
    areas = [walk.integral(curve(walk), explained) for walk in probes]
    return areas[0] - areas[1] if len(areas) == 2 else areas[0]


def ends(explained: Explained, baseline: Baseline, name: str) -> tuple[Scores, Scores]:
    """A reading of the queries untouched, and of those without their content."""
    scene = explained.scene
    return scene.reading(scene.encoded.query.embeddings, name), scene.reading(scene.bare(baseline), name)


def holds(decision: str, readings: Curves | Scores) -> torch.Tensor:
    """Whether a decision holds where this is read; not where nothing is."""
    return readings < 2 if decision == "reference" else readings > 0


def others(explained: Explained) -> list[int]:
    """How many items of the gallery each query ranks."""
    gallery, queries = explained.scene.gallery, explained.scene.pairs.query_ids
    return [0 if gallery is None else int(gallery.others(query).sum()) for query in queries]


def unfit(explained: Explained, of_class: bool) -> dict[str, Flags]:
    """Pairs that a gallery cannot rank: an image and itself; by class, those of two classes, or alone in theirs."""
    scene = explained.scene
    if scene.gallery is None:
        raise ValueError("there is no gallery")
    names = scene.pairs.query_ids
    query, reference = (scene.gallery.find_places(ids) for ids in (names, scene.pairs.reference_ids))
    labels = scene.gallery.labels
    reasons = {"self_pair": query == reference}
    if of_class:
        alike = (labels[place] == labels[scene.gallery.others(name)] for place, name in zip(query, names, strict=True))
        reasons["alone_in_class"] = torch.stack([~found.any() for found in alike])
        reasons["other_class"] = labels[query] != labels[reference]
    return reasons
