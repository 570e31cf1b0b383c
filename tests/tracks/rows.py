"""The check of a stored row of a leaderboard against its track."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfam_bench.core.errors import UserError
from sfam_bench.core.provenance import differences, to_plain
from sfam_bench.tracks.measure import describe_values
from sfam_bench.tracks.submission import Submission, summarise_row
from sfam_bench.tracks.track import Track


def check_row(row: Mapping[str, Any], track: Track, path: Path) -> Submission:
    """The submission in a row; UserError where it is of another track, or its summary is not that of its values."""
    submission = Submission.of_facts(row, path)
    submission.check_track(track)
    if submission.card is None or path.name != f"{submission.card.name}.json" or path.parent.name != track.name:
        raise UserError(f"{path}: a row is results/leaderboard/TRACK/NAME.json, with the names of its track and card")
    expected = {
        "classes": [int(label) for label in track.pairs["query_label"]],
        "controlled_classes": [int(label) for label in track.controlled["query_label"]],
        "headline": track.headline,
        "chance": describe_values(track.chance),
    }
    if changed := [name for name, value in expected.items() if row.get(name) != value]:
        raise UserError(f"{path}: {changed[0]} is not that of {track.name}: score it again")
    if differing := differences(to_plain(row.get("summary", {})), summarise_row(row)):
        raise UserError(f"{path}: its summary is not that of its values ({differing}): score it again")
    return submission
