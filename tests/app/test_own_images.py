"""A folder of images of one's own: pairs listed in a CSV, verification, no labels at all."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sfam_bench.datasets.planted.dataset import Planted
from sfam_bench.report.tables.protocols import describe_protocol
from sfam_bench.runs.reader import read_run
from sfam_bench.statistics import summarise
from tests.scripts import Run, mistake, says

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of two images, without labels."""
    images, folder = Planted(size=32, train_per_class=0, test_per_class=2), tmp_path_factory.mktemp("own")
    (folder / "photos").mkdir()
    for number, image_id in enumerate(images.index.index[:8]):
        images.image(image_id).save(folder / "photos" / f"{number}.png")
    return folder


def evaluate(
    run_script: Run, photos: Path, run: Path, *settings: str, by: tuple[str, ...] = ("evaluate",)
) -> tuple[int, str, str]:
    small = ("explainer=[lafam]", "metric=[deletion,pointing_game]", "steps.intervals=4")
    return run_script(
        *by,
        "dataset=folder",
        f"dataset.root={photos / 'photos'}",
        "model.image_size=32",
        *small,
        f"run_dir={run}",
        *settings,
    )


def test_a_verification_run(run_script: Run, photos: Path, tmp_path: Path) -> None:
    lines = ["query,reference,same", "0.png,1.png,true", "2.png,3.png,true", "0.png,2.png,false", "1.png,3.png,false"]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    code, out, err = evaluate(run_script, photos, tmp_path / "run", f"pairs={tmp_path / 'pairs.csv'}")
    assert code == 0, err
    assert "verification: same 2, different 2, accuracy " in out
    assert "skipped on photos, which lacks masks or boxes: pointing_game" in out
    roc = pd.read_csv(tmp_path / "run" / "roc.csv")
    assert roc[["false_accepts", "true_accepts"]].iloc[[0, -1]].to_numpy().tolist() == [[0, 0], [1, 1]]
    planned = tmp_path / "planned"
    code, out, err = evaluate(
        run_script, photos, planned, f"pairs={tmp_path / 'pairs.csv'}", "shards=1", by=("submit", "plan")
    )
    assert code == 0, err
    assert "verification: same 2, different 2, accuracy " in out
    assert (planned / "roc.csv").read_text() == (tmp_path / "run" / "roc.csv").read_text()
    run = read_run(tmp_path / "run")
    assert set(run.pairs["kind"]) <= {f"{a}_{b}" for a in ("same", "different") for b in ("accepted", "rejected")}
    said = dict(describe_protocol(run, summarise(run.matrix, {}), np.array([])))
    assert said["Verification"].startswith("same 2, different 2, accuracy ")
    (tmp_path / "pairs.csv").write_text("\n".join(lines[:-1]))  # another list under the same name
    again = f"pairs={tmp_path / 'pairs.csv'}"
    for outcome in (
        evaluate(run_script, photos, tmp_path / "run", again, "resume=true"),
        evaluate(run_script, photos, planned, again, "shards=1", by=("submit", "plan")),
    ):
        says(mistake(outcome), "another config (files.pairs was ")


def test_an_unlabelled_folder(run_script: Run, photos: Path, tmp_path: Path) -> None:
    code, out, err = evaluate(run_script, photos, tmp_path / "run", "pairs.kinds=[nearest]", "pairs.count=3")
    assert code == 0, err
    assert "no retrieval measures: no class of photos has two images" in out
    assert len(read_run(tmp_path / "run").pairs) == 3


def test_a_list_with_an_absent_file(run_script: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("query,reference\n0.png,1.png\n0.png,absent.png\n")
    found = mistake(evaluate(run_script, photos, tmp_path / "run", f"pairs={tmp_path / 'pairs.csv'}"))
    says(found, "pairs.csv, line 3: reference 'absent.png' is not one of the 8 images of photos")
    assert not (tmp_path / "run").exists()
