"""The table of known answers: who counts, who is left out, and what is detected."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from sfam_bench.core.errors import UserError
from sfam_bench.core.metric_card import metric_facts
from sfam_bench.metrics.causal import CausalAgreement
from sfam_bench.metrics.localisation import EnergyPointingGame
from sfam_bench.report.paper import KnownAnswers, Metrics
from sfam_bench.report.stored import Stored, Summed
from sfam_bench.report.tables.compared import difference_frame, difference_table
from sfam_bench.report.tables.known_answers import AGREEMENT, reachable
from sfam_bench.runs.matrix import Matrix
from sfam_bench.runs.reader import Run

METRICS = metric_facts(
    {
        "causal_agreement": CausalAgreement(),
        "causal_agreement_split_half": CausalAgreement(value="split_half", higher_is_better=None),
        "causal_agreement_chance": CausalAgreement(value="chance", higher_is_better=None),
        "background_energy": EnergyPointingGame("background", higher_is_better=None),
        "energy_pointing_game": EnergyPointingGame(),
    }
)
LEVELS = {"sfam": 0.8, "grad_cam": 0.6, "zhu": 0.5, "lafam": 0.2}


def run(
    name: str,
    background: float,
    fails: str = "",
    causes: tuple[str, ...] = ("crest", "tail"),
    levels: Mapping[str, float] = LEVELS,
    dataset: str = "",
) -> Summed:
    """A run of 24 pairs in 6 classes, whose maps lie on the background to this extent."""
    ids = [f"q{n}" for n in range(24)]
    keys = {"dataset": dataset or name, "model": "m", "target": "similarity", "reference_id": "r", "flag": ""}
    values = {"causal_agreement_split_half": 0.97, "causal_agreement_chance": 0.1, "background_energy": background}
    rows = [
        {**keys, "explainer": explainer, "metric": metric, "query_id": q, "value": level + noise}
        for explainer, good in levels.items()
        for metric, level in {**values, "causal_agreement": good, "energy_pointing_game": 1 - good}.items()
        for q, noise in zip(ids, np.tile([0.02, -0.02], 12), strict=True)
    ]
    pairs = pd.DataFrame({"query_id": ids, "reference_id": "r", "kind": "partial_match"})
    pairs = pairs.assign(query_label=np.arange(24) // 4)
    flips = {"crest": 0.9, "tail": 0.7, "wing": 0.1, "background": 0.8 if "background" in causes else 0.05}
    check = {"flips": flips, "queries": 60, "causes": [*causes], "fails": fails}
    manifest = {
        **{"dataset": dataset or name, "model": "m", "target": "similarity", "metrics": METRICS, "blind": ["lafam"]},
        **{"retrieval": {"recall_at_1": 0.9}, "intervention": check},
    }
    return Summed.of(Run(Path(name), manifest, pairs, Matrix.of(pd.DataFrame(rows), pairs)), name)


@pytest.fixture(scope="module")
def stored() -> Stored:
    runs = [
        run("partial", 0.3),
        run("shortcut", 0.7, causes=("background",)),
        run("clean", 0.3),
        run("vit", 0.3, levels={**LEVELS, "daam": 0.9}, dataset="partial"),
        run("weak", 0.3, fails="repainting the tail changes 20% of the retrieved classes, not 50%"),
    ]
    return Stored(Path(), {each.name: each for each in runs})


def test_models_that_fail_the_check_are_named_and_left_out(stored: Stored) -> None:
    sheet = KnownAnswers("Known", ["partial", "weak"], {})(stored)
    check, agreement, predicted = sheet.tables
    rows = {name: [cell.text for cell in cells] for name, cells in check.rows}
    assert rows == {
        "partial": ["0.900", "0.700", "0.100", "0.970", "0.992", "counts"],
        "weak": ["0.900", "0.700", "0.100", "0.970", "0.992", "left out"],
    }
    assert [column.label for column in agreement.columns] == ["partial"]
    assert "chance 0.1" in agreement.columns[0].note
    assert agreement.title == "causal agreement ↑"
    assert predicted.rows[0][1][0].text == "-1.00"  # the other metric orders methods the other way round


def test_a_map_of_the_true_effects_exceeds_the_split_half_agreement() -> None:
    draw = np.random.default_rng(0)
    truth = draw.normal(size=(4000, 7))
    redrawn = truth[:, :, None] + draw.normal(size=(4000, 7, 4))
    one, other = redrawn[:, :, ::2].mean(axis=2).ravel(), redrawn[:, :, 1::2].mean(axis=2).ravel()
    halves = float(np.corrcoef(one, other)[0, 1])
    expected = np.corrcoef(truth.ravel(), redrawn.mean(axis=2).ravel())[0, 1]
    assert reachable(halves) == pytest.approx(expected, abs=0.01)
    assert expected > halves + 0.1


def test_a_shortcut_is_detected_against_its_clean_twin(stored: Stored) -> None:
    sheet = KnownAnswers("Known", ["shortcut", "clean"], {"shortcut": "clean"})(stored)
    (detection,) = (table for table in sheet.tables if table.title.startswith("Detection"))
    assert {name: cells[0].text for name, cells in detection.rows} == dict.fromkeys(LEVELS, "1.000")
    assert detection.columns[0].note == "n = 48; 6 classes"
    check = dict(sheet.tables[0].rows)
    assert check["shortcut"][1].text == "0.800"  # the background's share
    assert check["shortcut"][2].text == "0.100"  # crest and tail may change the class or not
    assert sheet.frames["detection"]["run"].unique().tolist() == ["shortcut"]


def test_networks_on_the_same_pairs_have_a_table_of_their_own(stored: Stored) -> None:
    sheet = KnownAnswers("Known", ["partial"], {}, ["partial", "vit", "weak"])(stored)
    check, worlds, networks, _ = sheet.tables
    assert [name for name, _ in check.rows] == ["partial", "vit", "weak"]
    assert [column.label for column in worlds.columns] == ["partial"]
    assert [column.label for column in networks.columns] == ["partial", "vit"]
    assert networks.title == "causal agreement ↑: networks in partial, on the same pairs"
    cells = {name: [cell.text for cell in row] for name, row in networks.rows}
    assert cells["daam"] == ["--", "0.900"]
    assert cells["sfam"] == ["0.800", "0.800"]


def test_differences_hold_for_all_that_are_shown(stored: Stored) -> None:
    compared = [["sfam", "grad_cam"], ["daam", "lafam"]]
    sheet = KnownAnswers("Known", ["partial"], {}, ["partial", "vit", "weak"], compared)(stored)
    (table,) = (table for table in sheet.tables if table.title == "Differences in causal agreement")
    assert [column.label for column in table.columns] == ["partial", "vit"]
    cells = {name: [cell.text for cell in row] for name, row in table.rows}
    assert cells == {"sfam - grad_cam": ["+0.200", "+0.200"], "daam - lafam": ["--", "+0.700"]}
    assert "for the 3 comparisons shown" in table.note
    assert all(cell.best for _, row in table.rows for cell in row if cell.text != "--")
    frame = sheet.frames["differences"].set_index(["run", "explainer"])
    noisy = [values[0] - values[1] for values in ([0.82, 0.62], [0.78, 0.58])]
    assert frame.loc[("partial", "sfam"), "difference"] == pytest.approx(np.mean(noisy))
    assert set(frame["compared"]) == {3}


def test_a_table_of_means_compares_methods_in_every_run_that_has_both(stored: Stored) -> None:
    runs, compared = {"worlds": ["partial", "vit"]}, [["sfam", "grad_cam"], ["daam", "lafam"]]
    sheet = Metrics("Means", runs, ["causal_agreement"], compared=compared)(stored)
    (table,) = (table for table in sheet.tables if table.title == "Differences in causal agreement")
    known = KnownAnswers("Known", ["partial"], {}, ["partial", "vit"], compared)(stored)
    assert table in known.tables
    assert sheet.frames["differences"].equals(known.frames["differences"])


def test_kinds_of_pairs_are_compared_apart(stored: Stored) -> None:
    summed = stored.run("partial")
    kinds = ["partial_match"] * 8 + ["exchanged"] * 16
    mixed = replace(summed, run=replace(summed.run, pairs=summed.run.pairs.assign(kind=kinds)))
    frame = difference_frame([mixed, stored.run("vit")], [["sfam", "grad_cam"]], AGREEMENT)
    assert frame[["run", "kind", "count", "clusters"]].values.tolist() == [
        ["partial", "", 24, 6],
        ["partial", "exchanged", 16, 4],
        ["partial", "partial_match", 8, 2],
        ["vit", "", 24, 6],
    ]
    columns = [column.label for column in difference_table(frame, "causal agreement").columns]
    assert columns == ["partial", "partial, exchanged", "partial, partial match", "vit"]


def test_methods_that_no_run_has_are_not_compared(stored: Stored) -> None:
    with pytest.raises(UserError, match="no run has both sfam and laffam"):
        difference_frame([stored.run("partial")], [["sfam", "lafam"], ["sfam", "laffam"]], AGREEMENT)


def test_a_corrected_difference_is_students(stored: Stored) -> None:
    summed = stored.run("partial")
    matrix, draw = summed.run.matrix, np.random.default_rng(0)
    noise = draw.normal(0, 0.2, len(matrix.clusters))
    columns = {column: matrix.block([column])[:, 0] for column in matrix.columns}
    columns["causal_agreement", "sfam"] = columns["causal_agreement", "grad_cam"] + noise
    rows = [
        {**dict(zip(("dataset", "model", "target"), matrix.run, strict=True)), "query_id": f"q{n}", "reference_id": "r"}
        | {"flag": "", "explainer": explainer, "metric": metric, "value": float(value)}
        for (metric, explainer), values in columns.items()
        for n, value in enumerate(values)
    ]
    noisy = Summed.of(
        Run(Path("n"), summed.run.manifest, summed.run.pairs, Matrix.of(pd.DataFrame(rows), summed.run.pairs)), "n"
    )
    found = difference_frame([noisy], [["sfam", "grad_cam"], ["lafam", "zhu"]], AGREEMENT).iloc[0]
    means = noise.reshape(6, 4).mean(axis=1)
    reach = scipy.stats.t.ppf(1 - 0.05 / 2 / 2, 5) * means.std(ddof=1) / 6**0.5
    assert (found["low"], found["high"]) == pytest.approx((means.mean() - reach, means.mean() + reach))


def test_runs_of_further_methods_become_part_of_a_world(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = {("partial", "vit"): replace(stored.run("vit"), name="partial")}
    monkeypatch.setattr(Stored, "join", lambda self, names, title: joined[tuple(names)])
    sheet = KnownAnswers("Known", ["partial"], {}, joined={"partial": ["vit"]})(stored)
    cells = {name: [cell.text for cell in row] for name, row in sheet.tables[1].rows}
    assert cells["daam"] == ["0.900"]
    for name, background in (("shortcut", 0.7), ("clean", 0.3)):
        joined[name, "vit"] = run(name, background, levels={**LEVELS, "daam": 0.9})
    parts = {name: ["vit"] for name in ("shortcut", "clean")}
    sheet = KnownAnswers("Known", ["shortcut", "clean"], {"shortcut": "clean"}, joined=parts)(stored)
    assert sheet.frames["detection"]["explainer"].tolist() == [*LEVELS, "daam"]


def test_networks_on_other_pairs_are_not_compared(stored: Stored) -> None:
    with pytest.raises(UserError, match="the networks of partial and clean were not evaluated on the same pairs"):
        KnownAnswers("Known", ["partial"], {}, ["partial", "clean"])(stored)


def test_without_a_model_that_counts_there_is_no_table(stored: Stored) -> None:
    with pytest.raises(UserError, match="no model of the stored runs weak passes the intervention check"):
        KnownAnswers("Known", ["weak"], {})(stored)
