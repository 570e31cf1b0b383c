"""The check of a stored row of a leaderboard against its track."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfam_bench.core.errors import UserError
from sfam_bench.core.provenance import differences, to_plain
from sfam_bench.metrics.causal import CausalAgreement
from sfam_bench.tracks.measure import describe_values
from sfam_bench.tracks.submission import Submission, describe_metrics, summarise_row
from sfam_bench.tracks.track import Track

CONTROLS = "change_other", "change_self"


def check_row(row: Mapping[str, Any], track: Track, path: Path) -> Submission:
    """The submission in a row; UserError where it is of another track, lacks something, or has another summary."""
    submission = Submission.of_facts(row, path)
    submission.check_track(track)
    if submission.card is None or path.name != f"{submission.card.name}.json" or path.parent.name != track.name:
        raise UserError(f"{path}: a row is results/leaderboard/TRACK/NAME.json, with the names of its track and card")
    expected = {
        "classes": [int(label) for label in track.pairs["query_label"]],
        "controlled_classes": [int(label) for label in track.controlled["query_label"]],
        "headline": track.headline,
        "chance": describe_values(track.chance),
        "metrics": describe_metrics(track),
    }
    if changed := [name for name, value in expected.items() if row.get(name) != value]:
        raise UserError(f"{path}: {changed[0]} is not that of {track.name}: score it again")
    sources = ("code",) if track.spec.commitment or (submission.code and submission.code.ours) else ("code", "maps")
    if row.get("recomputed_from") not in sources:
        raise UserError(f"{path}: recomputed_from is {row.get('recomputed_from')!r}: score it from its {sources[0]}")
    causal = any(isinstance(metric, CausalAgreement) for metric in track.metrics.values())
    needed = {*CONTROLS, *(["follows"] if causal else [])}
    for part, names, count in (
        ("controls", needed, len(track.controlled)),
        ("values", {*track.metrics}, len(track.pairs)),
    ):
        columns = row.get(part, {})
        if missing := sorted(names - {*columns}):
            raise UserError(f"{path}: {part} lack {missing[0]}: score it again")
        if wrong := [name for name, column in columns.items() if len(column) != count]:
            raise UserError(f"{path}: {wrong[0]} has another number of values than {track.name}: score it again")
    if differing := differences(to_plain(row.get("summary", {})), summarise_row(row)):
        raise UserError(f"{path}: its summary is not that of its values ({differing}): score it again")
    return submission
