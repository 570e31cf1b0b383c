"""Figures are drawn, flat maps stay flat, and names are no markup."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.figures import figures
from sfam_bench.report.figures.means import draw_overview
from sfam_bench.report.tables.tables import mark_blind
from sfam_bench.runs.matrix import Matrix
from sfam_bench.runs.reader import read_records, read_run
from sfam_bench.statistics import summarise


@pytest.mark.slow
def test_the_gallery_is_drawn(fake_run: Path, tmp_path: Path) -> None:
    (sheet,) = figures.gallery(read_run(fake_run), tmp_path)
    assert sheet.name == "gallery-cub-lite0-frozen-similarity-1.png"
    width, height = Image.open(sheet).size
    assert width == 910  # 7 inches at 130 dots
    assert height > 1000


def test_many_explainers_take_several_sheets(fake_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "SHEET", 2)
    assert len(figures.gallery(read_run(fake_run), tmp_path, pairs=1)) == 3


def test_pairs_of_each_kind_come_in_turn(fake_run: Path) -> None:
    kinds = [row["kind"] for row in figures.select_pairs(read_run(fake_run), 6)]
    assert kinds == ["nearest_positive"] * 2 + ["hard_negative"] * 2 + ["random_positive", "partial_match"]


@pytest.mark.parametrize("lost", ["maps", "images"])
def test_without_maps_or_images_there_is_no_gallery(fake_run: Path, tmp_path: Path, lost: str) -> None:
    copy = Path(shutil.copytree(fake_run, tmp_path / "run"))
    shutil.rmtree(copy / lost)
    assert figures.gallery(read_run(copy), tmp_path) == []


def test_positive_and_negative_values_are_told_apart() -> None:
    raw = np.array([[1.0, 0.0], [0.0, -1.0]], dtype=np.float32)
    drawn = figures.overlay(np.full((64, 64, 3), 128, np.uint8), raw).astype(int)
    assert drawn[2, 2, 0] > drawn[2, 2, 2]  # yellow
    assert drawn[-3, -3, 2] > drawn[-3, -3, 0]  # blue
    assert np.ptp(drawn[2, -3]) < 5  # no magnitude: the grey image


def test_the_scale_does_not_change_the_picture() -> None:
    rng = np.random.default_rng(0)
    image, raw = np.full((32, 40, 3), 90, np.uint8), rng.normal(size=(4, 5)).astype(np.float32)
    assert np.array_equal(figures.overlay(image, raw), figures.overlay(image, 1000 * raw))


@pytest.mark.parametrize("raw", [np.zeros((3, 3)), np.full((3, 3), 0.7), np.array([[np.nan, 1.0]])])
def test_flat_and_broken_maps_are_flagged(raw: np.ndarray) -> None:
    assert figures._is_flat(raw)
    assert not figures._is_flat(np.array([[0.0, 1e-6]]))


def test_the_overview_is_drawn_with_names_that_look_like_mathematics(fake_run: Path, tmp_path: Path) -> None:
    run = read_run(fake_run)
    records = read_records(run.root).assign(explainer=read_records(run.root)["explainer"].replace("exact", "$\\frac$"))
    table = mark_blind(
        summarise(Matrix.of(records, run.pairs), run.manifest["metrics"], draws=200), run.manifest["blind"]
    )
    png, svg = draw_overview(table, Catalogue.of(run.manifest), tmp_path)
    assert Image.open(png).size[0] > 500
    first = svg.read_bytes()
    draw_overview(table, Catalogue.of(run.manifest), tmp_path)
    assert svg.read_bytes() == first


def test_an_overview_of_nothing_is_no_file(fake_run: Path, tmp_path: Path) -> None:
    run = read_run(fake_run)
    table: pd.DataFrame = mark_blind(summarise(run.matrix, {}, draws=50), ())
    assert draw_overview(table, Catalogue({}), tmp_path) == []
