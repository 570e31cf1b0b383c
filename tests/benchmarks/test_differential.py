"""Every method beside independent implementations, before anybody normalises; the page shows the same comparisons."""

import pytest

from benchmarks.differential.__main__ import comparisons

pytestmark = pytest.mark.slow

EVERY = sorted(comparisons(), key=lambda comparison: (comparison.method, comparison.peer))


@pytest.mark.parametrize("comparison", EVERY, ids=lambda c: f"{c.method}, {c.peer}")
def test_we_agree_or_know_why_not(comparison):
    if not comparison.installed:
        pytest.skip(f"{comparison.package or comparison.checkout} is not installed: {comparison.missing}")
    found = comparison.differences()
    assert found
    if comparison.cause:
        assert max(found.values()) > comparison.tolerance, "they agree: the cause no longer holds"
    else:
        assert max(found.values()) <= comparison.tolerance, found
