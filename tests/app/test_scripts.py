"""The scripts, end to end on a tiny planted set: what they leave on disk, that it repeats, that it continues."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from sfam_bench.app.settings import build
from sfam_bench.runs.reader import image_path, read_maps, read_records, read_run
from tests.paths import CONF
from tests.scripts import DATA, Run, ok

PAIRS = ["pairs.kinds=[random_positive,partial_match]", "pairs.count=3", "pairs.both_directions=true"]
SMALL = [*DATA, *PAIRS, "steps.intervals=4", "batch_size=3"]
FEWER = ["explainer=[similarity_decomposition,chance]", "metric=[deletion,selectivity]"]
TRAIN = [*DATA, "train.epochs=1", "train.per_class=2"]
EXPLAINERS = ["sfam", "similarity_decomposition", "grad_cam", "lafam", "centre", "chance"]


def values(run: Path) -> pd.DataFrame:
    records = read_records(run)
    return records.set_index([name for name in records.columns if name not in ("value", "flag")]).sort_index()


@pytest.fixture(scope="module")
def trained(run_script: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    ok(run_script("train", *TRAIN, f"run_dir={run}"))
    return run


@pytest.fixture(scope="module")
def evaluated(run_script: Run, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("evaluated") / "run"
    checkpoint = f"model.checkpoint={trained / 'model.safetensors'}"
    metrics = "metric=[selectivity,deletion,energy_pointing_game]"
    ok(run_script("evaluate", *SMALL, metrics, checkpoint, "maps.save=true", "maps.pictures=1", f"run_dir={run}"))
    return run


def test_training_leaves_the_model_its_facts_and_the_history(trained: Path) -> None:
    facts = json.loads((trained / "model.json").read_text())
    assert {"git", "versions", "split", "retrieval_before", "retrieval", "config", "chosen"} <= facts.keys()
    assert facts["config"]["train"]["epochs"] == 1
    assert facts["split"]["hash"]
    assert facts["retrieval"]["count"] == 96
    history = pd.read_csv(trained / "history.csv")
    assert history["epoch"].tolist() == [1]
    assert np.isfinite(history["loss"]).all()
    assert not list(trained.glob("*.tmp"))


def test_a_run_folder_says_how_it_came_about(evaluated: Path) -> None:
    manifest = read_run(evaluated).manifest
    assert manifest["done"]
    assert manifest["explainers"] == EXPLAINERS
    assert manifest["git"]
    assert {"torch", "numpy", "timm"} <= manifest["versions"].keys()
    assert len(manifest["split"]["hash"]) == 16
    assert manifest["retrieval"]["count"] == 96
    assert 0 <= manifest["retrieval"]["recall_at_1"] <= 1
    config = yaml.safe_load((evaluated / "config.yaml").read_text())
    assert config["pairs"]["count"] == 3
    assert "${" not in (evaluated / "config.yaml").read_text()


def test_pairs_are_saved_and_are_those_of_the_records(evaluated: Path) -> None:
    run = read_run(evaluated)
    pairs = set(zip(run.pairs["query_id"], run.pairs["reference_id"], strict=True))
    assert pairs == set(zip(read_records(run.root)["query_id"], read_records(run.root)["reference_id"], strict=True))
    assert set(run.pairs["kind"]) == {"random_positive", "partial_match"}
    assert run.pairs["query_id"].str.startswith("test-").all()
    same = run.pairs["query_label"] == run.pairs["reference_label"]
    assert same.equals(run.pairs["kind"] == "random_positive")


def test_the_worst_pairs_by_each_headline_metric_have_images(evaluated: Path) -> None:
    run = read_run(evaluated)
    stored = {image_id for pair in run.pairs[["query_id", "reference_id"]].to_numpy() for image_id in pair}
    stored = {image_id for image_id in stored if image_path(evaluated, image_id).exists()}
    values = read_records(evaluated).query("explainer == 'sfam' and metric == 'energy_pointing_game'")
    worst = values.loc[values["value"].idxmin()]
    assert {worst["query_id"], worst["reference_id"]} <= stored
    first = run.pairs.groupby("kind").head(1)
    assert {*first["query_id"], *first["reference_id"]} <= stored


def test_every_pair_has_one_record_a_method_and_metric(evaluated: Path) -> None:
    run = read_run(evaluated)
    assert not read_records(run.root).duplicated(["explainer", "metric", "query_id", "reference_id"]).any()
    counts = read_records(run.root).groupby(["metric", "explainer"]).size().unstack()
    expected = {
        "deletion_mean_colour": len(run.pairs),
        "selectivity_energy": (run.pairs["kind"] == "partial_match").sum(),
    }
    for metric, count in expected.items():
        assert counts.loc[metric, EXPLAINERS].eq(count).all()
    assert counts.loc["s_full", "pair"] == len(run.pairs)
    assert (read_records(run.root)["flag"] != "").equals(read_records(run.root)["value"].isna())


def test_scores_of_the_pairs_are_those_of_the_records(evaluated: Path) -> None:
    run = read_run(evaluated)
    full = read_records(run.root)[read_records(run.root)["metric"] == "s_full"].set_index(["query_id", "reference_id"])[
        "value"
    ]
    chosen = run.pairs.set_index(["query_id", "reference_id"])["score"]
    np.testing.assert_allclose(full.loc[chosen.index], chosen, atol=1e-5)


def test_raw_maps_are_indexed_by_pair_and_explainer(evaluated: Path) -> None:
    run, maps = read_run(evaluated), read_maps(evaluated)
    assert {f"{name}/{side}" for name in EXPLAINERS for side in ("query", "reference")} < maps.keys()
    pairs = list(zip(run.pairs["query_id"], run.pairs["reference_id"], strict=True))
    assert list(zip(maps["query_id"], maps["reference_id"], strict=True)) == pairs
    for name in EXPLAINERS:
        assert maps[f"{name}/query"].shape == (len(pairs), 4, 4)
    points = read_maps(evaluated, points=True)["point_to_point"].astype(float)
    assert points.shape == (len(pairs), 4, 4, 4, 4)
    np.testing.assert_allclose(points.sum(axis=(1, 2, 3, 4)), run.pairs["score"], atol=5e-3)
    # both directions are there, so each query map must be the reference map of the swapped pair
    turned = [pairs.index((reference, query)) for query, reference in pairs]
    for name in ("sfam", "similarity_decomposition", "grad_cam", "lafam"):
        scale = np.abs(maps[f"{name}/query"]).max()
        np.testing.assert_allclose(maps[f"{name}/query"][turned], maps[f"{name}/reference"], atol=1e-4 * scale)


@pytest.mark.slow
def test_the_report_reads_the_run_folder_alone(run_script: Run, evaluated: Path, tmp_path: Path) -> None:
    out = ok(run_script("report", f"runs=[{evaluated}]", f"out={tmp_path / 'report'}"))
    assert str(tmp_path / "report" / "index.html") in out
    page = (tmp_path / "report" / "index.html").read_text()
    assert "similarity_decomposition" in page
    assert "selectivity" in page
    summary = pd.read_csv(tmp_path / "report" / "summary.csv")
    assert set(EXPLAINERS) <= set(summary["explainer"])
    assert list((tmp_path / "report").glob("*.tex"))
    assert list((tmp_path / "report").glob("gallery*"))


@pytest.fixture(scope="module")
def first(run_script: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model's records."""
    run = tmp_path_factory.mktemp("first") / "run"
    ok(run_script("evaluate", *SMALL, *FEWER, f"run_dir={run}"))
    return run


