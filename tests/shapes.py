"""A plugin of pytest, `-p tests.shapes`: calls are checked in the modules that state the shapes of tensors.

The other modules have no shape to check, and checking them costs as much as these.
"""

from jaxtyping import install_import_hook

from tests.paths import ROOT


def find_modules() -> list[str]:
    """The modules that name a shape, or a type of `sfam_bench.core.types`."""
    files = sorted((ROOT / "sfam_bench").rglob("*.py"))
    with_shapes = [file for file in files if any(word in file.read_text() for word in ("jaxtyping", "core.types"))]
    return [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in with_shapes]


def pytest_load_initial_conftests() -> None:
    """Before any module is imported, in each worker."""
    install_import_hook(find_modules(), "beartype.beartype")
