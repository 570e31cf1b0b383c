"""Methods by the names that they have in conf/explainer, without Hydra."""

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, TypeAlias

from sfam_bench.core.conf import conf_folder, read_yaml
from sfam_bench.core.errors import UserError, check_choices, check_object
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.explainers.similarity_decomposition import SimilarityDecomposition

PACKAGE = "sfam_bench.explainers."  # nothing else is imported, whatever a file says
Explainers: TypeAlias = Mapping[str, Explainer] | Sequence[str] | str | None


def explainers_of(chosen: Explainers) -> dict[str, Explainer]:
    """Objects as they are, names looked up; by default SFAM and the exact decomposition."""
    if chosen is None:
        return {"sfam": SFAM(), "similarity_decomposition": SimilarityDecomposition()}
    check_object(chosen, "explainers", Mapping, Sequence)
    if isinstance(chosen, Mapping):
        found = dict(chosen)
    else:
        found = {name: named(name) for name in ([chosen] if isinstance(chosen, str) else chosen)}
    for name, method in found.items():
        check_method(method, f"explainer {name!r}", Explainer)
    if not found:
        raise UserError("no explainer is chosen: name one, as explainers=['sfam'], or leave them out for the default")
    return found


def check_method(method: object, what: str, kind: type) -> None:
    """Raise UserError where an object, or what one of its fields holds, is not what it must be."""
    check_object(method, what, kind)
    if is_dataclass(method):
        check_choices(method)


def named(name: str) -> Explainer:
    """The method that evaluate.py calls so; its settings that refer to others keep their defaults (seed 0)."""
    files = {file.stem: file for file in (conf_folder() / "explainer").glob("*.yaml")}
    if not isinstance(name, str):
        raise UserError(f"a list of explainers holds names, not {name!r:.60}: give objects as {{'name': object}}")
    if name not in files:
        near = ", ".join(get_close_matches(name, files, 3)) or f"one of {', '.join(sorted(files))}"
        raise UserError(f"there is no explainer {name!r}: did you mean {near}?")
    fields: dict[str, Any] = dict(read_yaml(files[name])[name])
    target = str(fields.pop("_target_"))
    if not target.startswith(PACKAGE):
        raise UserError(f"{files[name]} takes {target}, which is not of {PACKAGE}*: give the object itself")
    module, _, kind = target.rpartition(".")
    own = {key: value for key, value in fields.items() if not (isinstance(value, str) and "${" in value)}
    method: Explainer = getattr(import_module(module), kind)(**own)
    return method
