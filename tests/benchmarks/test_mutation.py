"""Faults to plant: each still has its text in the code, once, and a file of tests that should catch it."""

from benchmarks.mutation import FAULTS
from tests.paths import ROOT


def test_every_fault_can_be_planted() -> None:
    counts = {fault: (ROOT / "sfam_bench" / fault.file).read_text().count(fault.right) for fault in FAULTS}
    assert [fault.name for fault, count in counts.items() if count != 1] == []
    assert all((ROOT / "tests" / fault.package / fault.tests).is_file() for fault in FAULTS)