@pytest.mark.slow
def test_the_same_seed_gives_identical_records(run_script: Run, first: Path, tmp_path: Path) -> None:
    ok(run_script("evaluate", *SMALL, *FEWER, f"run_dir={tmp_path / 'again'}"))
    pd.testing.assert_frame_equal(read_run(first).pairs, read_run(tmp_path / "again").pairs, check_exact=True)
    pd.testing.assert_frame_equal(read_records(first), read_records(tmp_path / "again"), check_exact=True)


@pytest.mark.slow
def test_another_seed_gives_other_pairs(run_script: Run, first: Path, tmp_path: Path) -> None:
    ok(run_script("evaluate", *SMALL, *FEWER, "seed=1", f"run_dir={tmp_path / 'other'}"))
    assert not read_run(first).pairs.equals(read_run(tmp_path / "other").pairs)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 7, 32])
def test_the_batch_size_does_not_matter(run_script: Run, first: Path, tmp_path: Path, size: int) -> None:
    ok(run_script("evaluate", *SMALL, *FEWER, f"batch_size={size}", f"run_dir={tmp_path / 'run'}"))
    ours, theirs = values(first), values(tmp_path / "run")
    assert ours.index.equals(theirs.index)
    np.testing.assert_allclose(ours["value"], theirs["value"], rtol=0, atol=1e-5, equal_nan=True)
    assert (ours["flag"] == theirs["flag"]).all()


