"""What is imported is declared, and what is one's own stays out of the wheel."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from tests.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# The module of a package, where its name is another
MODULES = {"pillow": "PIL", "pyyaml": "yaml", "scikit_learn": "sklearn", "hydra_core": "hydra", "faiss_cpu": "faiss"}
OWN = {"sfam_bench", "experiments", "benchmarks", "tests"}


def declared() -> set[str]:
    """The modules of every package that pyproject.toml names."""
    extras = PROJECT["project"]["optional-dependencies"].values()
    names = [*PROJECT["project"]["dependencies"], *(name for extra in extras for name in extra)]
    packages = {re.split(r"[^\w-]", name)[0].lower().replace("-", "_") for name in names}
    return {MODULES.get(package, package) for package in packages} | {"hydra_plugins"}


def imported(path: Path) -> set[str]:
    """The first parts of the modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - OWN - set(sys.stdlib_module_names)


@pytest.mark.parametrize("folder", ["sfam_bench", "experiments"])
def test_every_import_is_declared(folder: str) -> None:
    found = {path: imported(path) - declared() for path in (ROOT / folder).rglob("*.py")}
    assert {str(path.relative_to(ROOT)): names for path, names in found.items() if names} == {}


def test_local_settings_stay_out_of_the_wheel() -> None:
    """hatchling takes all that force-include names, whatever `exclude` says, so that conf/ must be no part of it."""
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "conf/local.yaml" in wheel["exclude"]
    assert "force-include" not in wheel
    assert "conf/local.yaml" in (ROOT / ".gitignore").read_text().splitlines()


def test_no_text_sends_anybody_to_a_registry_for_this_project() -> None:
    """The name is on none, so that anybody could take it."""
    files = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("sfam_bench/**/*.py")]
    files += [*ROOT.glob("experiments/*.py"), *ROOT.glob("conf/**/*.yaml"), *ROOT.glob("Makefile")]
    found = [path for path in files if re.search(r"pip install[^\n]*sfam[-_]bench", path.read_text())]
    assert found == []
