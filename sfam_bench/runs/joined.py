"""Runs that evaluated different methods, or different pairs, of one choice of pairs, as one run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sfam_bench.core.errors import UserError
from sfam_bench.runs.matrix import ABSENT, FACTS, Key, Matrix
from sfam_bench.runs.reader import Run

SAME = ("dataset", "model", "target", "similarity", "split", "steps")  # facts that runs must share
TOLERANCE = 1e-3  # of values of the pair itself, which modes of passes may differ by


def join_runs(runs: Sequence[Run]) -> Run:
    """One run with the methods of all and the pairs of the largest; a method has records of its own pairs alone.

    UserError if the runs differ in SAME, if a pair is not of the run with the most pairs, if a value of a pair differs
    by more than TOLERANCE (other weights or images), or if two runs have the same method on the same pair, or with
    other settings.
    """
    whole = max(runs, key=lambda run: len(run.matrix.pairs))
    for run in runs:
        if run is not whole:
            _check(run, whole)
    matrix = _join_matrices([run.matrix for run in runs], whole)
    return Run(whole.root, _join_manifests(runs, whole.manifest), whole.pairs, matrix)


def _check(run: Run, whole: Run) -> None:
    where = f"the runs {run.root.name} and {whole.root.name} cannot be joined"
    if other := [name for name in SAME if run.manifest.get(name) != whole.manifest.get(name)]:
        raise UserError(f"{where}, their {other[0]} differs: show them in parts of their own")
    if strange := sorted({*run.matrix.pairs} - {*whole.matrix.pairs}):
        raise UserError(f"{where}, {' with '.join(strange[0])} is a pair of the first alone: evaluate the same pairs")
    rows = _places(run.matrix, whole.matrix)
    for key in run.matrix.entries.keys() & whole.matrix.entries.keys():
        if key[1] != FACTS:
            continue
        mine, theirs = run.matrix.entries[key], whole.matrix.entries[key][rows]
        if not np.allclose(mine, theirs, rtol=0, atol=TOLERANCE, equal_nan=True):
            raise UserError(f"{where}, {key[0]} of a pair differs: evaluate the same model on the same images")


def _places(part: Matrix, whole: Matrix) -> np.ndarray:
    """The row in `whole` of each pair of `part`."""
    known = {pair: row for row, pair in enumerate(whole.pairs)}
    return np.array([known[pair] for pair in part.pairs], np.int64)


def _join_matrices(matrices: Sequence[Matrix], whole: Run) -> Matrix:
    reasons: dict[str, int] = {}
    entries, codes = dict[Key, np.ndarray](), dict[Key, np.ndarray]()
    for part in matrices:
        rows = _places(part, whole.matrix)
        into = np.full(256, ABSENT, np.uint8)  # the code in the joined matrix, by the code in the part
        into[: len(part.reasons)] = [reasons.setdefault(reason, len(reasons)) for reason in part.reasons]
        for key in part.entries:
            if key[1] == FACTS and part is not whole.matrix:
                continue
            values = entries.setdefault(key, np.full(len(whole.matrix.pairs), np.nan))
            flags = codes.setdefault(key, np.full(len(whole.matrix.pairs), ABSENT, np.uint8))
            if (flags[rows] != ABSENT).any():
                raise UserError(f"two of the runs joined have {key[1]} on the same pair: leave it out of one")
            values[rows], flags[rows] = part.entries[key], into[part.codes[key]]
    first = whole.matrix
    return Matrix(first.run, first.pairs, first.clusters, entries, codes, tuple(reasons))


def _join_manifests(runs: Sequence[Run], first: Mapping[str, Any]) -> dict[str, Any]:
    manifests = [run.manifest for run in runs]
    merged: dict[str, dict[str, Any]] = {"metrics": {}, "explainer_settings": {}, "unsupported": {}}
    for name, found in merged.items():
        for key, value in ((key, value) for one in manifests for key, value in (one.get(name) or {}).items()):
            if found.setdefault(key, value) != value and name == "explainer_settings":
                raise UserError(f"two of the runs joined have {key} with other settings: show them as two methods")
    lists = {
        name: [*dict.fromkeys(each for one in manifests for each in one.get(name) or ())]
        for name in ("explainers", "blind")
    }
    hours = [
        float(one["core_hours"]) for one in manifests if one.get("core_hours") is not None
    ]  # of a merge that lacks notes
    spent = {"core_hours": sum(hours) if len(hours) == len(runs) else None}
    return {**first, **merged, **lists, "cost": _join_costs(runs), **spent}


def _join_costs(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """The cost of each method: its time over all pairs that it was run on, and their number as `pairs`."""
    joined: dict[str, dict[str, Any]] = {}
    for run in runs:
        for name, found in (run.manifest.get("cost") or {}).items():
            known = joined.get(name, {"milliseconds": 0.0, "pairs": 0})
            pairs = known["pairs"] + len(run.pairs)
            spent = known["milliseconds"] * known["pairs"] + found.get("milliseconds", np.nan) * len(run.pairs)
            joined[name] = {**found, "milliseconds": spent / pairs, "pairs": pairs}
    return joined