@pytest.mark.slow
def test_a_checkpoint_gives_other_records(evaluated: Path, first: Path) -> None:
    assert not values(evaluated)["value"].reindex(values(first).index).equals(values(first)["value"])


@pytest.mark.slow
def test_a_second_call_refuses_and_resume_writes_only_what_is_missing(
    run_script: Run, first: Path, tmp_path: Path
) -> None:
    call = ("evaluate", *SMALL, *FEWER, f"run_dir={tmp_path / 'run'}")
    shutil.copytree(first, tmp_path / "run")
    before = read_records(tmp_path / "run")
    shards = sorted((tmp_path / "run" / "records").iterdir())
    stamps = {shard: shard.stat().st_mtime_ns for shard in shards}
    code, _, err = run_script(*call)
    assert code == 2
    assert "resume=true" in err.splitlines()[-1]
    assert {shard: shard.stat().st_mtime_ns for shard in shards} == stamps
    shards[1].unlink()
    ok(run_script(*call, "resume=true"))
    after = read_run(tmp_path / "run")
    pd.testing.assert_frame_equal(before, read_records(after.root), check_exact=True)
    assert {shard for shard in shards if shard.stat().st_mtime_ns != stamps[shard]} == {shards[1]}
    assert after.manifest["done"]


@pytest.mark.slow
@pytest.mark.parametrize("change", ["seed=1", "steps.intervals=6", "model.normalise=false"])
def test_resume_refuses_another_config(run_script: Run, first: Path, change: str) -> None:
    code, _, err = run_script("evaluate", *SMALL, *FEWER, f"run_dir={first}", "resume=true", change)
    assert code == 2
    assert "another config" in err


@pytest.mark.slow
def test_training_twice_with_one_seed_gives_bit_identical_weights(
    run_script: Run, trained: Path, tmp_path: Path
) -> None:
    ok(run_script("train", *TRAIN, f"run_dir={tmp_path / 'run'}"))
    ours, theirs = (load_file(run / "model.safetensors") for run in (trained, tmp_path / "run"))
    assert ours.keys() == theirs.keys()
    assert all((value == theirs[key]).all() for key, value in ours.items())
    ok(run_script("train", *TRAIN, "seed=1", f"run_dir={tmp_path / 'other'}"))
    other = load_file(tmp_path / "other" / "model.safetensors")
    assert any((value != other[key]).any() for key, value in ours.items())


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "head"), [("triplet", "none"), ("arcface", "linear")])
def test_every_loss_trains_and_its_checkpoint_embeds(run_script: Run, tmp_path: Path, loss: str, head: str) -> None:
    model = [f"head={head}", *(["head.dims=8"] if head == "linear" else [])]
    ok(run_script("train", *TRAIN, *model, f"loss={loss}", f"run_dir={tmp_path / 'run'}"))
    facts = json.loads((tmp_path / "run" / "model.json").read_text())
    assert facts["retrieval"] != facts["retrieval_before"]
    checkpoint = f"model.checkpoint={tmp_path / 'run' / 'model.safetensors'}"
    found = json.loads(ok(run_script("embed", *DATA, *model, checkpoint)))
    assert {key: found[key] for key in facts["retrieval"]} == pytest.approx(facts["retrieval"], abs=1e-6)


