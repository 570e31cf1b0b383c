"""Figures of the paper: out of stored runs, the same bytes each time, nothing cut off, nothing on top of another."""

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from sfam_bench.app.settings import build
from sfam_bench.core.errors import UserError
from sfam_bench.core.method_card import method_settings
from sfam_bench.core.metric_card import metric_facts
from sfam_bench.core.records import Curve
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.metrics.parts import PartEnergy
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.figures.drawings import (
    AlongField,
    CostFaithfulness,
    CriticalDifference,
    Curves,
    Failures,
    Means,
    MetricAgreement,
    PairPanels,
    PartHeat,
    save,
)
from sfam_bench.report.figures.drawings.cost import _free, _label
from sfam_bench.report.figures.meta_figures import diagram
from sfam_bench.report.figures.style import COLUMN, PAGE, SMALL, break_name
from sfam_bench.report.stored import Stored
from sfam_bench.runs.store import RunStore
from sfam_bench.statistics import FACTS
from tests.contract import choosing
from tests.paths import CONF
from tests.report.conftest import METRICS, make_image, make_maps, make_pairs, make_records

ODD = "a $\\frac$ <b> name_that_is_much_longer_than_any_column_of_it"
RENAMED = {"exact": ODD, "grad_cam": "sfam gamma 0"}
EXTRA = {"sfam gamma 0.5": "sfam", "sfam gamma 1": "lafam"}  # whose numbers they take
PARTS = metric_facts(
    {f"part_heat_{part}": PartEnergy(part, value="ratio", higher_is_better=None) for part in ("beak", "left_wing")}
)
GAMMAS = {"sfam gamma 0": 0.0, **dict(zip(EXTRA, (0.5, 1.0), strict=True))}
SAID: dict[str, Any] = {"caption": "c", "alt": "a"}
RUNS = {"one": "one", ODD: "two"}
CLOSE = "insertion_mean_colour"


def make_stored(root: Path, name: str, seed: int) -> None:
    """A run folder with everything that a figure may ask for."""
    rng, pairs = np.random.default_rng(seed), make_pairs(24, 6)
    records = make_records(name, pairs, rng, 1.0)
    more = [records[records["explainer"] == of].assign(explainer=new) for new, of in EXTRA.items()]
    records = pd.concat([records.replace({"explainer": RENAMED}), *more])
    heat = records[records["metric"] == "iou_50"]
    records = pd.concat([records, *(heat.assign(metric=part, value=heat["value"] * 2) for part in PARTS)])
    names = records.loc[records["explainer"] != "pair", "explainer"].unique().tolist()
    costs = {each: {"milliseconds": 1 + at / 50, "forwards": float(at)} for at, each in enumerate(names)}
    facts = {"dataset": "cub", "model": name, "target": "similarity", "blind": ["lafam", "chance"], "cost": costs}
    facts["explainer_settings"] = {each: method_settings(SFAM(gamma=gamma)) for each, gamma in GAMMAS.items()}
    store = RunStore.create(root / name, {"seed": seed}, {**facts, "metrics": {**METRICS, **PARTS}, "shards": 1})
    store.write_pairs(pairs)
    walks = [
        Curve(each, walk, pair.query_id, pair.reference_id, [0.0, 0.5, 1.0], [1.0, float(rng.uniform()), 0.1])
        for each in names
        for walk in ("deletion_mean_colour", "insertion_mean_colour")
        for pair in pairs.itertuples()
    ]
    maps = {key.replace("exact", ODD): array for key, array in make_maps(pairs, rng).items()}
    store.write_chunk(0, records, maps, walks)
    for pair in pairs[:6].itertuples():
        for image in (pair.query_id, pair.reference_id):
            store.write_image(image, make_image(rng))
    store.finish()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    root = tmp_path_factory.mktemp("records")
    make_stored(root, "one", 0)
    make_stored(root, "two", 1)
    return Stored(root)


def test_means_of_a_few_metrics_are_a_part_of_all(stored: Stored) -> None:
    run = stored.run("one")
    assert run.metrics == [*dict.fromkeys(run.means.loc[run.means["explainer"] != FACTS, "metric"])]
    assert {CLOSE, "cost_milliseconds"} <= {*run.metrics}
    for metrics in ([CLOSE, "pointing_game"], [CLOSE], ["cost_forwards"], ["cost_milliseconds", CLOSE]):
        wanted = {*metrics, *map(run.catalogue.chance, metrics)}
        part = run.means[run.means["metric"].isin(wanted)].reset_index(drop=True)
        assert not part.empty
        pd.testing.assert_frame_equal(run.among(metrics), part, check_dtype=False)


