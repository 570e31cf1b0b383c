"""What the evaluate script makes ready before it begins a run folder: explainers, and the way of its passes."""

import json
import shutil
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest

from sfam_bench.datasets.planted.scene import PARTS
from sfam_bench.runs.reader import read_records, read_run
from tests.scripts import DATA, Run, refused

pytestmark = pytest.mark.slow

PAIRS = ["pairs.kinds=[random_positive]", "pairs.count=4", "batch_size=3", "steps.intervals=4"]
CHOSEN = ["explainer=[embedding_cam,weight_transfer,lafam]", "metric=[deletion]"]
SMALL = [*DATA, *PAIRS, *CHOSEN]


@pytest.fixture(scope="module")
def first(run_script: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, beside the cache of what its explainers need."""
    home = tmp_path_factory.mktemp("first")
    code, _, err = run_script("evaluate", *SMALL, f"prepare.cache={home / 'cache'}", f"run_dir={home / 'run'}")
    assert code == 0, err
    return home / "run"


def records(run: Path) -> pd.DataFrame:
    return read_records(run)


def test_explainers_that_need_training_images_are_prepared(first: Path) -> None:
    run = read_run(first)
    assert set(read_records(run.root)["explainer"]) == {"embedding_cam", "weight_transfer", "lafam", "pair"}
    prepared = run.manifest["prepared"]
    assert prepared["embedding_cam"] == {"means": 96}  # combinations of parts in the training split
    kept = prepared["weight_transfer"]
    assert kept["embeddings"] == kept["weights"] == 192 - kept["left_out"]
    assert len(list((first.parent / "cache").iterdir())) == 2


def test_another_run_takes_them_out_of_the_cache(run_script: Run, first: Path, tmp_path: Path) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in (first.parent / "cache").iterdir()}
    with patch(
        "sfam_bench.app.parts.Bank.of_dataset", side_effect=AssertionError("training images are embedded again")
    ):
        code, _, err = run_script(
            "evaluate", *SMALL, f"prepare.cache={first.parent / 'cache'}", f"run_dir={tmp_path / 'run'}"
        )
    assert code == 0, err
    pd.testing.assert_frame_equal(records(first), records(tmp_path / "run"), check_exact=True)
    assert {path: path.stat().st_mtime_ns for path in (first.parent / "cache").iterdir()} == stamps
    code, _, err = run_script("evaluate", *SMALL, "prepare.cache=null", f"run_dir={tmp_path / 'anew'}")
    assert code == 0, err
    pd.testing.assert_frame_equal(records(first), records(tmp_path / "anew"), check_exact=True)


@pytest.mark.parametrize("change", ["similarity=dot", "dataset.train_per_class=3"])
def test_what_the_embeddings_hang_on_is_part_of_the_key(
    run_script: Run, first: Path, tmp_path: Path, change: str
) -> None:
    cache = first.parent / "cache"
    before = len(list(cache.iterdir()))
    run_script("evaluate", *SMALL, f"prepare.cache={cache}", f"run_dir={tmp_path / 'run'}", change)
    assert len(list(cache.iterdir())) == before + 2


def test_a_run_is_continued_with_the_same_numbers(run_script: Run, first: Path, tmp_path: Path) -> None:
    call = ["evaluate", *SMALL, f"prepare.cache={first.parent / 'cache'}", f"run_dir={tmp_path / 'run'}"]
    shutil.copytree(first, tmp_path / "run")
    before = records(tmp_path / "run")
    (tmp_path / "run" / "records" / "00001.parquet").unlink()
    code, _, err = run_script(*call, "resume=true")
    assert code == 0, err
    pd.testing.assert_frame_equal(before, records(tmp_path / "run"), check_exact=True)
    refused(run_script(*call, "resume=true", "prepare.split=test", "split=train"), "another config")
    with patch("sfam_bench.app.parts.Bank.of_dataset", side_effect=AssertionError("nothing is left to do")):
        assert run_script(*call, "resume=true", "prepare.cache=null")[0] == 0


def test_another_config_is_refused_before_anything_is_computed(run_script: Run, first: Path) -> None:
    with patch("sfam_bench.retrieval.recall.prefetch", side_effect=AssertionError("images are embedded")):
        refused(run_script("evaluate", *SMALL, f"run_dir={first}", "resume=true", "pairs.count=3"), "another config")
        refused(run_script("evaluate", *SMALL, f"run_dir={first}"), "resume=true to continue")


WRONG = {
    "dataset.train_per_class=0": ("embedding_cam, weight_transfer must be prepared", "planted has none", "leave out"),
    "prepare.split=val": ("prepare.split=val", "planted has none"),
    "prepare.split=test": ("96 of them would be explained", "keep the two apart"),
    "split=all": ("192 of them would be explained", "prepare.split=train", "split=all"),
    "prepare.cache=3": ("prepare.cache is 3", "a string or null"),
    "+prepare.cahce=x": ("prepare has no setting 'cahce'", "split, cache"),
    "dataset.train_per_class=1": ("weight_transfer: no triplet of the 96 training images",),
    "explainer.weight_transfer.neighbours=0": ("weight_transfer.neighbours is 0",),
}


@pytest.mark.parametrize(("override", "words"), WRONG.items(), ids=WRONG)
def test_what_cannot_be_prepared_leaves_no_run_folder(
    run_script: Run, tmp_path: Path, override: str, words: tuple[str, ...]
) -> None:
    refused(run_script("evaluate", *SMALL, "prepare.cache=null", f"run_dir={tmp_path / 'run'}", override), *words)
    assert not (tmp_path / "run").exists()


def test_nobody_else_needs_a_training_split(run_script: Run, tmp_path: Path) -> None:
    call = ["evaluate", *SMALL, "explainer=[lafam]", "dataset.train_per_class=0", f"run_dir={tmp_path / 'run'}"]
    assert run_script(*call)[0] == 0
    assert "prepared" not in json.loads((tmp_path / "run" / "manifest.json").read_text())


UNFIT = ["explainer=[sfam,le_grad,lafam]", "metric=[energy_pointing_game]"]


def test_what_does_not_fit_the_model_is_refused_before_a_folder_is_begun(run_script: Run, tmp_path: Path) -> None:
    refused(run_script("evaluate", *DATA, *PAIRS, *UNFIT, f"run_dir={tmp_path / 'run'}"), "le_grad", "unsupported=skip")
    assert not (tmp_path / "run").exists()
    outcome = run_script("evaluate", *DATA, *PAIRS, *UNFIT, f"run_dir={tmp_path / 'run'}", "unsupported=maybe")
    refused(outcome, "unsupported", "refuse", "skip")


def test_or_skipped_and_named(run_script: Run, tmp_path: Path) -> None:
    code, out, err = run_script("evaluate", *DATA, *PAIRS, *UNFIT, f"run_dir={tmp_path / 'run'}", "unsupported=skip")
    assert code == 0, err
    assert "unsupported: le_grad" in out
    run = read_run(tmp_path / "run")
    assert set(read_records(run.root)["explainer"]) == {"sfam", "lafam", "pair"}
    assert "transformer" in run.manifest["unsupported"]["le_grad"]
    assert run.manifest["blind"] == ["lafam"]


def test_metrics_that_lack_what_they_need_are_said_once_by_what_it_is(run_script: Run, tmp_path: Path) -> None:
    chosen = ["explainer=[sfam,lafam]", "metric=[box,margin,pointing_game]", f"run_dir={tmp_path / 'run'}"]
    code, out, err = run_script("evaluate", *DATA, *PAIRS, *chosen)
    assert code == 0, err
    lines = [line for line in out.splitlines() if line.startswith("skipped on planted")]
    assert len(lines) == 2
    assert lines[0].startswith("skipped on planted, which lacks boxes: box_iou_00, box_iou_05")
    assert "pointing_game_box" in lines[0]
    assert lines[1].startswith("skipped on planted, which lacks negatives: margin_")
    run = read_run(tmp_path / "run")
    assert {"box_iou_00", "margin_deletion_mean_colour"} <= set(run.manifest["skipped"])
    assert not set(read_records(run.root)["metric"]) & set(run.manifest["skipped"])


def test_the_table_of_methods_is_printed_and_its_page_written(run_script: Run, tmp_path: Path) -> None:
    code, out, err = run_script("methods", *DATA, *PAIRS, *UNFIT, f"out={tmp_path / 'methods.md'}")
    assert code == 0, err
    assert "le_grad was not measured" in out
    page = (tmp_path / "methods.md").read_text()
    assert all(f"## {name}" in page for name in ("sfam", "le_grad", "lafam"))


def test_retrieval_and_margin_are_read_along_deletion(run_script: Run, tmp_path: Path) -> None:
    """The gallery of a run holds all its pairs; the margin is that of the kind of pairs that has negatives."""
    kinds = ["pairs.kinds=[nearest_positive,triplet]", "explainer=[sfam]", "metric=[deletion,retrieval,margin]"]
    code, _, err = run_script("evaluate", *DATA, *PAIRS, *kinds, "min_range=0.0", f"run_dir={tmp_path / 'run'}")
    assert code == 0, err
    run = read_run(tmp_path / "run")
    own = dict(iter(read_records(run.root)[read_records(run.root)["explainer"] == "sfam"].groupby("metric")))
    for metric in ("retrieval_rank_deletion_mean_colour", "retrieval_recall_at_1_deletion_mean_colour"):
        assert own[metric]["query_id"].tolist() == run.pairs["query_id"].tolist()
        assert own[metric]["value"].between(0, 1 + 1e-6).all()
    nearest = (run.pairs["kind"] == "nearest_positive").to_numpy()
    assert (own["retrieval_pixels_until_lost_mean_colour"]["flag"][nearest] == "").all()  # no other item is nearer
    margin = own["margin_pixels_until_flip_mean_colour"]
    assert margin["query_id"].tolist() == run.pairs["query_id"][~nearest].tolist()
    assert set(margin["flag"]) <= {"", "not_ahead"}


def test_a_rendered_world_is_checked_and_its_effects_are_recorded(run_script: Run, tmp_path: Path) -> None:
    tiny = ["dataset.size=32", "model.image_size=32", "dataset.train_per_class=1", "dataset.test_per_class=2"]
    chosen = ["explainer=[sfam,lafam]", "metric=[causal,causal_controls,background]", "redrawings=2", "pairs.count=3"]
    world = ["experiment=known_answers", "dataset=planted/shortcut", *tiny]
    code, out, err = run_script("evaluate", *world, *chosen, f"run_dir={tmp_path / 'run'}")
    assert code == 0, err
    check = read_run(tmp_path / "run").manifest["intervention"]
    assert check["causes"] == ["background"]
    assert set(check["flips"]) == {*PARTS, "background"}
    assert check["fails"]  # the network is not trained
    assert f"the model does not count as a known answer: {check['fails']}" in out
    found = records(tmp_path / "run")
    effects = found[found["explainer"] == "pair"].groupby("metric").size()
    assert effects[["effect_background", "effect_background_error", "effect_interaction"]].eq(3).all()
    of_maps = found[found["explainer"] == "sfam"].set_index("metric")["value"]
    assert of_maps["background_energy"].between(0, 1).all()
    assert of_maps[["causal_agreement", "causal_agreement_reference", "causal_agreement_chance"]].notna().all()


@pytest.mark.parametrize(
    ("world", "measured", "few"),
    [
        ("channel", "effect_colour", []),
        ("relation", "effect_places", []),
        ("prototype", "effect_crest", ["episodes.queries=1", "episodes.count=10"]),
        ("difference", "distinguishing_energy", []),
    ],
)
def test_worlds_with_pairs_of_their_own_are_evaluated(
    run_script: Run, tmp_path: Path, world: str, measured: str, few: list[str]
) -> None:
    tiny = ["dataset.size=32", "model.image_size=32", "dataset.train_per_class=1", "dataset.test_per_class=4", *few]
    chosen = ["explainer=[sfam,chance]", "metric=[causal,difference]", "redrawings=2", "pairs.count=3"]
    run_dir = tmp_path / "run"
    call = [f"experiment=known_answers_{world}", *tiny, *chosen, "passes.mode=eager", f"run_dir={run_dir}"]
    code, _, err = run_script("evaluate", *call)
    assert code == 0, err
    found = records(run_dir)
    assert found.loc[found["metric"] == measured, "value"].notna().any()
    assert found.loc[(found["metric"] == "causal_agreement") & (found["explainer"] == "sfam"), "value"].notna().any()
    assert read_run(run_dir).manifest["intervention"]["causes"]
