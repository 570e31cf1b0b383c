"""What README and docs state: each interval is in a committed table."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sfam_bench.report.stored import Stored
from sfam_bench.report.tables.formats import terminal_table
from sfam_bench.report.tables.tables import Report
from tests.paths import ROOT

INTERVAL = re.compile(r"([-+]?\d+\.\d+)\*{0,2} \[([-+]?\d+\.\d+),\s+([-+]?\d+\.\d+)\]")
RECORDS = ROOT / "results" / "records"
MEASURED_APART = ("performance.md", "tuning.md")  # seconds, ratios and studies, which no table has
NOT_IN_A_TABLE = {  # by the scale of the evidence, of densities, an effect of the world of channels, and a form of SFAM
    *("0.38 [0.16, 0.59]", "0.36 [0.08, 0.64]", "0.09 [0.04, 0.14]", "0.54 [0.28, 0.79]", "0.41 [0.22, 0.59]"),
    *("0.33 [0.11, 0.54]", "0.38 [0.27, 0.50]", "0.10 [-0.04, 0.24]"),
    *("-0.01 [-0.05, 0.03]", "0.011 [-0.000, 0.024]"),
}
PAGES = [
    ROOT / "README.md",
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name not in MEASURED_APART),
]
STATING = [path for path in PAGES if INTERVAL.search(path.read_text())]


@cache
def computed() -> np.ndarray:
    """(count, 3): mean, low and high of every interval in a committed table."""
    tables = "\n".join(path.read_text() for path in sorted((ROOT / "results").rglob("*.md")))
    found = [tuple(map(float, match.groups())) for match in INTERVAL.finditer(tables)]
    values = np.array(sorted(set(found)))
    return np.concatenate([values, -values[:, [0, 2, 1]]])  # a difference may be stated the other way round


def lacking(text: str) -> Iterator[str]:
    """The intervals of a page that no table has, to its digits; with two, a wrong one may be found by accident."""
    for match in INTERVAL.finditer(text):
        stated = np.array([*map(float, match.groups())])
        half = np.array([0.5 * 10.0 ** -len(number.partition(".")[2]) for number in match.groups()])
        if not (abs(computed() - stated) <= half + 0.00051).all(axis=1).any():  # tables have three digits
            yield " ".join(match.group().replace("*", "").split())


@pytest.mark.parametrize("path", STATING, ids=lambda path: path.name)
def test_a_stated_interval_is_that_of_a_table(path: Path) -> None:
    assert {*lacking(path.read_text())} <= NOT_IN_A_TABLE


def test_what_is_excepted_is_stated() -> None:
    text = " ".join(" ".join(path.read_text() for path in STATING).split())
    assert [found for found in NOT_IN_A_TABLE if found not in text] == []


def test_a_wrong_digit_is_found() -> None:
    mean, low, high = computed()[np.isfinite(computed()).all(axis=1)][0]
    assert not [*lacking(f"{mean:.3f} [{low:.3f}, {high:.3f}]")]
    assert [*lacking(f"{mean + 5:.3f} [{low:.3f}, {high:.3f}]")]


def test_the_table_of_the_readme_is_that_of_the_stored_demo() -> None:
    demo = Stored(RECORDS).run("planted")
    printed = terminal_table(Report(demo.means, demo.catalogue)).splitlines()
    readme = (ROOT / "README.md").read_text()
    block = next(block for block in re.findall(r"```text\n(.*?)```", readme, re.DOTALL) if "causal" in block)
    rows = [line.rstrip() for line in block.splitlines() if line.strip()]
    assert [line for line in rows if line not in {each.rstrip() for each in printed}] == []


def test_the_readme_says_what_repainting_changed() -> None:
    table = pd.read_csv(ROOT / "results" / "tables" / "intervention-planted.csv").set_index("part")
    share = {part: f"{round(100 * flips)} %" for part, flips in table["flips"].items()}
    (count,) = set(table["count"])
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"with a repainted crest, {share['crest']} of {count} queries" in text
    assert f"with a repainted tail {share['tail']}, and with any of the five other parts repainted none" in text
    assert table.loc[~table["evidence"], "flips"].tolist() == [0.0] * 5