METHODS = ["sfam", ODD, "chance"]
DRAWINGS: dict[str, Any] = {
    "pairs": PairPanels(**SAID, runs=RUNS, methods=METHODS, pairs=2),
    "all_methods": PairPanels(**SAID, runs={"one": "one"}, pairs=1),
    "curves": Curves(**SAID, runs=RUNS, walks=["deletion_mean_colour", "insertion_mean_colour"], methods=METHODS),
    "ranks": CriticalDifference(**SAID, runs=RUNS, metrics=[CLOSE, "deletion_mean_colour"]),
    "sweep": AlongField(**SAID, runs=RUNS, field="gamma", metrics=[CLOSE, "iou_*"], levels=["lafam", ODD]),
    "agreement": MetricAgreement(
        **SAID, run="one", metrics=[CLOSE, "deletion_mean_colour", "selectivity_energy", "iou_50"]
    ),
    "cost": CostFaithfulness(**SAID, runs=RUNS, metric=CLOSE),
    "forwards": CostFaithfulness(**SAID, runs={"one": "one"}, metric=CLOSE, cost="forwards"),
    "heat": PartHeat(**SAID, run="one"),
    "failures": Failures(**SAID, run="one", method="sfam", metric="deletion_mean_colour"),
    "by_name": Failures(**SAID, run="one", method=ODD, metric=CLOSE, pictures=False),
    "means": Means(**SAID, runs=RUNS, metrics=[CLOSE, "energy_pointing_game"], columns=2),
}


