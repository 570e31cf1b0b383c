"""Does the map change with the reference? One that does not explains the object, not the pair."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias

import torch

from sfam_bench.core.cache import Cache
from sfam_bench.core.errors import Checked
from sfam_bench.core.metric_card import ANY, MetricCard, label
from sfam_bench.core.ranges import Natural
from sfam_bench.core.records import pair_seed
from sfam_bench.core.types import Flags, Images
from sfam_bench.metrics.shared.base import Explained, Measured, defined
from sfam_bench.metrics.shared.likeness import Changed, Comparing, Remaking, changed
from sfam_bench.metrics.shared.scene import Scene

Other: TypeAlias = Literal["same_class", "other_class", "noise"]
OTHERS = {"same_class": "one of its class", "other_class": "one of another class", "noise": "noise"}


@dataclass(frozen=True)
class OtherReference:
    """The same queries with other references; ids stay, so that what a method draws by them stays too."""

    to: Other
    seed: int

    def __call__(self, scene: Scene) -> Changed:
        images = self.images(scene)
        lacking = self.lacking(scene)[:, None, None, None].to(images.device)
        images = torch.where(lacking, scene.pairs.reference.to(images), images)
        first, *rest = scene.encoded.terms
        terms = (replace(first, side=scene.model.encode(images)), *rest)
        encoded = replace(scene.encoded, terms=terms, kept=Cache())
        return Changed(scene.model, encoded, replace(scene.pairs, reference=images))

    def images(self, scene: Scene) -> Images:
        """The other references, NaN where a pair has none."""
        pairs = scene.pairs
        if self.to != "noise":
            return pairs.others[self.to]
        ids = zip(pairs.query_ids, pairs.reference_ids, strict=True)
        draws = [torch.Generator().manual_seed(pair_seed(self.seed, *pair, "reference")) for pair in ids]
        return torch.stack([torch.rand(pairs.reference.shape[1:], generator=draw) for draw in draws])

    def lacking(self, scene: Scene) -> Flags:
        """Pairs that have no such reference."""
        if self.to == "noise":
            return torch.zeros(len(scene.pairs), dtype=torch.bool, device=scene.model.device)
        return scene.pairs.others[self.to].isnan().flatten(1).any(dim=1).to(scene.model.device)


@dataclass(frozen=True)
class ReferenceSensitivity(Comparing):
    """1 - Spearman (or SSIM) of the query's maps before two references, the pair's own and another; defined here.

    0 is a map that does not change. A method passes where its map changes at all with a reference of another class, and
    more than with one of the same (reference_sensitivity_contrast); how much is no grade, and has no direction. How
    unlike the references are to the model is reference_similarity. Query and reference exchanged is no other reference:
    the query's map in the swapped pair is by definition its map in this one (see ExchangeAsymmetry).

    to: the other reference: an image of the reference's class, of another class than both, or uniform noise.
    seed: of the noise, with the ids of the pair.
    """

    higher_is_better: ClassVar[bool | None] = None

    to: Other = "other_class"
    seed: Natural = 0

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=(0, 2),
            remakes=1,
            degenerate=(
                "a map that is drawn anew for each reference, or whose sign flips, changes most: read it beside "
                "metrics of faithfulness",
                "ids stay those of the pair, so that the control chance, which depends on them alone, does not change",
            ),
            group="Metrics that see the pair",
            label=label("reference sensitivity", self.to, *self.likeness),
            meaning=f"how much the map changes with the reference: {OTHERS[self.to]}",
            family="reference_sensitivity",
        )

    @property
    def needs(self) -> tuple[str, ...]:
        return () if self.to == "noise" else (self.to,)

    def measured(self, explained: Explained) -> Measured:
        change = OtherReference(self.to, self.seed)
        found = self.change(explained, change)
        return defined(1 - found.values, {"no_other_reference": change.lacking(explained.scene), **found.reasons})


@dataclass(frozen=True)
class ReferenceContrast(Comparing):
    """How much more the map changes with a reference of another class than with one of the same; defined here.

    The difference of two reference sensitivities; 0 for a map that is blind to the reference, and in the mean for one
    that is drawn anew each time. A method passes where the interval lies above 0; how far is no grade.
    """

    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("same_class", "other_class")

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=(-2, 2),
            remakes=2,
            degenerate=(
                "a model that takes the two references for alike leaves nothing to tell: see reference_similarity",
                "beyond 0 more is not truer: on the planted set the exact decomposition changes less than Grad-CAM",
            ),
            group="Metrics that see the pair",
            label=label("reference sensitivity contrast", *self.likeness),
            meaning="does the map change more with another class's reference than with its own?",
            family="reference_sensitivity_contrast",
        )

    def measured(self, explained: Explained) -> Measured:
        same, other = (
            ReferenceSensitivity(self.sampling, self.measure, self.of, to)(explained)
            for to in ("same_class", "other_class")
        )
        reasons = {name: flags | same.reasons[name] for name, flags in other.reasons.items()}
        return defined(other.values - same.values, reasons)


@dataclass(frozen=True)
class ReferenceSimilarity(Checked):
    """The model's similarity of the pair's reference to the other one of reference_sensitivity; defined here.

    A fact of the pair, the same for all methods: references that the model takes for one cannot change a map.

    to, seed: as there.
    """

    higher_is_better: ClassVar[bool | None] = None

    to: Other = "other_class"
    seed: Natural = 0

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=ANY,
            group="Metrics that see the pair",
            label=label("similarity of the references", self.to),
            meaning=f"how alike the model finds the reference and {OTHERS[self.to]}",
            family="reference_similarity",
        )

    @property
    def needs(self) -> tuple[str, ...]:
        return () if self.to == "noise" else (self.to,)

    def __call__(self, explained: Explained) -> Measured:
        scene, change = explained.scene, OtherReference(self.to, self.seed)
        other, own = (seen.terms[0].side.embeddings for seen in (changed(scene, change).encoded, scene.encoded))
        return defined(scene.model.similarity(own, other), {"no_other_reference": change.lacking(scene)})


@dataclass(frozen=True)
class ExchangeAsymmetry(Remaking):
    """|a - b| / (|a| + |b|), a and b the totals of the raw maps of query and of reference; defined here.

    The score does not change when query and reference are exchanged. A method that shares it out keeps to that: 0, with
    heads and poolings for which its maps sum to the score. 1 is one map without a total, or two of opposite sign.
    """

    higher_is_better: ClassVar[bool | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    card: ClassVar[MetricCard] = MetricCard(
        range=(0, 1),
        remakes=1,
        degenerate=(
            "maps that share out nothing may have like totals too: uniform noise is near 0",
            "it says nothing of a target with two references, which cannot be exchanged",
        ),
        group="Metrics that see the pair",
        label="exchange asymmetry",
        meaning="how unlike the totals of the maps of query and reference are",
        family="exchange_asymmetry",
    )

    def measured(self, explained: Explained) -> Measured:
        other, own = explained.other, explained.raw
        if other is None or other.raw is None or own is None:
            nothing = explained.maps.new_full((len(explained.maps),), torch.nan)
            return Measured(nothing, {"no_raw_map": nothing.isnan()})
        one, two = (raw.double().sum(dim=(1, 2)) for raw in (own, other.raw))
        whole = one.abs() + two.abs()
        share = (one - two).abs() / whole
        reasons = {"nonfinite_map": ~whole.isfinite(), "no_total": whole == 0}
        return defined(share.to(explained.maps.dtype), reasons)
