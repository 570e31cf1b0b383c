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
        "5 methods (2 of them blind to the pair) on 40 pairs of 8 classes of cub; model lite0 frozen; "
        "explained: similarity."
    )
    assert found.left_out == "selectivity_peak: the data set has no region 'unshared'"


def test_the_best_and_those_not_told_from_it_are_those_of_the_table(summed: Summed) -> None:
    means = summed.means[summed.means["metric"] == "deletion_mean_colour"].set_index("explainer")
    (sentence,) = (text for text in describe_findings(summed).findings if text.startswith("deletion AUC"))
    (best,) = means.index[means["best"]]
    tied = means.index[means["tied"]].tolist()
    assert set(tied) | {best} == {"sfam", "exact"}
    shown = f"{best} ({means.loc[best, 'mean']:.3f} [{means.loc[best, 'low']:.3f}, {means.loc[best, 'high']:.3f}])"
    assert sentence == f"deletion AUC (mean colour) ↓: {shown} is best; not significantly worse: {tied[0]}."


def test_a_blind_method_among_the_best_is_a_warning(tmp_path: Path) -> None:
    equal = Summed.of(read_run(make_run(tmp_path / "equal", "lite0", 3, gain=0.0)))
    findings = describe_findings(equal).findings
    assert findings
    assert all("A blind method is among them" in text for text in findings)


def test_few_classes_have_no_test(summed: Summed) -> None:
    matrix = summed.run.matrix
    few = replace(matrix, clusters=matrix.clusters % 3)
    found = describe_findings(replace(summed, run=replace(summed.run, matrix=few)))
    assert all("has the best mean; no test with fewer than 6 classes." in text for text in found.findings)


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
        "No better than chance by selectivity (energy): sfam on 20% and exact on 0% of the pairs."
    )
