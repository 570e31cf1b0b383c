"""The file that enters a method, and the row of a leaderboard that is made of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, get_type_hints

import numpy as np
import pandas as pd
from beartype.door import is_bearable

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import read_json, write_json
from sfam_bench.core.metric_card import metric_facts
from sfam_bench.core.provenance import differences, run_facts, to_plain
from sfam_bench.statistics.intervals import Interval, clustered_intervals
from sfam_bench.tracks.card import NUMBERS, SubmissionCard
from sfam_bench.tracks.maps import Maps
from sfam_bench.tracks.measure import Controls, Values, describe_values, restore_values
from sfam_bench.tracks.track import Track

FORMAT = 1
FIELDS = ("format", "track", "digest", "card", "method", "maps", "values", "seconds", "software")
SUBMISSION = "submission.json"
AGAIN = "remove it, and make it again with sfam-bench track run and track submit"
OWNER = "paper", "code", "class"
CLOSE = 1e-3  # of a value that is recomputed on another machine
SELDOM = 0.01  # share of values that may differ by more: the order of nearly equal pixels changes with rounding
BLIND = 0.01  # median relative change of a map with the reference, below which it is blind
MARKS = {
    "blind": "blind to the reference",
    "follows": "does not follow the reference",
    "chance": "not above chance",
    "random": "keeps its map with random weights",
    "unchecked": "not checked with random weights",
}


@dataclass(frozen=True)
class Code:
    """A method entered as code.

    ours: its name in conf/explainer, or "". settings: its class as `_target_`, and its fields. source: the SHA-256 of
    each source file of its own.
    """

    ours: str
    settings: Mapping[str, Any]
    source: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9_]*", self.ours):  # a dotted name would be imported
            raise UserError(f"the method of a submission is {self.ours!r:.60}, which is no name of conf/explainer")

    @property
    def facts(self) -> dict[str, Any]:
        return {"ours": self.ours, "settings": to_plain(self.settings), "source": dict(self.source)}

    def check(self, found: "Code") -> None:
        """Raise UserError where the code at hand is not the one that was entered."""
        if changed := differences(self.facts, found.facts):
            raise UserError(f"the method is not the one that was entered ({changed}): give that one, or submit again")


@dataclass(frozen=True)
class Submission:
    """What is entered on a track: by code, or by maps alone where `code` is None.

    digest: of the track. maps: `Maps.facts`; values: `describe_values`, by metric; both None for code that was not run
    by its authors, as on a hidden track. card: None until it is added.
    """

    track: str
    digest: str
    card: SubmissionCard | None
    code: Code | None
    maps: Mapping[str, Any] | None
    values: Mapping[str, list[float | None]] | None
    seconds: float | None
    software: Mapping[str, Any] = field(default_factory=run_facts)

    @classmethod
    def of(
        cls, track: Track, code: Code | None, maps: Maps, values: Values, card: SubmissionCard | None = None
    ) -> "Submission":
        """The maps and values of a method."""
        return cls(track.name, track.spec.digest, card, code, maps.facts, describe_values(values.table), maps.seconds)

    @classmethod
    def read(cls, path: Path) -> "Submission":
        """Read a file; UserError where it is damaged, was edited, or lacks a field."""
        return cls.of_facts(read_json(path, AGAIN), path)

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any], path: Path) -> "Submission":
        """A submission, or the part of a row that is one."""
        if missing := [name for name in FIELDS if name not in facts]:
            raise UserError(f"{path} is no submission: it has no {missing[0]}; {AGAIN}")
        if facts["format"] != FORMAT:
            raise UserError(f"{path} has format {facts['format']!r:.20}, and this version reads {FORMAT}: {AGAIN}")
        card = None if facts["card"] is None else SubmissionCard.of(facts["card"], str(path))
        kept = {name: facts[name] for name in FIELDS if name not in ("format", "card", "method")}
        method = facts["method"]
        described = {**dict.fromkeys(get_type_hints(Code)), **(method if isinstance(method, dict) else {})}
        for kind, given in ((cls, kept), *([] if method is None else [(Code, described)])):
            hints = get_type_hints(kind)
            wrong = [name for name in given if not is_bearable(given[name], hints.get(name, NoneType), conf=NUMBERS)]
            if wrong:
                raise UserError(f"{path}: {wrong[0]} is {given[wrong[0]]!r:.60}, which no run writes: {AGAIN}")
        code = None if method is None else Code(**described)
        return cls(card=card, code=code, **kept)

    @property
    def facts(self) -> dict[str, Any]:
        """In JSON types."""
        return {
            **{"format": FORMAT, "track": self.track, "digest": self.digest},
            **{"card": self.card and self.card.facts, "method": self.code and self.code.facts},
            **{"maps": self.maps, "values": self.values, "seconds": self.seconds, "software": self.software},
        }

    def write(self, path: Path) -> None:
        """Write it, sealed."""
        write_json(path, self.facts)

    @property
    def owner(self) -> tuple[str, ...]:
        """What tells entries of one name apart: the paper and code that its card names, and its class."""
        said = (self.card.paper, self.card.code) if self.card else ("", "")
        return (*said, str(self.code.settings.get("_target_", "")) if self.code else "")

    def check_row(self, path: Path) -> None:
        """Raise UserError where a row of another method stands in its place."""
        if path.exists() and (held := Submission.read(path)).owner != self.owner:
            differ = [
                f"{name} is {was!r}" for name, was, now in zip(OWNER, held.owner, self.owner, strict=True) if was != now
            ]
            raise UserError(
                f"{path} is the row of another method (its {', '.join(differ)}): choose another name in the card, or "
                "remove that row"
            )

    def check_track(self, track: Track) -> None:
        """Raise UserError where it was made for another version of the track."""
        if (self.track, self.digest) != (track.name, track.spec.digest):
            raise UserError(
                f"the submission was made for {self.track} (digest {self.digest[:12]}), and this is {track.name} "
                f"(digest {track.spec.digest[:12]}): run it on this track"
            )

    def check_maps(self, maps: Maps) -> None:
        """Raise UserError where the maps are not those that were submitted."""
        if self.maps is None or self.maps.get("sha256") != maps.facts["sha256"]:
            raise UserError(
                "the maps are not those of the submission (their SHA-256 differs): give these, or run again"
            )

    def check_values(self, found: pd.DataFrame) -> None:
        """Raise UserError where the submitted values are not what the maps or the code give."""
        if self.values is None:
            return
        claimed = restore_values(self.values)
        if list(claimed) != list(found) or len(claimed) != len(found):
            raise UserError("the submission has values of other metrics or pairs than its track: run it again")
        one, other = claimed.to_numpy(float), found.to_numpy(float)
        with np.errstate(invalid="ignore"):
            equal = (np.isnan(one) & np.isnan(other)) | (np.abs(one - other) <= CLOSE)
        if (~equal).mean() > SELDOM:
            row, column = np.argwhere(~equal)[0]
            raise UserError(
                f"{(~equal).sum()} of {equal.size} values do not recompute: {list(found)[column]} of pair {row + 1} is "
                f"{one[row, column]:.4f}, and its maps give {other[row, column]:.4f}; run it again, with the versions "
                "of its software"
            )


def make_row(submission: Submission, track: Track, values: Values, controls: Controls, source: str) -> dict[str, Any]:
    """The row of a leaderboard: the submission with recomputed values, controls and their summary.

    `source` is what the values were recomputed from: "code" or "maps".
    """
    row = {
        **submission.facts,
        "values": describe_values(values.table),
        "chance": describe_values(track.chance),
        "controls": describe_values(pd.DataFrame(controls)),
        "reasons": {metric: dict(found) for metric, found in values.reasons.items()},
        "recomputed_from": source,
        "scored_with": run_facts(),
        "metrics": describe_metrics(track),
        "headline": track.headline,
        "classes": [int(label) for label in track.pairs["query_label"]],
        "controlled_classes": [int(label) for label in track.controlled["query_label"]],
    }
    return {**row, "summary": summarise_row(row)}


def describe_metrics(track: Track) -> dict[str, dict[str, Any]]:
    """Label and direction of each metric of a track."""
    return {
        name: {key: facts[key] for key in ("label", "higher_is_better")}
        for name, facts in metric_facts(track.metrics).items()
    }


def summarise_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Means with intervals over classes, and marks, of the values of a row.

    An undefined value of a map counts as that of the random map of its pair, so that leaving pairs out gains nothing;
    `undefined` is the number of pairs that have one.
    """
    own, chance = restore_values(row["values"]), restore_values(row["chance"])
    filled, classes = fill(own, chance), np.array(row["classes"])
    means = dict(zip(filled, intervals(filled.to_numpy(float), classes), strict=True))
    headline, metrics = row["headline"], row["metrics"]
    sign = 1 if metrics[headline]["higher_is_better"] else -1
    (above,) = intervals(sign * (filled[[headline]] - chance[[headline]]).to_numpy(float), classes)
    controls = restore_values(row["controls"])
    if "randomised" in controls:
        controls["kept"] = controls["randomised"] - controls["randomised_exact"]
    checked = dict(zip(controls, intervals(controls.to_numpy(float), np.array(row["controlled_classes"])), strict=True))
    blind = float(np.nanmedian(controls["change_other"])) <= BLIND
    holds = {
        "blind": blind,
        "follows": not blind and "follows" in checked and not is_positive(checked["follows"]),
        "chance": not is_positive(above),
        "random": "kept" in checked and is_positive(checked["kept"]),
        "unchecked": "kept" not in checked or checked["kept"]["mean"] is None,
    }
    undefined = int((own.isna() & chance.notna()).any(axis=1).sum())
    return {
        **{"means": means, "above_chance": above, "controls": checked, "undefined": undefined},
        "marks": [name for name, found in holds.items() if found],
    }


def fill(own: pd.DataFrame, chance: pd.DataFrame) -> pd.DataFrame:
    """The values of a method, undefined ones replaced by those of random maps."""
    return own.where(own.notna(), chance)


def is_positive(found: Mapping[str, Any]) -> bool:
    """Whether an interval lies above zero; one of no values does not."""
    return found["low"] is not None and found["low"] > 0


def intervals(values: np.ndarray, classes: np.ndarray) -> list[dict[str, Any]]:
    """Mean and 95 % interval over classes of each column, in JSON types."""
    return [describe_interval(found) for found in clustered_intervals(values, classes)]


def describe_interval(found: Interval) -> dict[str, Any]:
    bounds = {name: getattr(found, name) for name in ("mean", "low", "high")}
    rounded = {name: None if np.isnan(value) else float(f"{value:.6g}") for name, value in bounds.items()}
    return {**rounded, "count": found.count, "classes": found.clusters}
