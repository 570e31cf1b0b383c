"""Faults to plant: each still has its text in the code, once, and a file of tests that should catch it."""

from benchmarks.mutation import FAULTS, TENSORS
from tests.paths import ROOT


def test_every_fault_can_be_planted() -> None:
    counts = {fault: (ROOT / "sfam_bench" / fault.file).read_text().count(fault.right) for fault in FAULTS}
    assert [fault.name for fault, count in counts.items() if count != 1] == []
    assert all((ROOT / "tests" / fault.package / fault.tests).is_file() for fault in FAULTS)


def test_shapes_are_checked_in_every_package_that_states_them() -> None:
    assert f"TENSORS := {TENSORS}\n" in (ROOT / "Makefile").read_text()
    code, imports = ROOT / "sfam_bench", ("from jaxtyping import", "from sfam_bench.core.types import")
    stating = [path for path in code.rglob("*.py") if any(text in path.read_text() for text in imports)]
    names = [".".join(path.relative_to(code).with_suffix("").parts) for path in stating]
    assert [name for name in names if not f"{name}.".startswith(tuple(f"{known}." for known in TENSORS.split()))] == []
