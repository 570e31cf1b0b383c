"""The table of trained models, out of run folders made here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import digest, write_json
from sfam_bench.report.paper import Models
from sfam_bench.report.stored import Stored
from sfam_bench.report.tables.models import model_table, read_training, row_names
from sfam_bench.statistics import clustered_intervals

FROZEN = {"recall_at_1": [1.0, 0, 0, 0], "map_at_r": [0.5, 0, 0.25, 0.25]}
TRAINED = {"recall_at_1": [1.0, 1, 0, 0], "map_at_r": [1.0, 0.5, 0.75, 0.75]}
PUBLISHED = {"recall_at_1": 0.76, "source": "Kim et al., CVPR 2020", "mark": "verified", "setting": "BN-Inception"}


def frame(stage: str, values: dict[str, list[float]], labels: tuple[int, ...] = (3, 3, 5, 5)) -> pd.DataFrame:
    ids = [f"{number:04d}.jpg" for number in range(len(labels))]
    return pd.DataFrame({"image_id": ids, "label": labels, "stage": stage, **values})


def facts(**changes: Any) -> dict[str, Any]:
    split = {"dataset": "cub", "name": "zero-shot", "hash": "0", "train_classes": [1, 2]}
    config = {"model": {"name": "lite0"}, "train": {"part": "embedder", "seed": 0}}
    made = {"chosen": "last epoch", "loss": "arcface", "miner": "none", "recipe": "default"}
    made |= {"published": None, "git": "abc"}
    return {**made, "split": split, "config": config, **changes}


def trained(root: Path, items: pd.DataFrame | None = None, **changes: Any) -> Path:
    root.mkdir(parents=True)
    write_json(root / "model.json", facts(**changes))
    both = pd.concat([frame("frozen", FROZEN), frame("trained", TRAINED)[::-1]])
    (both if items is None else items).to_parquet(root / "retrieval.parquet", index=False)
    pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "seconds": [40.0, 50.5]}).to_csv(root / "history.csv")
    return root


def written(*runs: Path) -> tuple[pd.DataFrame, str]:
    """The table of trainings that lie side by side: its frame, and its Markdown."""
    sheet = Models("Trained models", [run.name for run in runs])(Stored(runs[0].parent))
    sheet.write(runs[0].parent / "out", "models")
    return sheet.frames[""], (runs[0].parent / "out" / "models.md").read_text()


def test_a_row_by_hand(tmp_path: Path) -> None:
    row = model_table([read_training(trained(tmp_path / "run"))]).iloc[0]
    assert row[["dataset", "split", "model", "loss", "part"]].tolist() == [
        *("cub", "zero-shot", "lite0", "arcface", "embedder"),
    ]
    assert (row["images"], row["classes"], row["chosen"], row["seconds"]) == (4, 2, "last epoch", 90.5)
    assert row["recall_at_1_frozen"] == 0.25
    assert row["recall_at_1_trained"] == 0.5
    assert row["recall_at_1_difference"] == 0.25
    assert row["map_at_r_frozen"] == 0.25
    assert row["map_at_r_trained"] == 0.75
    # each image gains as much, so that no resample of the classes gains another sum
    assert row[["map_at_r_difference", "map_at_r_difference_low", "map_at_r_difference_high"]].tolist() == [0.5] * 3
    assert row["verdict"] == ""


def test_intervals_resample_classes_and_pair_images(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    labels = tuple(np.repeat(np.arange(12), 5).tolist())
    sides = [{name: draw.random(60).tolist() for name in FROZEN} for _ in range(2)]
    items = pd.concat([frame(stage, side, labels) for stage, side in zip(("frozen", "trained"), sides, strict=True)])
    shuffled = items.sample(frac=1, random_state=0)
    row = model_table([read_training(trained(tmp_path / "run", shuffled))], draws=500).iloc[0]
    before, after = (np.array(side["map_at_r"]) for side in sides)
    for side, values in {"frozen": before, "trained": after, "difference": after - before}.items():
        (expected,) = clustered_intervals(values[:, None], np.array(labels), draws=500)
        found = row[[f"map_at_r_{side}", f"map_at_r_{side}_low", f"map_at_r_{side}_high"]]
        assert found.tolist() == pytest.approx([expected.mean, expected.low, expected.high])
        assert expected.low < expected.high


# What was published


def official(root: Path, recall: float, images: int = 5924, classes: int = 100, **changes: Any) -> Path:
    """A training on CUB in full, of which a share of `recall` finds its class."""
    labels = tuple((np.arange(images) % classes).tolist())
    hits = (np.arange(images) < round(recall * images)).astype(float).tolist()
    items = pd.concat([frame(stage, dict.fromkeys(FROZEN, hits), labels) for stage in ("frozen", "trained")])
    split = {"dataset": "cub", "name": "zero-shot", "hash": "0", "train_classes": [*range(100)]}
    return trained(root, items, **{"split": split, "published": PUBLISHED, **changes})


def judged(run: Path) -> pd.Series:
    return model_table([read_training(run)], draws=20).iloc[0]


@pytest.mark.parametrize(("recall", "verdict"), [(0.9, "PASS"), (0.76, "PASS"), (0.7501, "PASS"), (0.7495, "DRIFT")])
def test_within_one_point_of_what_was_published_passes(tmp_path: Path, recall: float, verdict: str) -> None:
    row = judged(official(tmp_path / "run", recall))
    assert (row["verdict"], row["why"]) == (verdict, "")
    assert row["published_difference"] == pytest.approx(recall - 0.76, abs=1e-3)
    assert row[["source", "mark", "setting"]].tolist() == ["Kim et al., CVPR 2020", "verified", "BN-Inception"]


def test_exactly_one_point_below_passes_whatever_floats_make_of_it(tmp_path: Path) -> None:
    row = judged(official(tmp_path / "run", 0.75))
    assert row["published_difference"] < -0.01
    assert row["verdict"] == "PASS"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"classes": 15}, "a part of the data: 15 of 100 test classes"),
        ({"images": 900}, "a part of the data: 900 of 5924 test images"),
        ({"published": {"recall_at_1": None, "source": "a paper"}}, "no recall@1 was published"),
        (
            {"split": {"dataset": "grocery", "name": "zero-shot", "train_classes": [1]}},
            "grocery has no official size here",
        ),
        (
            {"split": {"dataset": "cub", "name": "zero-shot", "train_classes": [*range(15)]}},
            "a part of the data: 15 of 100 training classes",
        ),
    ],
)
def test_what_cannot_be_compared_is_shown_and_not_judged(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    run = official(tmp_path / "run", 0.2, **changes)
    row = judged(run)
    assert (row["verdict"], row["why"]) == ("not judged", why)
    _, page = written(run)
    published = run_published(run) is not None  # a table of nothing but gaps is not printed
    assert (f"not judged: {why}" in page) == published


def run_published(run: Path) -> float | None:
    return json.loads((run / "model.json").read_text())["published"]["recall_at_1"]


# Files


def test_the_table_is_written_as_csv_markdown_and_latex(tmp_path: Path) -> None:
    run, other = trained(tmp_path / "a", published=PUBLISHED), trained(tmp_path / "b", loss="triplet")
    table, page = written(run, other)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["models.csv", "models.html", "models.md", "models.tex"]
    pd.testing.assert_frame_equal(
        pd.read_csv(out / "models.csv", keep_default_na=False)[["loss", "verdict", "images"]],
        table[["loss", "verdict", "images"]],
    )
    assert "## cub · zero-shot" in page
    (line,) = (line for line in page.splitlines() if line.startswith("| lite0 · triplet · embedder"))
    assert "| 0.250 [0.001, 0.990] | 0.500 [0.002, 0.998] | +0.250 [-2.927, +3.427] |" in line  # of two classes
    assert "| +0.500 | 4; 2 | last epoch | 90 |" in line  # each image gains as much, and two classes give no mark
    assert "| 0.760 | -0.260 | not judged: a part of the data" in page
    assert "Kim et al., CVPR 2020 (verified) | BN-Inception |" in page
    assert (out / "models.tex").read_text().count(r"\begin{table}") == 2
    assert "cub · zero-shot (4 test images of 2 classes)" in page


def test_miners_recipes_and_seeds_are_named_where_rows_would_be_alike(tmp_path: Path) -> None:
    config = {"model": {"name": "lite0"}, "train": {"part": "embedder", "seed": 7}}
    runs = [trained(tmp_path / "a"), trained(tmp_path / "b", config=config), trained(tmp_path / "c", loss="triplet")]
    table = model_table([read_training(run) for run in runs], draws=20)
    assert row_names(table) == [
        "lite0 · arcface · embedder · 0",
        "lite0 · arcface · embedder · 7",
        "lite0 · triplet · embedder · 0",
    ]
    assert row_names(table[1:]) == ["lite0 · arcface · embedder", "lite0 · triplet · embedder"]
    mined = [trained(tmp_path / miner, loss="triplet", miner=miner) for miner in ("semihard", "none")]
    names = row_names(model_table([read_training(run) for run in mined], draws=20))
    assert names == ["lite0 · triplet · embedder · semihard", "lite0 · triplet · embedder · none"]


def test_a_history_without_seconds_leaves_them_open(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    (run / "history.csv").write_text("epoch,loss\n1,2.0\n")
    table, page = written(run)
    assert np.isnan(table["seconds"].iloc[0])
    assert "| last epoch | -- |" in page


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def edit(path: Path, was: str, now: str) -> None:
    path.write_text(path.read_text().replace(was, now))


def prove(run: Path, name: str) -> None:
    """Give the facts the digest that a file had before it was changed."""
    digests = {each: digest(run / each) for each in ("history.csv", "retrieval.parquet")}
    write_json(run / "model.json", facts(digests=digests))
    with (run / name).open("ab") as file:
        file.write(b"\n")


def changed(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        path = run / "retrieval.parquet"
        change(pd.read_parquet(path)).to_parquet(path, index=False)

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "model.json").unlink(), "is not a finished training (no model.json)"),
        (lambda run: (run / "retrieval.parquet").unlink(), "(no retrieval.parquet)"),
        (lambda run: (run / "history.csv").unlink(), "(no history.csv)"),
        (lambda run: cut(run / "model.json"), "cannot read"),
        (lambda run: cut(run / "retrieval.parquet"), "cannot read the training in"),
        (lambda run: (run / "history.csv").write_text(""), "cannot read the training in"),
        (lambda run: (run / "model.json").write_text("[]"), "holds no JSON object"),
        (lambda run: write_json(run / "model.json", facts(config={})), "does not say config.model.name"),
        (lambda run: edit(run / "model.json", "last epoch", "validation"), "is damaged or was edited"),
        (lambda run: prove(run, "history.csv"), "history.csv is damaged or was edited"),
        (lambda run: prove(run, "retrieval.parquet"), "retrieval.parquet is damaged or was edited"),
        (lambda run: (run / "model.json").write_text("{}"), "does not say split.dataset"),
        (changed(lambda items: items.drop(columns="map_at_r")), "has no column map_at_r"),
        (changed(lambda items: items[1:]), "does not hold the same images frozen and trained"),
        (changed(lambda items: items[items["stage"] == "frozen"]), "does not hold the same images"),
        (changed(lambda items: items[:0]), "does not hold the same images"),
        (changed(lambda items: pd.concat([items, items])), "does not hold the same images"),
        (changed(lambda items: items.assign(label=range(8))), "does not hold the same images"),
        (changed(lambda items: items.assign(map_at_r=np.nan)), "holds values that are not finite"),
    ],
)
def test_a_broken_run_is_named(tmp_path: Path, spoil: Callable[[Path], Any], message: str) -> None:
    run = trained(tmp_path / "broken")
    spoil(run)
    with pytest.raises(UserError, match="broken") as caught:
        written(run)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_two_runs_of_one_training_and_none_at_all_are_refused(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    with pytest.raises(UserError, match=r"both hold cub · zero-shot · lite0 · arcface · none · embedder"):
        written(run, trained(tmp_path / "again"))
    with pytest.raises(UserError, match="no training to report"):
        model_table([])


def test_the_script_writes_the_table(run_script: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    trained(tmp_path / "run")
    stored = ("table=[1_models]", f"records={tmp_path}", f"out={tmp_path / 'out'}")
    code, out, err = run_script("paper", *stored, "table.table_1.runs=[run]")
    assert (code, err) == (0, "")
    assert (tmp_path / "out" / "tables" / "table_1.csv").is_file()
    assert out.splitlines()[0] == str(tmp_path / "out" / "tables" / "table_1.md")
    code, out, err = run_script("paper", *stored, "table.table_1.runs=[none]")
    assert (code, out) == (2, "")
    assert "no stored run 'none'" in err
    code, out, err = run_script("paper", f"out={tmp_path / 'out'}")
    assert (code, out) == (2, "")
    assert "no table and no figure is chosen" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"published": [0.7]}, "published is [0.7], not a mapping"),
        ({"published": {"recall_at_1": "high"}}, "published.recall_at_1 is 'high'"),
        ({"split": {"dataset": "cub", "name": "x", "train_classes": 3}}, "split.train_classes is 3, not a list"),
        ({"chosen": 1}, "chosen is 1"),
    ],
)
def test_foreign_facts_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    run = trained(tmp_path / "foreign", **change)
    with pytest.raises(UserError, match=r"model\.json does not describe a training") as caught:
        written(run)
    assert message in str(caught.value)
