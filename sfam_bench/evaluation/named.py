"""Methods and metrics by their names in conf/, without Hydra."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from types import FunctionType
from typing import Any, Literal, TypeAlias

from sfam_bench.core.conf import conf_folder, read_yaml
from sfam_bench.core.errors import UserError, check_choices, check_object
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.metrics.shared.base import Metric

PACKAGE = "sfam_bench."  # only classes of this package are imported
Explainers: TypeAlias = Mapping[str, str | Explainer] | Sequence[str | Explainer] | str | Explainer | None
Metrics: TypeAlias = Mapping[str, str | Metric] | Sequence[str | Metric] | str | Metric | None
Group: TypeAlias = Literal["explainer", "metric"]
EXAMPLES: Mapping[Group, str] = {"explainer": "sfam", "metric": "deletion_mean_colour"}
DEFAULT_EXPLAINERS = ("sfam", "similarity_decomposition")


def explainers_of(chosen: Explainers) -> dict[str, Explainer]:
    """Explainers by name, given as `find_objects` takes them; by default SFAM and the exact decomposition."""
    return find_objects("explainer", DEFAULT_EXPLAINERS if chosen is None else chosen, Explainer)


def metrics_of(chosen: Metrics, default: Sequence[str]) -> dict[str, Metric]:
    """Metrics by name, given as `find_objects` takes them."""
    return find_objects("metric", default if chosen is None else chosen, Metric)


def find_objects(group: Group, chosen: Any, kind: type) -> dict[str, Any]:
    """The methods or metrics by name: names of conf/, objects, lists of both, or a mapping from names to both.

    An object without a name is called as in conf/ if its settings are those of an entry there, else by its class with
    the settings that differ from their defaults, such as sfam(gamma=0.5). Raises UserError for what is of another type,
    for no object at all, and for two of one name.
    """
    if isinstance(chosen, str | kind) and not isinstance(chosen, type):
        chosen = [chosen]
    check_object(chosen, f"{group}s", Mapping, Sequence)
    found: dict[str, Any] = {}
    for name, given in chosen.items() if isinstance(chosen, Mapping) else ((None, given) for given in chosen):
        made = find_object(group, given) if isinstance(given, str) else given
        check_method(made, group if name is None else f"{group} {name!r}", kind)
        if name is None:
            name = given if isinstance(given, str) else name_of(group, given)
        if name in found:
            raise UserError(f"two {group}s are called {name!r}: give them as {{'name': object, ...}}")
        found[name] = made
    if not found:
        raise UserError(f"no {group} is given: name one, such as {group}s=['{EXAMPLES[group]}'], or omit it")
    return found


def name_of(group: Group, given: object) -> str:
    """The name of an object: its key in conf/, or its class with the settings that differ from their defaults."""
    if isinstance(given, FunctionType):
        return given.__name__
    kind = type(given)
    target = f"{kind.__module__}.{kind.__qualname__}"
    keys = [key for key, node in _entries(group).items() if node["_target_"] == target]
    if equal := [key for key in keys if find_object(group, key) == given]:
        return equal[0]
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind.__name__).lower()
    base = keys[0] if len(keys) == 1 else spaced
    own = [field for field in fields(kind) if field.init] if is_dataclass(kind) else []
    changed = [f"{field.name}={_shown(getattr(given, field.name))}" for field in own if _is_changed(given, field)]
    return f"{base}({', '.join(changed)})" if changed else base


def _is_changed(given: object, field: Field[Any]) -> bool:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return bool(getattr(given, field.name) != default)


def _shown(value: Any) -> str:
    """A setting in a name, which holds no slash."""
    return str(getattr(value, "name", value)).replace("/", "-")


def check_method(method: object, what: str, kind: type) -> None:
    """Raise UserError where an object has the wrong type, or one of its fields an invalid value."""
    check_object(method, what, kind)
    if is_dataclass(method):
        check_choices(method)


def find_object(group: Group, name: str) -> Any:
    """Build the method or metric of this name by conf/, with the defaults of conf/base.yaml (seed 0).

    Raises UserError where there is none, or conf/ names a class of another package.
    """
    known = _entries(group)
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
