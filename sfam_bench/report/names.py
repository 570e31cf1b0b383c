"""What metrics and explainers are called, and in which order they stand."""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

# Groups of metrics in reading order; a metric belongs to the longest prefix that its name begins with.
GROUPS: dict[str, dict[str, str]] = {
    "Metrics that see the pair": {
        "selectivity": "partial matches: on what the two images share minus on what they do not",
        "evidence": "share of the map on the parts that the two images share",
        "evidence_energy_ratio": "evidence energy over its chance level: 1 for a blind map",
        "evidence_pointing_game": "does the peak lie on a part that the two images share?",
        "evidence_average_precision": "average precision of the map against the parts that the two images share",
        "peak_on": "partial matches: does the peak lie on what the images share, or on what they do not?",
        "part_agreement": "does the map follow how much each part is alike?",
        "part_agreement_shuffled": "its null: descriptions of whole classes exchanged",
        "reference_sensitivity_contrast": "does the map change more with another class's reference than with its own?",
        "reference_sensitivity": "how much the map changes with the reference",
        "exchange_asymmetry": "do the maps of query and reference have like totals?",
        "reference_similarity": "how alike the model finds the two references of a sensitivity",
        "margin": "the margin over another class while pixels go or come",
        "margin_pixels_until": "share of pixels that go until the query is nearer to the other class",
        "retrieval_rank": "rank of the reference in the gallery while pixels go or come: 1 first, 0 last",
        "retrieval_recall": "share of the way on which the nearest image is of the query's class",
        "retrieval_average_precision": "average precision over the query's class while pixels go or come",
        "retrieval_pixels_until": "share of pixels that go (or come) until the match is lost (or found)",
        "same_part": "do the peaks of both images of a pair lie on the same part?",
    },
    "Faithfulness": {
        "insertion_minus_deletion": "gap between the two curves",
        "deletion": "score while the map's top pixels are removed",
        "insertion": "score while the map's top pixels are restored",
        "average_drop": "percent of the score lost when the map alone is kept",
        "average_increase": "percent of pairs whose score rises when the map alone is kept",
        "road": "half the gap, least minus most relevant pixels imputed",
        "rise_": "RISE's protocol, raw scores",
        "sane_": "SANE's protocol: curves from 0 to 1, area times 100",
        "torchcam_": "torchcam's protocol, raw scores",
    },
    "Localisation": {
        "energy_pointing_game": "share of the positive map inside the foreground",
        "energy_pointing_game_ratio": "energy pointing game over its chance level: 1 for a blind map",
        "energy_pointing_game_box": "share of the positive map inside the object's box",
        "energy_pointing_game_box_ratio": "the same over its chance level: 1 for a blind map",
        "pointing_game": "does the peak lie on the foreground, within 15 px at 224?",
        "pointing_game_0": "does the peak lie on the foreground, to the pixel?",
        "pointing_game_box": "does the peak lie in the object's box, within 15 px at 224?",
        "average_precision": "average precision of the map against the foreground",
        "average_precision_box": "average precision of the map against the object's box",
        "iou": "overlap of the thresholded map with the foreground",
        "max_box_accuracy": "MaxBoxAccV2: boxes of the map that meet the object's at one best threshold, percent",
        "box": "overlap of the map's box with the object's box",
        "part_pointing_game": "does the peak lie on a visible part?",
        "part_energy": "share of the positive map near visible parts",
        "part_energy_ratio": "part energy over its chance level: 1 for a blind map",
        "foreground": "where the map lies",
    },
    "Heat by part": {"part_heat": "share of the map near a part over its area's share: where the heat lies, no score"},
    "Sanity and robustness": {
        "model_randomisation": "likeness to the map of a model whose weights are drawn anew, stage by stage",
        "max_sensitivity": "greatest change of the map under small noise",
        "augmentation_agreement": "likeness to the map of the flipped or cropped query",
    },
    "Complexity and completeness": {
        "gini": "Gini index of the map: 0 even, 1 in one pixel",
        "entropy": "entropy of the map",
        "effective_area": "share of the image over which the map is spread, by its entropy",
        "completeness": "what the map's sum misses of the similarity, as a share of it",
    },
    "Cost and others": {"cost": "measured on one pair", "": ""},
}
LONGEST = 150  # characters of a file name
Named = Callable[..., str]  # `slug`, or the `Slugs` of a report
COMPARED = [*GROUPS][:3]  # groups whose metrics say how true a map is
SPELLING = {"iou": "IoU", "map@r": "MAP@R", "r": "R", "road": "ROAD", "ssim": "SSIM"}
HEADLINES = ("selectivity", "part_agreement", "margin", "insertion_minus_deletion", "deletion", "energy_pointing_game")


def sort_metrics(metrics: Sequence[str]) -> list[str]:
    """Metrics in reading order."""
    return sorted(metrics, key=lambda metric: place(metric)[:2])


def chance_of(metric: str, metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """The metric that holds the chance level of another one."""
    return str(metrics.get(metric, {}).get("chance", f"{metric}_chance"))


def headlines(metrics: Sequence[str]) -> list[str]:
    """The first metric of each headline, in reading order."""
    names = sort_metrics(metrics)
    found = [next((name for name in names if name.startswith(prefix)), None) for prefix in HEADLINES]
    return [name for name in found if name]


def sort_explainers(explainers: Sequence[str], blind: Container[str]) -> list[str]:
    """Methods in the order in which they ran, then those that are blind to the pair."""
    return sorted(explainers, key=blind.__contains__)


def arrow(higher_is_better: Any) -> str:
    """↑ higher is better, ↓ lower is better, nothing without a direction."""
    return "" if pd.isna(higher_is_better) else " ↑" if higher_is_better else " ↓"


def group(metric: str) -> str:
    """The title under which a metric stands."""
    return place(metric)[2]


def decimals(values: Sequence[float]) -> int:
    """Three significant digits for the largest of the values, and at most four decimals."""
    sizes = np.abs([value for value in values if np.isfinite(value)])
    largest = sizes.max() if sizes.size else 0
    if all(float(size).is_integer() for size in sizes):
        return 0
    return int(np.clip(3 - np.ceil(np.log10(largest)), 0, 4)) if largest > 0 else 3


def place(metric: str) -> tuple[int, int, str, str]:
    """Group, place within it, title of the group, and what the metric means."""
    found = [
        (len(prefix), (group, number, title, meaning))
        for group, (title, prefixes) in enumerate(GROUPS.items())
        for number, (prefix, meaning) in enumerate(prefixes.items())
        if metric.startswith(prefix)
    ]
    return max(found)[1]


def words(name: str) -> str:
    """A name as prose: recall_at_1 is recall@1."""
    return " ".join(SPELLING.get(part, part) for part in name.replace("_at_", "@").split("_"))


def slug(*names: str) -> str:
    """A file name for what goes by these names."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unnamed" for name in names)[:LONGEST]


@dataclass(frozen=True)
class Slugs:
    """File names within one report: like `slug`, but other names never share one.

    Of names that slug alike the second gets "--2" at its end, and so on: no slug has two dashes in a row.
    """

    known: dict[tuple[str, ...], str] = field(default_factory=dict)

    def __call__(self, *names: str) -> str:
        if names not in self.known:
            alike = sum(
                found == slug(*names) or found.rpartition("--")[0] == slug(*names) for found in self.known.values()
            )
            self.known[names] = slug(*names) + (f"--{alike + 1}" if alike else "")
        return self.known[names]