@pytest.mark.slow
def test_the_margin_target_explains_triplets(run_script: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    chosen = ["target=margin", "pairs.kinds=[triplet]", "pairs.both_directions=false", "maps.save=true"]
    ok(run_script("evaluate", *SMALL, *chosen, "metric=[deletion]", f"run_dir={run}"))
    found = read_run(run)
    assert found.pairs["negative_id"].str.len().gt(0).all()
    assert found.matrix.run[-1] == "margin"
    assert "sfam/query" in read_maps(run)
    assert (np.abs(found.matrix.entries["s_full", "pair"]) <= 2).all()
    code, _, err = run_script("evaluate", *SMALL, "target=margin", f"run_dir={tmp_path / 'pairs'}")
    assert code == 2
    assert "pairs.kinds=[triplet]" in err


@pytest.mark.slow
def test_embed_prints_how_well_a_split_retrieves(run_script: Run) -> None:
    for split, count in {"test": 96, "train": 192, "all": 288}.items():
        found = json.loads(ok(run_script("embed", *DATA, f"split={split}")))
        assert found["count"] == count
        assert 0 <= found["recall_at_1"] <= found["recall_at_8"] <= 1
        assert 0 <= found["map_at_r"] <= found["r_precision"] <= 1


@pytest.mark.slow
def test_a_run_folder_says_how_its_passes_were_taken(run_script: Run, first: Path, tmp_path: Path) -> None:
    facts = read_run(first).manifest["passes"]
    assert facts["mode"] == "eager"  # the run is too short for another
    assert facts["batch"] == 16
    assert facts["threads"] >= 1
    assert facts["images_per_second"].keys() == {"eager"}
    assert facts["images_per_second"]["eager"] > 0
    assert facts["score_differences"] == facts["refused"] == {}
    run_script("evaluate", *SMALL, *FEWER, f"run_dir={first}", "resume=true")  # nothing is left to do
    assert read_run(first).manifest["passes"] == facts


@pytest.mark.slow
def test_the_batch_of_the_passes_can_be_set_and_does_not_matter(run_script: Run, first: Path, tmp_path: Path) -> None:
    out = ok(run_script("evaluate", *SMALL, *FEWER, "passes.batch=5", f"run_dir={tmp_path / 'run'}"))
    assert "passes: eager, batch 5, " in out
    assert read_run(tmp_path / "run").manifest["passes"]["batch"] == 5
    ours, theirs = values(first), values(tmp_path / "run")
    assert ours.index.equals(theirs.index)
    np.testing.assert_allclose(ours["value"], theirs["value"], rtol=0, atol=1e-5, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_curves_or_none_can_be_taken_in_full(run_script: Run, tmp_path: Path, share: float) -> None:
    few = ["explainer=[chance]", "metric=[deletion]", "pairs.count=1", "pairs.both_directions=false"]
    ok(run_script("evaluate", *SMALL, *few, f"full_share={share}", "min_range=-9.0", f"run_dir={tmp_path / 'run'}"))
    counts = read_records(tmp_path / "run").groupby("metric").size()
    for name in ("deletion_mean_colour", "deletion_blur"):
        assert counts.get(f"{name}_area_error", 0) == share * counts[name]


def test_the_protocol_in_full_has_225_points() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        configs = [compose("evaluate", overrides) for overrides in (["steps=rise"], [])]
    rise, ours = (build(config.metric)["deletion_mean_colour"].steps for config in configs)
    counts, weights = rise(224 * 224)
    assert counts == list(range(0, 224 * 224 + 1, 224))
    assert len(counts) == len(weights) == 225
    assert len(ours(224 * 224)[0]) == 22
