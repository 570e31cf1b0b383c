"""Few-shot from training to explained episodes, through the scripts."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from sfam_bench.report.tables.protocols import describe_protocol
from sfam_bench.runs.reader import read_records, read_run
from sfam_bench.statistics import summarise
from tests.scripts import Run, mistake, says

pytestmark = pytest.mark.slow

DATA = [
    *("experiment=few_shot/planted_protonet", "dataset.size=32", "dataset.train_per_class=4", "model.image_size=32"),
    *("dataset.test_per_class=5", "model.trunk.width=8", "episodes.queries=2", "episodes.count=20"),
]


@pytest.fixture(scope="module")
def trained(run_script: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("few_shot") / "train"
    few = ["train.epochs=2", "train.episodes=2", "train.batch_size=8", "train.per_class=4", "loss.criterion.shots=2"]
    code, _, err = run_script("train", *DATA, *few, f"run_dir={run}")
    assert code == 0, err
    return run / "model.safetensors"


def test_accuracies_are_printed_for_each_number_of_shots(run_script: Run, trained: Path) -> None:
    code, out, err = run_script("episodes", *DATA, f"model.checkpoint={trained}", "shots=[1,3]")
    assert code == 0, err
    found = json.loads(out[out.index("{\n") :])
    assert [(e["ways"], e["shots"], e["count"]) for e in found["episodes"]] == [(5, 1, 20), (5, 3, 20)]
    assert all(0 < e["accuracy"] < 1 and 0 < e["interval"] < 0.3 for e in found["episodes"])
    assert "20 5-way 3-shot episodes: accuracy " in out


def test_episodes_are_explained_and_measured(run_script: Run, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = ["explainer=[sfam,lafam]", "metric=[selectivity,evidence,margin]", "steps.intervals=4"]
    some = ["episodes.explained=6", "episodes.shots=2", "maps.pictures=2", "batch_size=4"]
    code, out, err = run_script("evaluate", *DATA, *small, *some, f"model.checkpoint={trained}", f"run_dir={run}")
    assert code == 0, err
    assert "20 5-way 2-shot episodes: accuracy " in out
    records, stored = read_records(run), read_run(run)
    by_kind = stored.pairs.set_index("reference_id")["kind"]
    kinds = records.assign(kind=records["reference_id"].map(by_kind)).groupby("metric")["kind"].unique()
    assert set(kinds["selectivity_energy"]) == {"partial_class"}
    assert set(kinds["evidence_energy"]) == {"own_class", "partial_class"}
    assert records.loc[records["metric"].str.startswith("margin"), "value"].notna().any()
    assert stored.manifest["episodes"]["shots"] == 2
    said = dict(describe_protocol(stored, summarise(stored.matrix, {}), np.array([])))
    assert said["Episodes"].startswith("ways 5, shots 2, count 20, accuracy ")
    images = {PIL.Image.open(path).size for path in (run / "images").glob("*.png")}
    assert images == {(32, 32), (64, 32)}  # a query; two supports beside each other


def test_a_run_is_continued(run_script: Run, trained: Path, tmp_path: Path) -> None:
    small = ["explainer=[lafam]", "metric=[evidence]", "episodes.explained=4", f"model.checkpoint={trained}"]
    for resume in ("false", "true"):
        code, _, err = run_script("evaluate", *DATA, *small, f"run_dir={tmp_path / 'run'}", f"resume={resume}")
        assert code == 0, err
    refused = run_script("evaluate", *DATA, *small, "episodes.shots=2", f"run_dir={tmp_path / 'run'}", "resume=true")
    says(mistake(refused), "has another config", "episodes.shots")


def test_class_score_needs_the_other_classes(run_script: Run, trained: Path, tmp_path: Path) -> None:
    small = ["explainer=[sfam]", "metric=[evidence]", "episodes.explained=3", "target=class_score"]
    base = [*DATA, *small, f"model.checkpoint={trained}"]
    says(mistake(run_script("evaluate", *base, f"run_dir={tmp_path / 'a'}")), "needs references of other classes")
    code, _, err = run_script("evaluate", *base, "episodes.rivals=true", f"run_dir={tmp_path / 'b'}")
    assert code == 0, err


def test_fitted_class_weights_are_references(run_script: Run, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = ["explainer=[sfam,protoshotxai]", "metric=[selectivity,evidence]", "episodes.explained=4"]
    fitted = [
        "episodes/classifier=baseline_pp",
        "episodes.classifier.epochs=3",
        "episodes.rivals=true",
        "target=class_score",
    ]
    base = [*DATA, *fitted, *small, "similarity=cosine", f"model.checkpoint={trained}", "passes.mode=eager"]
    kinds = "episodes.kinds=[own_class,partial_class]"
    code, _, err = run_script("evaluate", *base, kinds, f"run_dir={run}")
    assert code == 0, err
    assert {*read_records(run)["metric"]} >= {"selectivity_energy", "evidence_energy"}
    assert {len(vectors) for vectors in read_run(run).pairs["rival_vectors"]} == {4}
    refused = run_script("evaluate", *base, "episodes.prototype.of=medoid", f"run_dir={tmp_path / 'b'}")
    says(mistake(refused), "episodes.classifier replaces prototypes")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            ["episodes.shots=4"],
            ("planted has 0 classes here with 4 supports and 2 queries", "the largest has 5 images"),
        ),
        (["episodes.ways=49"], ("planted has 48 classes here", "episodes.ways=49")),
        (["episodes.shots=0"], ("episodes.shots is 0",)),
        (["split=train"], ("closed_set",)),
        (["episodes=none", "episodes/classifier=none"], ("episodes/classifier needs a choice of episodes",)),
    ],
)
def test_bad_input(run_script: Run, trained: Path, tmp_path: Path, changed: list[str], words: tuple[str, ...]) -> None:
    found = mistake(run_script("evaluate", *DATA, *changed, f"model.checkpoint={trained}", f"run_dir={tmp_path / 'r'}"))
    says(found, *words)
    assert not (tmp_path / "r").exists()


def test_episodes_need_a_choice(run_script: Run, trained: Path) -> None:
    given = ("dataset=planted", "dataset.size=32", "model=planted_net", f"model.checkpoint={trained}")
    says(mistake(run_script("episodes", *given, "episodes=none")), "episodes is null", "episodes=n_way")
