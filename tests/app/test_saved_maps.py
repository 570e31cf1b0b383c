"""Maps of one's own, through the scripts: what goes out comes back, and captum's maps are scored as ours are."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.captum_maps import captum_maps
from sfam_bench.explainers.saved_maps import pair_file, write_maps
from sfam_bench.runs.reader import read_maps, read_records, read_run
from tests.scripts import DATA, Run, ok, refused

pytestmark = pytest.mark.slow

PAIRS = ["pairs.kinds=[random_positive]", "pairs.count=4", "batch_size=3", "steps.intervals=4"]
METRICS = "metric=[deletion,energy_pointing_game,pointing_game]"
OURS = ["explainer=[sfam,grad_cam]", "explainer.grad_cam.relu=false", METRICS]
SAVED = "_target_: sfam_bench.explainers.saved_maps.SavedMaps, folder: "


def values(run: Path, explainer: str) -> pd.DataFrame:
    records = read_records(run)
    keys = ["metric", "query_id", "reference_id"]
    return records[records.explainer == explainer].set_index(keys)[["value", "flag"]].sort_index()


@pytest.fixture(scope="module")
def ours(run_script: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("ours") / "run"
    ok(run_script("evaluate", *DATA, *PAIRS, *OURS, "maps.save=true", f"run_dir={run}"))
    return run


@pytest.fixture
def mine(run_script: Run, ours: Path, tmp_path: Path) -> Path:
    """SFAM's maps, written as files."""
    out = ok(run_script("maps", f"run={ours}", "method=sfam", f"out={tmp_path / 'mine'}"))
    assert out.startswith("8 maps of sfam")
    return tmp_path / "mine"


def scored(run_script: Run, tmp_path: Path, folder: Path, *more: str) -> tuple[int, str, str]:
    given = f"+explainer.mine={{{SAVED}{folder}}}"
    return run_script(
        "evaluate", *DATA, *PAIRS, "explainer=[sfam]", METRICS, given, f"run_dir={tmp_path / 'run'}", *more
    )


def test_exported_maps_are_scored_as_the_method_is(run_script: Run, ours: Path, mine: Path, tmp_path: Path) -> None:
    ok(scored(run_script, tmp_path, mine, "maps.save=true"))
    pd.testing.assert_frame_equal(values(tmp_path / "run", "mine"), values(ours, "sfam"), rtol=0, atol=1e-6)
    before, after = read_maps(ours), read_maps(tmp_path / "run")
    for side in ("query", "reference"):
        np.testing.assert_array_equal(after[f"mine/{side}"], before[f"sfam/{side}"])
    assert read_run(tmp_path / "run").manifest["blind"] == []


def test_maps_of_captum_are_scored_as_grad_cam_is(run_script: Run, ours: Path, tmp_path: Path) -> None:
    pytest.importorskip("captum")
    assert write_maps(tmp_path / "captum", captum_maps(ours)) == 8
    ok(scored(run_script, tmp_path, tmp_path / "captum"))
    pd.testing.assert_frame_equal(values(tmp_path / "run", "mine"), values(ours, "grad_cam"), rtol=0, atol=1e-5)


def test_maps_named_by_image_are_scored_and_said_to_be_blind(run_script: Run, ours: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    folder = tmp_path / "by_image"
    folder.mkdir()
    for query in set(read_run(ours).pairs.query_id):
        np.save(folder / f"{query}.npy", draw.random((5, 7)))
    refused(scored(run_script, tmp_path, folder), "no map of", "set named_by=image")
    ok(scored(run_script, tmp_path, folder, "+explainer.mine.named_by=image"))
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["blind"] == ["mine"]
    assert values(tmp_path / "run", "mine").value.notna().any()


def test_a_map_that_is_absent_is_named_and_one_with_nan_is_flagged(
    run_script: Run, ours: Path, mine: Path, tmp_path: Path
) -> None:
    first, *_, last = read_run(ours).pairs.itertuples()
    path = mine / pair_file(first.query_id, first.reference_id)
    np.save(path, np.full_like(np.load(path), np.nan))
    ok(scored(run_script, tmp_path, mine))
    flags = values(tmp_path / "run", "mine").flag.xs(first.query_id, level="query_id")
    assert "nonfinite_map" in set(flags)
    absent = pair_file(last.query_id, last.reference_id)
    (mine / absent).unlink()
    refused(scored(run_script, tmp_path, mine, f"run_dir={tmp_path / 'again'}"), "no map of", str(mine / absent))


@pytest.mark.parametrize(
    ("override", "words"),
    {
        "method=rise": ("has no maps of rise", "grad_cam or sfam"),
        "run=nowhere": ("no run folder nowhere",),
        "out={full}": ("exists and is not empty",),
    }.items(),
)
def test_what_cannot_be_exported_is_refused(
    run_script: Run, ours: Path, tmp_path: Path, override: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").touch()
    given = {"run": str(ours), "method": "sfam", "out": str(tmp_path / "new")}
    key, value = override.format(full=tmp_path / "full").split("=")
    refused(run_script("maps", *(f"{k}={v}" for k, v in {**given, key: value}.items())), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["note"]


def test_a_run_without_maps_says_so(run_script: Run, tmp_path: Path) -> None:
    ok(run_script("evaluate", *DATA, *PAIRS, "explainer=[centre]", "metric=[pointing_game]", f"run_dir={tmp_path}/run"))
    refused(run_script("maps", f"run={tmp_path}/run", "method=centre", f"out={tmp_path}/new"), "maps.save=true")


def test_an_unfinished_run_is_not_exported(run_script: Run, ours: Path, tmp_path: Path) -> None:
    shutil.copytree(ours, tmp_path / "part")
    for kind in ("records", "maps", "curves"):
        for last in sorted((tmp_path / "part" / kind).glob("[0-9]*"))[-1:]:
            last.unlink()
    refused(run_script("maps", f"run={tmp_path}/part", "method=sfam", f"out={tmp_path}/new"), "part")
    assert not (tmp_path / "new").exists()
