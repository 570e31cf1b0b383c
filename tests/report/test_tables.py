"""What stands in which column, how numbers read, and what the formats escape."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sfam_bench.core.metric_card import Described, MetricCard, metric_facts
from sfam_bench.metrics import perturbation
from sfam_bench.metrics.localisation import EnergyPointingGame
from sfam_bench.metrics.shared import steps
from sfam_bench.report import names
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.tables import formats, protocols, tables
from sfam_bench.report.tables.flagged import flagged_table
from sfam_bench.report.tables.tables import Cell, Column, Report, Table
from sfam_bench.runs.matrix import Matrix
from sfam_bench.runs.reader import Run, read_records, read_run
from sfam_bench.statistics import NOT_COMPARED, holm, paired_difference, summarise


@pytest.fixture(scope="module")
def run(fake_run: Path) -> Run:
    return read_run(fake_run)


@pytest.fixture(scope="module")
def summed(run: Run) -> pd.DataFrame:
    return tables.mark_blind(summarise(run.matrix, run.manifest["metrics"], draws=1000), run.manifest["blind"])


@pytest.fixture(scope="module")
def catalogue(run: Run) -> Catalogue:
    return Catalogue.of(run.manifest)


def cell(table: Table, explainer: str, label: str) -> Cell:
    (place,) = (number for number, column in enumerate(table.columns) if column.label.startswith(label))
    return dict(table.rows)[explainer][place]


def test_groups_stand_in_reading_order(summed: pd.DataFrame, catalogue: Catalogue) -> None:
    found = {table.title: [c.label for c in table.columns] for table in tables.metric_tables(summed, catalogue)}
    assert found == {
        "Metrics that depend on the pair": ["selectivity (energy) ↑", "part agreement ↑"],
        "Faithfulness": ["deletion AUC (mean colour) ↓", "insertion AUC (mean colour) ↑"],
        "Localisation": ["energy pointing game ↑", "IoU (above 50 % of the maximum) ↑", "foreground area"],
        "Cost": ["forward passes ↓"],
    }


def test_the_blind_stand_last_and_facts_of_the_pair_not_at_all(summed: pd.DataFrame, catalogue: Catalogue) -> None:
    for table in tables.metric_tables(summed, catalogue):
        assert [name for name, _ in table.rows] == ["sfam", "grad_cam", "exact", "lafam", "chance"]
        assert table.blind == {"lafam", "chance"}


def test_cells_hold_the_summary(run: Run, summed: pd.DataFrame, catalogue: Catalogue) -> None:
    found = {table.title: table for table in tables.metric_tables(summed, catalogue)}
    row = summed.set_index(["explainer", "metric"]).loc[("grad_cam", "deletion_mean_colour")]
    shown = cell(found["Faithfulness"], "grad_cam", "deletion")
    assert shown.text == f"{row['mean']:.3f}"
    assert shown.interval == f"[{row['low']:.3f}, {row['high']:.3f}] (n = 37)"
    assert "constant_map 2" in shown.hint
    assert found["Faithfulness"].columns[0].note == "n = 39; 8 classes; marks: 37 shared pairs, 8 classes"
    note = "n = 40; 8 classes; marks: 38 shared pairs, 8 classes; chance 0.400"
    assert found["Localisation"].columns[0].note == note
    for table in found.values():
        for place, column in enumerate(table.columns):
            best = sum(cells[place].best for _, cells in table.rows)
            assert best == (0 if column.label.startswith(("foreground", "forward")) else 1)


def test_a_chance_level_stands_above_its_metric_not_beside_it(
    run: Run, summed: pd.DataFrame, catalogue: Catalogue
) -> None:
    of_each = summed.assign(explainer=summed["explainer"].replace("pair", "sfam"))  # recorded under every explainer
    table = next(table for table in tables.metric_tables(of_each, catalogue) if table.title == "Localisation")
    assert [column.label for column in table.columns if "chance" in column.label] == []
    assert table.columns[0].note == "n = 40; 8 classes; marks: 38 shared pairs, 8 classes; chance 0.400"


def test_a_wide_group_is_split() -> None:
    catalogue = Catalogue({f"iou_{n}": {"group": "Localisation"} for n in range(12)})
    run = {"dataset": "d", "model": "m", "target": "t", "explainer": "sfam", "mean": 0.5, "low": 0.4, "high": 0.6}
    fixed = {"count": 3, "clusters": 3, "clustered": True, "flagged": "", "higher_is_better": True, **NOT_COMPARED}
    frame = pd.DataFrame([{**run, **fixed, "blind": False, "metric": f"iou_{n}"} for n in range(12)])
    found = tables.metric_tables(frame, catalogue)
    assert [len(table.columns) for table in found] == [4, 4, 4]
    assert [table.title for table in found] == [f"Localisation ({n} of 3)" for n in (1, 2, 3)]


def test_what_was_not_measured_is_no_number(summed: pd.DataFrame, catalogue: Catalogue) -> None:
    kept = summed[(summed["explainer"] != "exact") | (summed["metric"] != "deletion_mean_colour")].copy()
    nothing = (kept["explainer"] == "chance") & (kept["metric"] == "deletion_mean_colour")
    kept.loc[nothing, ["count", "flagged"]] = [0, "zero_range 40"]
    kept.loc[nothing, ["mean", "low", "high"]] = np.nan
    table = tables.metric_tables(kept, catalogue)[1]
    assert cell(table, "exact", "deletion").text == tables.NOTHING
    assert cell(table, "chance", "deletion") == Cell("flagged", hint="flagged: zero_range 40")


def test_differences_are_signed_and_bold_where_better(run: Run, summed: pd.DataFrame, catalogue: Catalogue) -> None:
    own = run.matrix.of_metric("deletion_mean_colour")  # of 8 classes, more comparisons could not be marked
    differences = tables.adjust_differences(paired_difference(own, draws=1000), catalogue)
    found = tables.difference_tables(tables.mark_blind(differences, run.manifest["blind"]), catalogue)
    table = next(table for table in found if table.title.startswith("Faithfulness"))
    assert "lafam" not in dict(table.rows)
    lower = cell(table, "sfam", "deletion")
    assert lower.text.startswith("-")
    assert lower.best
    higher = cell(table, "chance", "deletion")
    assert higher.text.startswith("+")
    assert not higher.best
    assert "p (Holm)" in lower.hint
    assert "Holm's correction for the 4 comparisons shown" in table.note


def test_holm_is_over_the_comparisons_that_a_table_shows(run: Run, summed: pd.DataFrame, catalogue: Catalogue) -> None:
    differences = tables.adjust_differences(paired_difference(run.matrix, draws=1000), catalogue)
    assert set(differences["metric"]).isdisjoint({"foreground_area"})  # without a direction
    shown = differences[differences["metric"].isin(["deletion_mean_colour", "insertion_mean_colour"])]
    assert set(shown["table"]) == {"Faithfulness"}
    assert shown["p_holm"].to_numpy() == pytest.approx(holm(shown["p"].to_numpy()))


@pytest.mark.parametrize("classes", [1, 5])
def test_a_column_of_few_classes_has_no_marks_and_says_why(run: Run, classes: int, catalogue: Catalogue) -> None:
    few = run.pairs["query_label"] < classes
    records = read_records(run.root)
    records = records[records["query_id"].isin(run.pairs.loc[few, "query_id"])]
    means = tables.mark_blind(summarise(Matrix.of(records, run.pairs), run.manifest["metrics"], draws=100), ())
    for table in tables.metric_tables(means, catalogue):
        assert not any(cell.best or cell.tied for _, cells in table.rows for cell in cells)
        notes = {column.label: column.note for column in table.columns}
        directed = [note for label, note in notes.items() if label[-1] in "↑↓"]
        assert all("no marks: fewer than 6 classes" in note for note in directed)
        assert all(f"{classes} class" in note for note in directed)
    differences = tables.adjust_differences(paired_difference(Matrix.of(records, run.pairs), draws=100), catalogue)
    (_, faithful, *_) = tables.difference_tables(tables.mark_blind(differences, ()), catalogue)
    assert not any(cell.best for _, cells in faithful.rows for cell in cells)


def test_a_method_that_is_not_compared_is_named(run: Run, catalogue: Catalogue) -> None:
    records = read_records(run.root)
    lost = (records["explainer"] == "sfam") & (records["metric"] == "deletion_mean_colour")
    lost &= records["query_id"].isin(run.pairs["query_id"].iloc[:25])
    records.loc[lost, ["value", "flag"]] = [np.nan, "constant_map"]
    means = tables.mark_blind(summarise(Matrix.of(records, run.pairs), run.manifest["metrics"], draws=100), ())
    table = next(t for t in tables.metric_tables(means, catalogue) if t.title == "Faithfulness")
    assert "not compared, too few pairs: sfam" in table.columns[0].note
    assert not cell(table, "sfam", "deletion").tied


def test_flags_are_counted_in_pairs(run: Run) -> None:
    table = flagged_table(run.matrix)
    assert table is not None
    assert [column.note for column in table.columns] == ["constant_map", "zero_range"]
    assert [c.text for c in dict(table.rows)["grad_cam"]] == ["2 (of 7 metrics)", "1 (of 2 metrics)"]
    assert [c.text for c in dict(table.rows)["sfam"]] == ["0", "1 (of 2 metrics)"]
    records = read_records(run.root)
    assert flagged_table(Matrix.of(records[records["flag"] == ""], run.pairs)) is None


def test_models_stand_side_by_side(fake_runs: list[Path]) -> None:
    found = [read_run(path) for path in fake_runs]
    both = pd.concat(
        [tables.mark_blind(summarise(run.matrix, run.manifest["metrics"], draws=200), ()) for run in found]
    )
    catalogue = Catalogue.of(*(run.manifest for run in found))
    columns = [
        column for table in tables.compare_models(both.reset_index(drop=True), catalogue) for column in table.columns
    ]
    assert [column.label for column in columns[:3]] == ["selectivity (energy) ↑"] * 2 + ["part agreement ↑"]
    assert [column.note.split(";")[0] for column in columns[:2]] == ["lite0 frozen", "lite0 fine-tuned"]
    assert tables.compare_models(both[both["model"] == "lite0 frozen"], catalogue) == []


def test_the_protocol_names_split_retrieval_pairs_and_baselines(run: Run, summed: pd.DataFrame) -> None:
    lines = dict(protocols.describe_protocol(run, summed, np.array([])))
    assert lines["Split"] == "zero-shot, last 100 classes (hash 3f2a)"
    assert lines["Retrieval"] == "recall@1 0.850, MAP@R 0.410, queries 420"
    assert "10 hard negative" in lines["Pairs"]
    assert "similarity with the query replaced by mean colour 0.2" in lines["Means over pairs"]


def test_values_of_a_pair_are_named_in_prose() -> None:
    names = ["s_full", "s_headless", "effect_long_tail", "effect_long_tail_error", "effect_interaction", "other"]
    assert [protocols._name_fact(name) for name in names] == [
        *("similarity", "similarity without the head", "effect of long tail", "its standard error"),
        *("interaction of effects", "other"),
    ]


def test_what_was_left_out_is_said_by_need_and_label() -> None:
    level = EnergyPointingGame("box", value="chance", higher_is_better=None)  # is not named beside its score
    metrics = metric_facts({"box": EnergyPointingGame("box"), "mask": EnergyPointingGame(), "level": level})
    facts = {"metrics": metrics, "skipped": ["box", "level", "made: why"], "unsupported": {"rise": "needs pixels"}}
    assert protocols.describe_left_out(facts) == (
        "metrics that need boxes, which the data set lacks: “energy pointing game, box”; made: why; rise: needs pixels"
    )
    del metrics["box"]["needs"]  # a run of an older version
    assert protocols.describe_left_out({**facts, "unsupported": {}}) == (
        "metrics without the data they need: “energy pointing game, box”; made: why"
    )
    assert protocols.describe_left_out({"metrics": metrics}) == ""


def test_area_errors_by_hand() -> None:
    text = protocols._describe_errors(np.arange(21)[::-1] / 1000)  # 0 to 0.020
    assert text.startswith("21 random curves recomputed in full (225 points) as a check: ")
    assert text.endswith("area error median 0.01, 95 % 0.019, at most 0.02")
    assert protocols._describe_errors(np.array([0.00441])).endswith("median 0.0044, 95 % 0.0044, at most 0.0045")
    assert protocols._describe_errors(np.zeros(2)).endswith("median 0, 95 % 0, at most 0")
    assert protocols._describe_errors(np.array([])).startswith("no curve was recomputed")


def test_curves_in_full_have_the_points_that_are_said() -> None:
    assert len(steps.sample_steps(perturbation.FULL, 224 * 224)[0]) == protocols.FULL


def test_only_curves_have_a_line_of_their_errors(run: Run, summed: pd.DataFrame) -> None:
    without = summed[~summed["metric"].str.startswith(("deletion", "insertion"))]
    assert "Curves" not in dict(protocols.describe_protocol(run, without, np.array([])))


def test_passes_are_said_with_a_bound_that_holds() -> None:
    facts = {"mode": "half", "batch": 64, "score_differences": {"half": 0.00081, "compiled": 0.0}}
    assert protocols._describe_passes(facts) == "half, batch 64, scores within 0.0009 of float32 eager"
    assert protocols._describe_passes({**facts, "mode": "compiled"}).endswith("scores within 0 of float32 eager")
    assert protocols._describe_passes({**facts, "mode": "eager"}) == "eager, batch 64"
    assert protocols._describe_passes({}) == ""


def test_code_that_was_changed_is_said_to_be(run: Run, summed: pd.DataFrame) -> None:
    def code(git: str) -> str:
        changed = replace(run, manifest={**run.manifest, "git": git})
        return dict(protocols.describe_protocol(changed, summed, np.array([])))["Code"].split(",")[0]

    assert code("0123456789abcdef") == "git 0123456789"
    assert code("0123456789abcdef-dirty") == "git 0123456789-dirty"
    assert code("unknown") == "git unknown"


@pytest.mark.parametrize(
    ("values", "digits"),
    [
        ([0.5, 1.0], 3),
        ([0.05], 4),
        ([5.5], 2),
        ([52.1], 1),
        ([520.4], 0),
        ([2.0, 4.0], 0),
        ([np.nan], 0),
        ([0.3, 0.0], 3),
    ],
)
def test_digits(values: list[float], digits: int) -> None:
    assert names.count_decimals(values) == digits


def test_a_metric_has_its_key_where_it_says_nothing_or_what_another_says() -> None:
    card = MetricCard(group="Faithfulness", label="area", family="area")
    facts = metric_facts({"one": Described(card, True), "two": Described(card, False), "three": Described(card, True)})
    facts["three"]["label"] = "length"
    catalogue = Catalogue({"unknown": {"higher_is_better": True, "group": "a title of tomorrow"}, **facts})
    assert [*map(catalogue.title, ("one", "two", "three", "unknown"))] == [
        *("area [one] ↑", "area [two] ↓", "length ↑", "unknown ↑")
    ]
    assert [*map(catalogue.group, ("one", "unknown", "gone"))] == ["Faithfulness", "Others", "Others"]
    assert catalogue.sort(["gone", "unknown", "three", "one"]) == ["one", "three", "unknown", "gone"]
    assert catalogue.first(["area", "gone"], ["three", "two"]) == ["two"]


def hostile() -> Table:
    cells = (Cell("-0.10", "[-0.20, 0.01]", best=True, tied=True),)
    return Table("50 % & more", (Column("a_b ↓", "n = 3"),), (("<script>|x_$", cells),), "note #1")


def test_latex_is_escaped() -> None:
    text = formats.to_latex("title\nwith a break", [("Split", "x\ny")], [hostile()])
    row = r"\textless{}script\textgreater{}\textbar{}x\_\$ & \begin{tabular}[t]{@{}l@{}}\textbf{$-$0.10} $\approx$"
    assert row + r" \\[-2pt] {\tiny [$-$0.20, 0.01]}\end{tabular} \\" in text
    assert r"\caption{50 \% \& more. note \#1}" in text
    assert r"a\_b $\downarrow$" in text
    assert [line for line in text.splitlines() if line.startswith("%")] == ["% title with a break", "% Split: x y"]
    assert text.count("{") == text.count("}")
    assert formats.escape_latex("\\^~") == r"\textbackslash{}\textasciicircum{}\textasciitilde{}"


def test_latex_sets_the_blind_apart(summed: pd.DataFrame, catalogue: Catalogue) -> None:
    text = formats.to_latex("", [], tables.metric_tables(summed, catalogue)[:1])
    body = text[text.index(r"\midrule") :]
    assert body.index("exact") < body.index(r"\midrule", 10) < body.index("lafam")


def test_no_difference_of_a_metric_without_a_direction_is_better(run: Run, catalogue: Catalogue) -> None:
    found = paired_difference(run.matrix.of_metric("deletion_mean_colour"), corrected=True)
    frame = tables.mark_blind(found, run.manifest["blind"])
    for known, best in ((catalogue, True), (Catalogue({}), False)):
        assert any(cell.best for _, cells in tables.corrected_table("t", frame, known).rows for cell in cells) == best


def test_markdown_keeps_its_columns() -> None:
    text = formats.to_markdown("t", [], [hostile()])
    assert "| &lt;script>\\|x_$ | **-0.10** [-0.20, 0.01] ≈ |" in text
    titled = formats.to_markdown("t", [("<b>", "")], [replace(hostile(), title="<img>", note="<i>")])
    assert not any(tag in titled for tag in ("<b>", "<img>", "<i>"))


def test_a_note_that_several_tables_have_stands_once() -> None:
    notes = ["a", "a", "b", "b", "a", ""]
    shown = formats.without_repeated_notes([replace(hostile(), note=note) for note in notes])
    assert [table.note for table in shown] == ["a", "", "b", "", "a", ""]


def test_wide_has_a_row_for_each_explainer(summed: pd.DataFrame) -> None:
    table = formats.pivot_means(summed).set_index("explainer")
    assert table.index.tolist() == ["sfam", "grad_cam", "exact", "lafam", "chance"]
    assert table.loc["sfam", "iou_50"] == pytest.approx(
        summed.set_index(["explainer", "metric"]).loc[("sfam", "iou_50"), "mean"]
    )


def test_the_terminal_table_fits(summed: pd.DataFrame, catalogue: Catalogue) -> None:
    text = formats.terminal_table(Report(summed, catalogue))
    assert max(map(len, text.splitlines())) <= 120
    assert text.startswith("cub · lite0 frozen · similarity")
    assert "forward" not in text
    narrow = formats.terminal_table(Report(summed, catalogue), width=60)
    assert max(map(len, narrow.splitlines()[:-1])) <= 60
    assert "and 3 more metrics" in narrow
    assert "(energy)" in "".join(narrow.splitlines()[1:4])


def test_what_was_tuned_is_said(run: Run) -> None:
    study = {"chosen": {"gamma": 0.5, "relu": False}, "budget": {"completed": 40}, "objective": {"metric": "deletion"}}
    summed = summarise(run.matrix, run.manifest["metrics"])
    tuned = replace(run, manifest={**run.manifest, "tuned": {"sfam tuned": study}})
    said = dict(protocols.describe_protocol(tuned, summed, np.array([])))["Tuned"]
    assert said == "sfam tuned: gamma 0.5, relu False (40 trials on training classes for deletion)"
    assert "Tuned" not in dict(protocols.describe_protocol(run, summed, np.array([])))
