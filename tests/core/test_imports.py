"""Imports without garbage collection, after which collection goes on."""

import gc
import sys
from pathlib import Path

import pytest

from sfam_bench.core.imports import importing


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that nobody has imported yet."""
    (tmp_path / "imported_once.py").write_text("import gc\nENABLED = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "imported_once", raising=False)
    return "imported_once"


def test_what_is_imported_is_left_out_of_collections_that_go_on_afterwards(module: str) -> None:
    before = gc.get_freeze_count()
    try:
        with importing():
            found = __import__(module)
        assert found.ENABLED is False
        assert gc.isenabled()
        frozen = gc.get_freeze_count()
        assert frozen > before
        with importing():
            __import__(module)
        assert gc.get_freeze_count() <= frozen  # nothing more, since what is garbage by now can be collected
    finally:
        sys.modules.pop(module)
        if not before:
            gc.unfreeze()


def test_collection_goes_on_after_an_import_that_fails() -> None:
    with pytest.raises(ModuleNotFoundError), importing():
        __import__("there_is_no_such_module")
    assert gc.isenabled()
