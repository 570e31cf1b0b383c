"""Every committed row: of a track as it is frozen, its summary that of its values, and its values recomputed."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sfam_bench.app.tracks import open_track, read_method
from sfam_bench.core.errors import UserError
from sfam_bench.core.files import SEAL, read_json
from sfam_bench.core.provenance import to_plain
from sfam_bench.tracks.maps import compute_maps, prepare
from sfam_bench.tracks.measure import measure, restore_values
from sfam_bench.tracks.submission import CLOSE, Submission, summarise_row
from sfam_bench.tracks.track import Track, read_spec
from tests.paths import ROOT, SHARED
from tests.tracks.rows import check_row

ROWS = sorted((ROOT / "results" / "leaderboard").glob("*/*.json"))
TRACKS = sorted({path.parent.name for path in ROWS})
FEW = 3  # pairs that are recomputed


def here(name: str) -> Track:
    """A track; skips where its photos or its key are not at hand."""
    spec, photos = read_spec(name), SHARED / "CUB_200_2011"
    key = os.environ.get("SFAM_BENCH_TRACK_KEY")
    if spec.commitment and key is None:
        pytest.skip(f"the images of {name} are private: set SFAM_BENCH_TRACK_KEY")
    if "root" in spec.settings["dataset"] and not photos.is_dir():
        pytest.skip(f"no photos at {photos}: set SFAM_BENCH_SHARED")
    return open_track(name, str(photos), key)


@pytest.mark.parametrize("path", ROWS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_row_is_sealed_and_its_summary_is_that_of_its_values(path: Path) -> None:
    assert path.stat().st_size < 200_000
    row = read_json(path, "score it again")
    assert SEAL in json.loads(path.read_text())  # without one, its content would not be verified
    submission = Submission.of_facts(row, path)
    assert submission.card is not None
    assert (submission.track, f"{submission.card.name}.json") == (path.parent.name, path.name)
    assert submission.digest == read_spec(submission.track).digest
    assert to_plain(summarise_row(row)) == row["summary"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACKS)
def test_rows_of_methods_of_this_benchmark_recompute(name: str) -> None:
    track = here(name)
    rows = {path.stem: read_json(path, "") for path in ROWS if path.parent.name == name}
    for stem, row in rows.items():
        check_row(row, track, ROOT / "results" / "leaderboard" / name / f"{stem}.json")
    few = track.part(FEW)
    quick = replace(few, metrics={key: one for key, one in few.metrics.items() if "insertion" not in key})
    ours = {stem: Submission.of_facts(row, Path(stem)) for stem, row in rows.items()}
    entries = {stem: read_method(one.code.ours) for stem, one in ours.items() if one.code and one.code.ours}
    maps = {}
    for stem, entry in entries.items():
        ours[stem].code.check(entry.code)  # type: ignore[union-attr]
        maps[stem] = compute_maps(quick, prepare(track, entry.method))
    for stem, found in measure(quick, maps).items():
        there = restore_values(rows[stem]["values"])[[*quick.metrics]][:FEW]
        np.testing.assert_allclose(found.table, there, atol=CLOSE, err_msg=stem)


@pytest.mark.parametrize("name", TRACKS)
def test_maps_without_a_reference_are_marked_and_sfam_is_not(name: str) -> None:
    marks = {path.stem: read_json(path, "")["summary"]["marks"] for path in ROWS if path.parent.name == name}
    assert "blind" in marks["lafam"]
    assert "blind" not in marks["sfam"]
    assert "chance" in marks.get("chance", ["chance"])


def test_a_row_of_another_track_is_refused() -> None:
    row = read_json(ROWS[0], "")
    with pytest.raises(UserError, match="is no submission"):
        Submission.of_facts({key: value for key, value in row.items() if key != "digest"}, ROWS[0])


@pytest.mark.parametrize(
    ("label", "stem"),
    [("Grad-CAM", "grad_cam"), ("exact", "similarity_decomposition"), ("SFAM", "sfam"), ("LaFAM", "lafam")],
)
def test_the_figures_of_the_page_are_those_of_the_rows(label: str, stem: str) -> None:
    lines = (ROOT / "docs" / "track.md").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"| {label}"))
    for name in ("planted-v1", "planted-hidden-v2", "planted-shortcut-v1"):
        row = read_json(ROOT / "results" / "leaderboard" / name / f"{stem}.json", "")
        mean = row["summary"]["means"][row["headline"]]
        assert f"| {mean['mean']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}] |" in line
