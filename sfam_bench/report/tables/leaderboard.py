"""Leaderboards of tracks, out of the rows that `sfam-bench track score` wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import read_json
from sfam_bench.report.names import direction_arrow
from sfam_bench.report.tables.tables import NOTHING, Cell, Column, Table
from sfam_bench.statistics import compare_with_best

MARKS = {
    **{"blind": "blind", "follows": "does not follow", "chance": "chance", "random": "random"},
    "unchecked": "random unchecked",
}
NOTE = (
    "Mean [95 % interval over classes]; an undefined value counts as that of the random map of its pair. "
    "Bold: best; ≈: not significantly worse than the best; both among methods that are not blind. "
    "Change: median relative change of the map with another reference. "
    "Follows: how much better a map agrees with the effects of its own reference than with those of another one. "
    "Marks, all measured: blind, the map does not change with the reference; does not follow, the interval of follows "
    "reaches 0; chance, not above random maps; random, the map stays more like that of a network with random weights "
    "than the exact decomposition does; random unchecked, that was not measured, since the method takes passes or came "
    "as maps. Undefined: pairs with a value that the map leaves undefined. "
    "Time: of a map, on the machine that scored it, so that rows may not compare; in brackets as its authors state."
)


@dataclass(frozen=True)
class Rows:
    """The rows of a track by name, those that are blind last, the best first."""

    track: str
    rows: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> "Rows":
        """Read the files of a folder, with the name of its track."""
        found = {path.stem: read_json(path, "score it again") for path in sorted(folder.glob("*.json"))}

        def place(name: str) -> tuple[bool, float]:
            row = found[name]
            sign = 1 if row["metrics"][row["headline"]]["higher_is_better"] else -1
            return "blind" in row["summary"]["marks"], -sign * row["summary"]["means"][row["headline"]]["mean"]

        return cls(folder.name, {name: found[name] for name in sorted(found, key=place)})

    @property
    def blind(self) -> frozenset[str]:
        """The submissions that are blind to the reference, as measured."""
        return frozenset(name for name, row in self.rows.items() if "blind" in row["summary"]["marks"])

    @property
    def first(self) -> Mapping[str, Any]:
        """One of the rows, for what is the same in all."""
        return next(iter(self.rows.values()))

    def filled(self, metric: str) -> np.ndarray:
        """The values of a metric, (pairs, submissions), undefined ones replaced by those of random maps."""
        columns = []
        for row in self.rows.values():
            own, chance = (np.array(row[name][metric], dtype=float) for name in ("values", "chance"))
            columns.append(np.where(np.isnan(own), chance, own))
        return np.stack(columns, axis=1)

    @property
    def table(self) -> Table:
        """A column for each metric, the controls, the time and the marks."""
        metrics: Mapping[str, Mapping[str, Any]] = self.first["metrics"]
        order = sorted(metrics, key=lambda metric: metric != self.first["headline"])
        cells: dict[str, list[Cell]] = {name: [] for name in self.rows}
        for metric in order:
            for name, cell in zip(self.rows, self._cells(metric), strict=True):
                cells[name].append(cell)
        for name, row in self.rows.items():
            cells[name] += [*_controls(row), Cell(", ".join(MARKS[mark] for mark in row["summary"]["marks"]))]
        heads = [f"{metrics[one]['label']}{direction_arrow(metrics[one]['higher_is_better'])}" for one in order]
        columns = tuple(map(Column, [*heads, "change", "follows", "time (ms)", "from", "undefined", "marks"]))
        pairs, classes = len(self.first["classes"]), len({*self.first["classes"]})
        title = f"{self.track} ({pairs} pairs, {classes} classes)"
        return Table(
            title, columns, tuple((name, tuple(row)) for name, row in cells.items()), NOTE, self.blind, "method"
        )

    def _cells(self, metric: str) -> list[Cell]:
        """The cells of a metric, with the best and those that are not worse."""
        means = [row["summary"]["means"][metric] for row in self.rows.values()]
        compared = np.array([name not in self.blind for name in self.rows])
        best, tied = np.zeros((2, len(means)), dtype=bool)
        direction = self.first["metrics"][metric]["higher_is_better"]
        if direction is not None and compared.sum() > 1:
            sign, at = 1 if direction else -1, np.flatnonzero(compared)
            found = compare_with_best(sign * self.filled(metric)[:, at], np.array(self.first["classes"]))
            best[at], tied[at] = np.arange(len(at)) == found.best, found.tied
        return [
            Cell(_number(mean["mean"]), _interval(mean), bool(one), bool(other))
            for mean, one, other in zip(means, best, tied, strict=True)
        ]

    @property
    def frame(self) -> pd.DataFrame:
        """Means, intervals and marks, a row for each submission and metric."""
        return pd.DataFrame(
            [
                {
                    **{"track": self.track, "method": name, "metric": metric},
                    **{bound: mean[bound] for bound in ("mean", "low", "high", "count", "classes")},
                    **{"seconds": row["seconds"], "marks": " ".join(row["summary"]["marks"])},
                    "recomputed_from": row["recomputed_from"],
                }
                for name, row in self.rows.items()
                for metric, mean in row["summary"]["means"].items()
            ]
        )


def _controls(row: Mapping[str, Any]) -> list[Cell]:
    """Change, following, time, what was recomputed, and how many values are undefined."""
    controls = row["summary"]["controls"]
    change = float(np.nanmedian(np.array(row["controls"]["change_other"], dtype=float)))
    follows = controls.get("follows")
    seconds, stated = row["seconds"], row["recomputed_from"] == "maps"
    time = NOTHING if seconds is None else f"{1000 * seconds:.3g}"
    return [
        Cell(_number(change)),
        Cell(_number(follows["mean"]), _interval(follows)) if follows else Cell(NOTHING),
        Cell(f"({time})" if stated and seconds is not None else time),
        Cell(row["recomputed_from"]),
        Cell(str(row["summary"]["undefined"])),
    ]


def _number(value: float | None) -> str:
    return NOTHING if value is None or np.isnan(value) else f"{value:.3f}"


def _interval(found: Mapping[str, Any]) -> str:
    return "" if found["low"] is None else f"[{found['low']:.3f}, {found['high']:.3f}]"


def read_leaderboards(root: Path) -> Sequence[Rows]:
    """The leaderboards of all tracks that have rows; UserError if none has any."""
    found = [Rows.read(folder) for folder in sorted(root.glob("*/")) if any(folder.glob("*.json"))]
    if not found:
        raise UserError(f"{root} holds no leaderboard: sfam-bench track score writes its rows")
    return found


def list_cards(rows: Rows) -> list[tuple[str, str]]:
    """For each submission, what its authors say: what it reads, paper and code."""
    lines = []
    for name, row in rows.rows.items():
        card = row["card"]
        said = [f"reads {', '.join(card['reads'])}", card["paper"], card["code"]]
        lines.append((f"{rows.track}, {name}", "; ".join(filter(None, said))))
    return lines
