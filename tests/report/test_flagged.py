"""Each reason why a pair is left out has words in tables and in the docs."""

import re

import pyarrow.parquet as pq

from sfam_bench.report.tables.flagged import FLAGS
from sfam_bench.runs.matrix import NO_REASON
from tests.paths import ROOT


def test_reasons_are_described_in_the_docs() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    table = text.partition("| `flag` | why there is no value |\n")[2].partition("\n\n")[0]
    described = {name for line in table.splitlines() for name in re.findall(r"`([a-z_]+)`", line.split("|")[1])}
    assert described == FLAGS.keys() - {NO_REASON}  # which stands for no flag


def test_reasons_in_stored_runs_are_known() -> None:
    stored = sorted((ROOT / "results" / "records").glob("*/records.parquet"))
    found = {flag for path in stored for flag in pq.read_table(path, columns=["flag"])["flag"].unique().to_pylist()}
    assert stored
    assert found - {""} <= FLAGS.keys()
