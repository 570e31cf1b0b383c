"""The first words of a report: who leads, who is not told from the leader, where methods fail, what was left out."""

from dataclasses import replace
from pathlib import Path

import pytest

from sfam_bench.report.page.answer import describe_findings
from sfam_bench.report.stored import Summed
from sfam_bench.runs.matrix import Matrix
from sfam_bench.runs.reader import read_run
from tests.report.conftest import make_run


@pytest.fixture(scope="module")
def summed(fake_run: Path) -> Summed:
    return Summed.of(read_run(fake_run))


def test_it_names_methods_pairs_and_classes(summed: Summed) -> None:
    found = describe_findings(summed)
    assert found.compared == (
        "5 methods (lafam and chance ignore the reference) on 40 pairs of 8 classes of cub; "
        "model lite0 frozen; target: similarity."
    )
    assert found.left_out == "selectivity_peak: the data set has no region 'unshared'"


def test_the_best_and_those_not_told_from_it_are_those_of_the_table(summed: Summed) -> None:
    means = summed.means[summed.means["metric"] == "deletion_mean_colour"].set_index("explainer")
    (finding,) = (one for one in describe_findings(summed).findings if one.text.startswith("deletion AUC"))
    (best,) = means.index[means["best"]]
    tied = means.index[means["tied"]].tolist()
    assert set(tied) | {best} == {"sfam", "exact"}
    interval = f"[{means.loc[best, 'low']:.3f}, {means.loc[best, 'high']:.3f}]"
    shown = f"{best} ({means.loc[best, 'mean']:.3f} {interval}, n = 39)"
    assert finding.text == f"deletion AUC (mean colour) ↓: {shown} is best; not significantly worse: {tied[0]}."


def test_each_finding_says_what_its_metric_measures(summed: Summed) -> None:
    means = [finding.meaning for finding in describe_findings(summed).findings]
    assert means
    assert all(means)


def test_methods_are_counted_by_the_headline_metrics_that_mark_them(summed: Summed) -> None:
    headlines = summed.catalogue.headlines(summed.means.loc[summed.means["explainer"] != "pair", "metric"].unique())
    shown = summed.means[summed.means["metric"].isin(headlines)]
    marked = shown[shown["best"] | shown["tied"]].groupby("explainer").size()
    text = describe_findings(summed).overall
    assert text == (
        f"Best or not significantly worse by {marked['sfam']} of the {len(headlines)} metrics: sfam and exact; "
        "by none: grad_cam."
    )


def test_a_blind_method_among_the_best_is_a_warning(tmp_path: Path) -> None:
    equal = Summed.of(read_run(make_run(tmp_path / "equal", "lite0", 3, gain=0.0)))
    findings = describe_findings(equal).findings
    assert findings
    assert all("A method that ignores the reference is among them" in finding.text for finding in findings)


def test_few_classes_have_no_test(summed: Summed) -> None:
    matrix = summed.run.matrix
    few = replace(matrix, clusters=matrix.clusters % 3)
    found = describe_findings(replace(summed, run=replace(summed.run, matrix=few)))
    assert all("has the best mean; no test with fewer than 6 classes." in finding.text for finding in found.findings)
    assert all("lafam, which ignores the reference, has " in finding.text for finding in found.findings)
    assert not found.overall


def test_failures_are_counted_over_the_pairs_that_count(summed: Summed) -> None:
    matrix = summed.run.matrix
    entries = {key: values.copy() for key, values in matrix.entries.items()}
    sfam, cam = (entries["selectivity_energy", name] for name in ("sfam", "grad_cam"))
    sfam[:] = 0.1
    sfam[:8] = -0.1
    cam[3:] = 0.2  # two of its first six are flagged
    cam[[0, 2]] = 0
    changed: Matrix = replace(matrix, entries=entries)
    found = describe_findings(replace(summed, run=replace(summed.run, matrix=changed)))
    assert found.failures == (
        "Failures by selectivity (energy), where the map is no better than chance: sfam on 20 %, grad_cam on 5 % "
        "and exact on 0 % of the pairs with a value."
    )
    for name in ("sfam", "exact", "grad_cam"):
        entries["selectivity_energy", name][:] = 0.1
    assert describe_findings(replace(summed, run=replace(summed.run, matrix=changed))).failures == (
        "No failures by selectivity (energy): the maps of sfam, grad_cam and exact are better than chance on all pairs "
        "with a value."
    )
