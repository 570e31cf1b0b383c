"""Methods and metrics by their names in conf/, without Hydra."""

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import Any, Literal, TypeAlias

from sfam_bench.core.conf import conf_folder, read_yaml
from sfam_bench.core.errors import UserError, check_choices, check_object
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.explainers.similarity_decomposition import SimilarityDecomposition

PACKAGE = "sfam_bench."  # only classes of this package are imported
Explainers: TypeAlias = Mapping[str, Explainer] | Sequence[str] | str | None


def explainers_of(chosen: Explainers) -> dict[str, Explainer]:
    """Explainers by name, built from conf/ where only names are given; by default SFAM and the exact decomposition."""
    if chosen is None:
        return {"sfam": SFAM(), "similarity_decomposition": SimilarityDecomposition()}
    check_object(chosen, "explainers", Mapping, Sequence)
    if isinstance(chosen, Mapping):
        found = dict(chosen)
    else:
        found = {name: find_object("explainer", name) for name in ([chosen] if isinstance(chosen, str) else chosen)}
    for name, method in found.items():
        check_method(method, f"explainer {name!r}", Explainer)
    if not found:
        raise UserError("no explainer is given: name one, such as explainers=['sfam'], or omit them for the default")
    return found


def check_method(method: object, what: str, kind: type) -> None:
    """Raise UserError where an object has the wrong type, or one of its fields an invalid value."""
    check_object(method, what, kind)
    if is_dataclass(method):
        check_choices(method)


def find_object(group: Literal["explainer", "metric"], name: str) -> Any:
    """Build the method or metric of this name by conf/, with the defaults of conf/base.yaml (seed 0).

    Raises UserError where there is none, or conf/ names a class of another package.
    """
    known = _entries(group)
    if not isinstance(name, str):
        raise UserError(f"a list of {group}s holds names, not {name!r:.60}: give objects as {{'name': object}}")
    if name not in known:
        near = ", ".join(get_close_matches(name, known, 3)) or f"one of {', '.join(known)}"
        raise UserError(f"there is no {group} {name!r}: did you mean {near}?")
    return _build(known[name])


@cache
def _entries(group: str) -> dict[str, Mapping[str, Any]]:
    """The entries of all files of a group, by key."""
    files = (read_yaml(file) for file in sorted((conf_folder() / group).glob("*.yaml")))
    return {name: node for file in files for name, node in file.items() if isinstance(node, dict)}


def _build(node: Mapping[str, Any]) -> Any:
    module, _, kind = str(node["_target_"]).rpartition(".")
    if not module.startswith(PACKAGE):
        raise UserError(f"conf/ names {node['_target_']}, which is not in {PACKAGE}*: give the object itself")
    fields = {key: _resolve(value) for key, value in node.items() if key != "_target_"}
    return getattr(import_module(module), kind)(**fields)


def _resolve(value: Any) -> Any:
    """A value of conf/ with objects built, and ${setting}, ${group} and ${group.key} replaced by their defaults."""
    if isinstance(value, dict) and "_target_" in value:
        return _build(value)
    if not (isinstance(value, str) and value.startswith("${") and value.endswith("}")):
        return value
    group, _, key = value[2:-1].partition(".")
    if key:
        return _build(_entries(group)[key])
    base = read_yaml(conf_folder() / "base.yaml")
    if (conf_folder() / group).is_dir():
        chosen = next(entry[group] for entry in base["defaults"] if isinstance(entry, dict) and group in entry)
        return _build(read_yaml(conf_folder() / group / f"{chosen}.yaml"))
    return _resolve(base[group])
