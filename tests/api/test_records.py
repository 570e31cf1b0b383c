"""evaluate() in Python gives the records of sfam-bench evaluate, value for value."""

from pathlib import Path

import pandas as pd
import pytest

from sfam_bench.api import evaluate
from sfam_bench.app.evaluation import Evaluation
from sfam_bench.core.records import PairBatch
from sfam_bench.core.references import Vectors
from sfam_bench.core.targets import Threshold
from sfam_bench.datasets.batches import cut_batches, load_batches
from sfam_bench.datasets.planted.dataset import Planted
from sfam_bench.runs.reader import read_records, read_run
from tests.api.small import images, small_model
from tests.contract import composed
from tests.paths import UNTRAINED
from tests.scripts import Run

METHODS = ["sfam", "grad_cam", "chance"]
KEYS = ["dataset", "model", "target", "explainer", "metric", "query_id", "reference_id"]
SMALL = ("model.image_size=32", f"explainer=[{','.join(METHODS)}]", "passes.mode=eager", "batch_size=4", UNTRAINED)


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    columns = [*KEYS, "value", "flag"]
    assert [*found.columns] == columns
    tables = [frame[columns].sort_values(KEYS, ignore_index=True) for frame in (found, expected)]
    pd.testing.assert_frame_equal(*tables, check_dtype=False, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_frame_of_files(run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Planted(size=48, train_per_class=0, test_per_class=2)
    (tmp_path / "photos").mkdir()
    for number, image_id in enumerate(drawn.index.index[:6]):
        drawn.image(image_id).save(tmp_path / "photos" / f"{number}.png")
    pairs = pd.DataFrame(
        [(f"{at}.png", f"{(at + 1) % 6}.png", f"{(at + 2) % 6}.png") for at in range(5)],
        columns=["query", "reference", "negative"],
    )
    pairs.to_csv(tmp_path / "photos" / "pairs.csv", index=False)
    metrics = "metric=[deletion,margin,complexity,completeness]"
    given = ("dataset=folder", f"dataset.root={tmp_path / 'photos'}", f"pairs={tmp_path / 'photos' / 'pairs.csv'}")
    code, _, error = run_script(
        "evaluate", *given, "target=margin", metrics, "curves=false", f"run_dir={tmp_path / 'run'}", *SMALL
    )
    assert code == 0, error
    names = [*read_run(tmp_path / "run").manifest["metrics"]]
    model = Evaluation.of(composed("evaluate", *given, "target=margin", metrics, *SMALL)).inputs.model
    listed = evaluate(model, tmp_path / "photos" / "pairs.csv", METHODS, names, dataset="photos", batch_size=4)
    assert_same(listed, read_records(tmp_path / "run"))
    monkeypatch.chdir(tmp_path / "photos")
    framed = evaluate(model, pairs, METHODS, names, dataset="photos", batch_size=4)
    pd.testing.assert_frame_equal(framed, listed)


@pytest.mark.slow
def test_batches_of_a_data_set_with_its_regions_and_a_gallery(run_script: Run, tmp_path: Path) -> None:
    given = ("experiment=planted", "dataset.size=32", "dataset.test_per_class=2", "dataset.train_per_class=0")
    given += ("metric=[retrieval,causal,selectivity,pointing_game]", "pairs.count=5", "curves=false", *SMALL)
    code, _, error = run_script("evaluate", *given, f"run_dir={tmp_path / 'run'}")
    assert code == 0, error
    evaluation = Evaluation.of(composed("evaluate", *given))
    gallery, run = evaluation.embed_images(), read_run(tmp_path / "run")
    batches = load_batches(evaluation.inputs.dataset, cut_batches(run.pairs, 4))
    found = evaluate(
        evaluation.inputs.model,
        batches,
        METHODS,
        evaluation.metrics,  # with the tolerance of the experiment
        gallery=evaluation.catalogue(gallery),
        dataset="planted",
    )
    assert_same(found, read_records(tmp_path / "run"))


def test_what_is_not_measured_is_named() -> None:
    model, pairs = small_model(), [*zip(images(2, 1), images(2, 2), strict=True)]
    found = evaluate(model, iter(pairs), "sfam", ["gini", "pointing_game"])
    assert {*found["metric"]} == {"gini", "s_full"}
    assert found.attrs["skipped"] == ["pointing_game"]
    assert found.attrs["metrics"]["gini"]["label"]
    boxed = pd.DataFrame(
        {"query": [*images(2, 1)], "reference": [*images(2, 2)], "box": [(0, 0, 9, 9), (4, 4, 20, 30)]}
    )
    assert evaluate(model, boxed, "sfam", ["pointing_game"])["metric"].eq("pointing_game").sum() == 2


def test_the_target_is_chosen() -> None:
    model = small_model()
    vectors = [Vectors(row[None]) for row in model.encode(images(2, 3)).embeddings]
    pairs = [*zip(images(2), vectors, strict=True)]
    plain, above = (evaluate(model, pairs, "sfam", "gini", target) for target in (None, Threshold(0.25)))
    scores = [frame.loc[frame["metric"] == "s_full", "value"].to_numpy() for frame in (plain, above)]
    assert scores[0] - 0.25 == pytest.approx(scores[1], abs=1e-6)
    assert {*above["target"]} == {"threshold"}


def test_batches_with_negatives_are_explained_as_margins() -> None:
    query, reference, negative = images(3)
    batch = PairBatch(("a",), ("b",), query[None], reference[None], negative_ids=("c",), negative=negative[None])
    found = evaluate(small_model(), [batch], ["sfam"], ["gini"])
    assert set(found["target"]) == {"margin"}
    alone = PairBatch(("a",), ("b",), query[None], reference[None])
    assert set(evaluate(small_model(), [alone], ["sfam"], ["gini"])["target"]) == {"similarity"}