def texts(figure: Figure) -> list[tuple[Text, Bbox]]:
    """Every text that is seen, with its box in pixels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    seen = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    hidden = {id(text) for axes in figure.findobj(lambda each: hasattr(each, "axison")) if not axes.axison
              for axis in (axes.xaxis, axes.yaxis) for text in axis.findobj(Text)}  # fmt: skip
    outside = {id(text) for text in _ticks_outside(figure)}
    return [
        (text, Text.get_window_extent(text, renderer))
        for text in seen
        if id(text) not in hidden and id(text) not in outside
    ]


def _ticks_outside(figure: Figure) -> list[Text]:
    """Labels of ticks beyond the limits, which are not drawn."""
    found = []
    for axes in figure.findobj(lambda each: hasattr(each, "axison")):
        for axis in (axes.xaxis, axes.yaxis):
            drawn = {id(tick) for tick in axis._update_ticks()}
            for tick in [*axis.majorTicks, *axis.minorTicks]:
                shown = {id(tick.label1)} if id(tick) in drawn and tick.label1.get_visible() else set()
                found += [label for label in (tick.label1, tick.label2) if id(label) not in shown]
    return found


@pytest.mark.parametrize("name", DRAWINGS)
def test_texts_are_whole_legible_and_apart(stored: Stored, name: str) -> None:
    figure = DRAWINGS[name](stored)
    assert figure.get_figwidth() in (COLUMN, PAGE)
    found = texts(figure)
    assert len(found) > 3
    page = figure.bbox
    for text, box in found:
        assert text.get_fontsize() >= SMALL, text.get_text()
        inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
        assert inside, f"{text.get_text()!r} is cut off: {box} of {page}"
    for (one, its), (other, others) in combinations(found, 2):
        upright = one.get_rotation() % 90 == 0 == other.get_rotation() % 90  # boxes of slanted texts may meet
        assert not (upright and its.padded(-1).overlaps(others.padded(-1))), (
            f"{one.get_text()!r} on {other.get_text()!r}"
        )


def test_names_of_marks_on_one_spot_stand_apart(stored: Stored) -> None:
    figure = DRAWINGS["cost"](stored)
    means, axes = stored.run("one").means, figure.axes[0]
    middle = axes.transData.inverted().transform(axes.transAxes.transform((0.5, 0.5)))
    spot = dict(zip(("cost", "mean"), middle.tolist(), strict=True))
    crowded = means[means["metric"] == CLOSE].assign(**spot, low=spot["mean"], high=spot["mean"])
    before = len(axes.texts)
    _label(axes, crowded, FigureCanvasAgg(figure))
    figure.draw(FigureCanvasAgg(figure).get_renderer())
    boxes = [Text.get_window_extent(text, FigureCanvasAgg(figure).get_renderer()) for text in axes.texts[before:]]
    assert len(boxes) == 7
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWINGS)
def test_the_same_numbers_give_the_same_files(stored: Stored, tmp_path: Path, name: str) -> None:
    first, second = (save(DRAWINGS[name](stored), tmp_path / folder, name) for folder in "ab")
    assert [path.name for path in first] == [f"{name}.png", f"{name}.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_names_are_no_mathematics(stored: Stored) -> None:
    shown = [text.get_text() for text, _ in texts(DRAWINGS["means"](stored))]
    assert any("$\\frac$" in text for text in shown)


def test_a_clique_joins_what_lies_within_the_critical_difference() -> None:
    ranks = pd.DataFrame({"metric": "iou_50", "explainer": [*"dabc"], "rank": [4.0, 1.0, 1.5, 2.4]})
    found = diagram(ranks.assign(critical_difference=1.0), Catalogue(METRICS))
    assert found.ranks["explainer"].tolist() == [*"abcd"]
    assert found.bars == [(0, 1), (1, 2)]  # a and c are 1.4 apart, and d is 1.6 from c
    assert found.title == "IoU (above 50 % of the maximum) ↑"


def test_a_label_takes_the_nearest_place_that_is_free() -> None:
    page, mark, size = Bbox.from_extents(0, 0, 200, 200), np.array([100.0, 100.0]), (40.0, 10.0)
    alone = np.empty((0, 2))
    free = _free(page, mark, size, [], alone, 1.0)
    assert free.extents.tolist() == [105, 95, 145, 105]  # 5 points to the right
    left = _free(page, mark, size, [free], alone, 1.0)
    assert left.extents.tolist() == pytest.approx([55, 95, 95, 105])
    above = _free(page, mark, size, [free], np.array([[90.0, 100.0]]), 1.0)  # its line would pass the other mark
    assert above.y0 > 100
    assert _free(page, mark, size, [], np.array([[99.0, 100.0]]), 1.0).extents.tolist() == free.extents.tolist()


def test_the_worst_pairs_come_first_whatever_is_better(stored: Stored) -> None:
    run = stored.run("one")
    low = DRAWINGS["by_name"]._ordered(run)["value"].tolist()
    high = DRAWINGS["failures"]._ordered(run)["value"].tolist()
    assert low == sorted(low)
    assert high == sorted(high, reverse=True)
    assert len(high) == 23  # one of 24 has no range


@pytest.mark.parametrize(
    ("drawing", "message"),
    [
        (PairPanels(**SAID, runs={"": "bare"}), "bare has no pair with its images: .*maps.save=true"),
        (
            Curves(**SAID, runs={"": "bare"}, walks=["deletion_mean_colour"], methods=[]),
            "no deletion_mean_colour curves: .*curves",
        ),
        (
            Curves(**SAID, runs={"": "one"}, walks=["deletion_mean_colour"], methods=["rise"]),
            "no deletion_mean_colour curve of rise",
        ),
        (CriticalDifference(**SAID, runs={"": "one"}, metrics=["road"]), "the stored run one has no metric road"),
        (CriticalDifference(**SAID, runs={"": "one"}, metrics=["foreground_area"]), "no ranks of foreground_area"),
        (AlongField(**SAID, runs={"": "one"}, field="tau", metrics=[CLOSE]), "explainers along tau: .*variants"),
        (MetricAgreement(**SAID, run="one", metrics=[CLOSE]), "no two of these metrics"),
        (CostFaithfulness(**SAID, runs={"": "bare"}, metric=CLOSE), "bare has no cost in milliseconds"),
        (Means(**SAID, runs={"": "one"}, metrics=[CLOSE], methods=["rise"]), "no insertion_mean_colour of rise"),
        (PartHeat(**SAID, run="bare"), "bare has no metric of the family part_heat: .*make table-metrics-cub"),
        (Failures(**SAID, run="one", method="rise", metric=CLOSE), "no insertion_mean_colour of rise"),
        (Failures(**SAID, run="one", method="sfam", metric="foreground_area"), "foreground_area with a better side"),
        (Failures(**SAID, run="gone", method="sfam", metric=CLOSE), "no stored run 'gone'"),
    ],
)
def test_what_is_missing_is_said_in_one_line(stored: Stored, drawing: Any, message: str) -> None:
    if not (stored.root / "bare").exists():
        pairs = make_pairs(8, 4)
        store = RunStore.create(
            stored.root / "bare", {}, {"dataset": "d", "model": "m", "target": "t", "metrics": METRICS}
        )
        store.write_pairs(pairs)
        store.write_chunk(0, make_records("m", pairs, np.random.default_rng(0), 1.0))
        store.finish()
    with pytest.raises(UserError, match=message) as error:
        drawing(stored)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", sorted((CONF / "figure").glob("*.yaml")), ids=lambda file: file.stem)
def test_each_config_makes_a_figure_that_says_what_it_is(file: Path) -> None:
    ((key, drawing),) = build(choosing("figure", file.stem).figure).items()
    assert key == file.stem
    assert callable(drawing)
    assert len(drawing.caption) > 60
    assert len(drawing.alt) > 60


def test_figures_need_no_torch() -> None:
    code = "import sys, json, sfam_bench.report.figures.drawings; print(json.dumps('torch' in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) is False


def test_long_names_are_broken_behind_underscores_and_cut() -> None:
    assert break_name("similarity_decomposition", 16) == "similarity_\ndecomposition"
    assert break_name("sfam", 16) == "sfam"
    assert break_name("x" * 30, 16) == "x" * 15 + "…"
    assert break_name("a_b c", 2, 2) == "a_\nb…"
