"""Sensitivity to the reference: a map that does not change with it explains the object, not the pair."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias

import torch

from sfam_bench.core.cache import Cache
from sfam_bench.core.errors import Checked
from sfam_bench.core.metric_card import ANY, MetricCard, label
from sfam_bench.core.ranges import Natural
from sfam_bench.core.records import Reference, pair_seed
from sfam_bench.core.types import Flags, Images
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values
from sfam_bench.metrics.shared.likeness import Changed, Comparing, Remaking, apply_change
from sfam_bench.metrics.shared.scene import Scene

Other: TypeAlias = Literal["same_class", "other_class", "noise"]
OTHERS = {"same_class": "one of its class", "other_class": "one of another class", "noise": "noise"}


@dataclass(frozen=True)
class OtherReference:
    """The same queries with other references; ids do not change, and so do the random draws of methods."""

    to: Other
    seed: int

    def __call__(self, scene: Scene) -> Changed:
        images = self.images(scene)
        lacking = self.lacking(scene)[:, None, None, None].to(images.device)
        images = torch.where(lacking, scene.pairs.query.to(images), images)  # their values are left out
        first, *rest = scene.encoded.terms
        terms = (replace(first, side=Reference.of(scene.model.encode(images))), *rest)
        encoded = replace(scene.encoded, terms=terms, kept=Cache())
        return Changed(scene.model, encoded, replace(scene.pairs, reference=images))

    def images(self, scene: Scene) -> Images:
        """The other references, NaN where a pair has none."""
        pairs = scene.pairs
        if self.to != "noise":
            return pairs.others[self.to]
        ids = zip(pairs.query_ids, pairs.reference_ids, strict=True)
        draws = [torch.Generator().manual_seed(pair_seed(self.seed, *pair, "reference")) for pair in ids]
        return torch.stack([torch.rand(pairs.query.shape[1:], generator=draw) for draw in draws])

    def lacking(self, scene: Scene) -> Flags:
        """Pairs that have no such reference."""
        if self.to == "noise":
            return torch.zeros(len(scene.pairs), dtype=torch.bool, device=scene.model.device)
        return scene.pairs.others[self.to].isnan().flatten(1).any(dim=1).to(scene.model.device)


@dataclass(frozen=True)
class ReferenceSensitivity(Comparing):
    """1 - Spearman (or SSIM) of the query's maps for two references, the pair's own and another; defined here.

    0 is a map that does not change. A method passes where its map changes with a reference of another class, and more
    than with one of the same class (reference_sensitivity_contrast); the amount is not a score and has no direction.
    How similar the references are is reference_similarity. Swapping query and reference is not another reference: the
    query's map in the swapped pair is by definition the same (see ExchangeAsymmetry).

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
                "a map that is random for each reference, or whose sign flips, changes most: compare with faithfulness",
                "ids do not change, so that the control chance, which depends on them alone, does not change either",
            ),
            group="Metrics that depend on the pair",
            label=label("reference sensitivity", self.to, *self.likeness),
            meaning=f"how much the map changes with the reference: {OTHERS[self.to]}",
            family="reference_sensitivity",
        )

    @property
    def needs(self) -> tuple[str, ...]:
        return () if self.to == "noise" else (self.to,)

    def measure_remakes(self, explained: Explained) -> Measured:
        change = OtherReference(self.to, self.seed)
        found = self.compare_changed(explained, change)
        return mask_values(1 - found.values, {"no_other_reference": change.lacking(explained.scene), **found.reasons})


@dataclass(frozen=True)
class ReferenceContrast(Comparing):
    """How much more the map changes with a reference of another class than with one of the same class; defined here.

    The difference of two reference sensitivities; 0 for a map that ignores the reference, and on average for a random
    one. A method passes where the interval lies above 0; the amount is not a score.
    """

    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("same_class", "other_class")

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=(-2, 2),
            remakes=2,
            degenerate=(
                "where the model embeds both references alike, the map cannot differ: see reference_similarity",
                "above 0 more is not better: on the planted set the exact decomposition changes less than Grad-CAM",
            ),
            group="Metrics that depend on the pair",
            label=label("reference sensitivity contrast", *self.likeness),
            meaning="does the map change more with another class's reference than with its own?",
            family="reference_sensitivity_contrast",
        )

    def measure_remakes(self, explained: Explained) -> Measured:
        same, other = (
            ReferenceSensitivity(self.expensive, self.measure, self.of, to)(explained)
            for to in ("same_class", "other_class")
        )
        reasons = {name: flags | same.reasons[name] for name, flags in other.reasons.items()}
        return mask_values(other.values - same.values, reasons)


@dataclass(frozen=True)
class ReferenceSimilarity(Checked):
    """The model's similarity of the pair's reference to that of reference_sensitivity; defined here.

    The same for all methods: references with equal embeddings cannot change a map.

    to, seed: as in reference_sensitivity.
    """

    higher_is_better: ClassVar[bool | None] = None

    to: Other = "other_class"
    seed: Natural = 0

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=ANY,
            group="Metrics that depend on the pair",
            label=label("similarity of the references", self.to),
            meaning=f"the model's similarity of the reference and {OTHERS[self.to]}",
            family="reference_similarity",
        )

    @property
    def needs(self) -> tuple[str, ...]:
        return () if self.to == "noise" else (self.to,)

    def __call__(self, explained: Explained) -> Measured:
        scene, change = explained.scene, OtherReference(self.to, self.seed)
        scenes = apply_change(scene, change), scene
        other, own = (found.encoded.terms[0].side.embeddings for found in scenes)
        return mask_values(scene.model.similarity(own, other), {"no_other_reference": change.lacking(scene)})


@dataclass(frozen=True)
class ExchangeAsymmetry(Remaking):
    """|a - b| / (|a| + |b|), a and b the totals of the raw maps of query and of reference; defined here.

    The score does not change when query and reference are swapped. A method that distributes it has value 0, with heads
    and poolings for which its maps sum to the score. 1 is one map without a total, or two of opposite sign.
    """

    higher_is_better: ClassVar[bool | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    card: ClassVar[MetricCard] = MetricCard(
        range=(0, 1),
        remakes=1,
        degenerate=(
            "maps that do not sum to the score may have similar totals too: uniform noise is near 0",
            "it is undefined for a target with two references, which cannot be swapped",
        ),
        group="Metrics that depend on the pair",
        label="exchange asymmetry",
        meaning="relative difference of the totals of both images' maps",
        family="exchange_asymmetry",
    )

    def measure_remakes(self, explained: Explained) -> Measured:
        other, own = explained.other, explained.raw
        if other is None or other.raw is None or own is None:
            nothing = explained.maps.new_full((len(explained.maps),), torch.nan)
            return Measured(nothing, {"no_raw_map": nothing.isnan()})
        one, two = (raw.double().sum(dim=(1, 2)) for raw in (own, other.raw))
        whole = one.abs() + two.abs()
        share = (one - two).abs() / whole
        reasons = {"nonfinite_map": ~whole.isfinite(), "no_total": whole == 0}
        return mask_values(share.to(explained.maps.dtype), reasons)
