"""Does the map follow the measured cause: the effect of each part of the query on this model's similarity?"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

import scipy
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.maps import ROUNDING, find_flaws
from sfam_bench.core.metric_card import SHARE, Limits, MetricCard, label, role
from sfam_bench.core.ranges import Count
from sfam_bench.core.types import Flags, Scores
from sfam_bench.metrics.sensitivity import OtherReference
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values, no_records
from sfam_bench.metrics.shared.effects import Effects, measure_effects, read_effects
from sfam_bench.metrics.shared.likeness import apply_change

Parts: TypeAlias = Float[Tensor, "batch parts"]
Visible: TypeAlias = Bool[Tensor, "batch parts"]
Measure: TypeAlias = Literal["pearson", "spearman", "top", "sign"]

FEWEST = 3  # visible parts of which a correlation says anything
CERTAIN = 2.0  # standard errors by which an effect differs from 0
MEASURES = {
    "pearson": ("", "does the relevance of each part follow its measured effect on the similarity?"),
    "spearman": ("rank", "does the relevance of each part rank as its measured effect on the similarity?"),
    "top": ("top part", "has the part with the greatest relevance the greatest measured effect?"),
    "sign": ("sign", "share of the parts with an effect whose relevance has the sign of the effect"),
}


@dataclass(frozen=True)
class CausalAgreement(Checked):
    """Agreement over parts of relevance and measured effect on the similarity of the pair; defined here.

    The effect of a part is the score minus the mean score with the part redrawn: evidence (parts that decide the class)
    in other states, other parts in other looks. It is measured on the pair and the model at hand, so nothing is assumed
    about what the model should use. Each pair takes (parts + 1) * repeats passes, which serve all methods.

    measure: Pearson's or Spearman's correlation; 1 where the part of greatest relevance has the greatest effect; or,
        among parts with an effect of more than two standard errors, the share whose relevance has the sign of the
        effect.
    of: relevance of a part: sum ("mass") or mean ("density") of the signed map over its visible pixels.
    side: the query's map and parts, or the reference's; pairs without a map of the reference have no record.
    repeats: redrawings of each part; all methods share their passes.
    value: agreement of the "map" with the effects; "split_half", the agreement of the effects by half of the
        redrawings with those by the other half; or the "chance" level, which is the agreement of the map with the
        effects on the similarity to an image of another class.
    """

    measure: Measure = "pearson"
    of: Literal["mass", "density"] = "mass"
    side: Literal["query", "reference"] = "query"
    repeats: Count = 4
    value: Literal["map", "split_half", "chance"] = "map"
    higher_is_better: bool | None = True  # null for "split_half" and "chance"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repeats < 2:
            raise UserError(f"CausalAgreement.repeats is {self.repeats}: expected at least 2, for the standard errors")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("redraws", "other_class") if self.value == "chance" else ("redraws",)

    @property
    def card(self) -> MetricCard:
        note, meaning = MEASURES[self.measure]
        notes = {
            "map": "",
            "split_half": "split-half: half of the redrawings against the other",
            "chance": "effects on another pair",
        }
        meanings = {
            "map": meaning if self.of == "mass" else meaning.replace("relevance", "mean relevance", 1),
            "split_half": "how noisy the effects are: the same for one half of the measurements of each against the "
            "other half",
            "chance": "the same for effects that were measured on another pair",
        }
        side = "" if self.side == "query" else "reference"
        limits: Limits = (-1, 1) if self.measure in ("pearson", "spearman") else SHARE
        return MetricCard(
            range=limits,
            remakes=int(self.side == "reference"),
            degenerate=("a redrawn part may cover pixels where it was not before, which its region does not include",),
            group="Metrics that depend on the pair",
            label=label("causal agreement", note, "density" if self.of == "density" else "", side, notes[self.value]),
            meaning=meanings[self.value],
            family="_".join(filter(None, ["causal_agreement", note.replace(" ", "_"), side])),
            role=role(self.value),
        )

    def __call__(self, explained: Explained) -> Measured:
        own = explained if self.side == "query" else explained.other
        if own is None or (own.raw is None and self.side == "reference"):
            return no_records(explained)
        if self.value == "split_half":
            effects = measure_effects(own.scene, self.repeats)
            return compare_parts(*effects.halves(), effects, self.measure)
        effects, reasons = self._effects(own)
        if own.raw is not None and self.side == "reference":
            reasons["reference_map"] = torch.stack(find_flaws(own.raw)).any(dim=0)
        found = compare_parts(read_relevance(own, effects, self.of), effects.means, effects, self.measure)
        return mask_values(found.values, {**reasons, **found.reasons})

    def _effects(self, explained: Explained) -> tuple[Effects, dict[str, Flags]]:
        """The effects on the score of the pair, or of one with another reference, and the pairs without that."""
        scene = explained.scene
        effects = measure_effects(scene, self.repeats)
        if self.value == "map":
            return effects, {}
        change = OtherReference("other_class", 0)
        terms = apply_change(scene, change).encoded.terms
        return read_effects(scene, terms, self.repeats), {"no_other_reference": change.lacking(scene)}


def read_relevance(explained: Explained, effects: Effects, of: Literal["mass", "density"]) -> Parts:
    """Sum or mean of the signed maps over the visible pixels of each part."""
    regions = effects.regions.to(torch.float64)
    mass = torch.einsum("bij,bpij->bp", explained.maps.double(), regions)
    return mass if of == "mass" else mass / regions.sum(dim=(2, 3)).clamp_min(1)


def compare_parts(relevance: Parts, effects: Parts, measured: Effects, measure: Measure) -> Measured:
    """The agreement of relevance and effects over the visible parts, with the reasons why a pair has none.

    Relevance that is equal on all parts, or effects that are, up to rounding, have no correlation.
    """
    visible = measured.visible
    relevance, effects = (torch.where(visible, side.double(), torch.nan) for side in (relevance, effects))
    reasons = {"few_parts": visible.sum(dim=1) < FEWEST, "no_effect": is_flat(effects, measured.full.double())}
    if measure == "sign":
        certain = visible & (effects.abs() > CERTAIN * measured.errors)
        values = ((relevance.sign() == effects.sign()) & certain).sum(dim=1) / certain.sum(dim=1)
        reasons["no_effect"] = reasons["no_effect"] | ~certain.any(dim=1)
    else:
        reasons["equal_relevance"] = is_flat(relevance, relevance)
        if measure == "top":
            values = (largest(relevance) == largest(effects)).double()
        elif measure == "pearson":
            values = correlate(relevance, effects)
        elif measure == "spearman":
            values = correlate(*map(rank_parts, (relevance, effects)))
        else:
            assert_never(measure)
    return mask_values(values.to(measured.full.dtype), reasons)


def is_flat(values: Parts, scale: Tensor) -> Flags:
    """Whether the values of a pair are equal up to rounding of numbers as large as `scale`."""
    kept = values.isfinite()
    high = values.masked_fill(~kept, -torch.inf).amax(dim=1)
    low = values.masked_fill(~kept, torch.inf).amin(dim=1)
    magnitude = scale.abs().nan_to_num(0).reshape(len(values), -1).amax(dim=1)
    return ~(high - low > ROUNDING * magnitude)


def largest(values: Parts) -> Tensor:
    """The place of the greatest value, the first of equals."""
    return values.nan_to_num(-torch.inf).argmax(dim=1)


def rank_parts(values: Parts) -> Parts:
    """Ranks over the parts, ties by their mean; NaN stays NaN."""
    return torch.from_numpy(scipy.stats.rankdata(values.cpu().numpy(), axis=1, nan_policy="omit")).to(values.device)


def correlate(one: Parts, other: Parts) -> Scores:
    """Pearson's correlation over the parts that have both values."""
    both = one.isfinite() & other.isfinite()
    one, other = (torch.where(both, side, torch.nan) for side in (one, other))
    one, other = ((side - side.nanmean(dim=1, keepdim=True)).nan_to_num(0) for side in (one, other))
    return (one * other).sum(dim=1) / (one.square().sum(dim=1) * other.square().sum(dim=1)).sqrt()
