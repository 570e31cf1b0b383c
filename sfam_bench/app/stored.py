"""Configs from files of unknown origin: only admitted classes are built from them."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sfam_bench.core.conf import conf_folder
from sfam_bench.core.errors import UserError

CONF = conf_folder()
ELSEWHERE = ("hydra", "download")  # groups of conf/ that stored configs never contain
# whose classes only hold settings, and are admitted without an entry in conf/
METHODS = ("sfam_bench.explainers.", "sfam_bench.metrics.", "sfam_bench.core.baselines", "sfam_bench.models.poolings")
HYDRAS = ("_target_", "_partial_", "_recursive_", "_convert_")
DEEPEST = 50


def admit_config(config: Mapping[str, Any], path: Path, allow: Sequence[str] = ()) -> DictConfig:
    """A config read from `path`, as OmegaConf.

    UserError, before anything is imported or called, where it names an object that is neither in conf/ nor of a package
    in `allow`, or holds an interpolation: stored configs are resolved.
    """
    for where, key, value in _entries(config):
        here = f"{path}: {where}"
        if key.startswith("_") and key not in HYDRAS:
            raise UserError(f"{here} is no setting of a stored config: it is not built")
        if key == "_target_" and not _is_admitted(value, allow):
            package = value.split(".")[0] if isinstance(value, str) else "PACKAGE"
            raise UserError(
                f"{here} names {str(value)[:80]!r}, which is not in conf/: it is not built, since a stored config can "
                f"run any code; if you trust it and {package}, pass allow=[{package}]"
            )
        if isinstance(value, str) and "${" in value:
            raise UserError(f"{here} has an interpolation ({value[:60]!r}), which stored configs never have: not built")
    made: DictConfig = OmegaConf.create(dict(config))
    return made


def list_packages(config: Mapping[str, Any]) -> list[str]:
    """The packages that `allow` must list to build a config."""
    targets = [value for _, key, value in _entries(config) if key == "_target_"]
    return sorted({str(target).split(".")[0] for target in targets if not _is_admitted(target, ())})


def _entries(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Every entry of a nested config: its full name, its key, its value; items of lists have the key of the list."""
    waiting: list[tuple[str, str, Any]] = [("", "", config)]
    while waiting:
        where, key, value = waiting.pop()
        if where.count(".") > DEEPEST:
            raise UserError(f"a stored config is nested deeper than {DEEPEST} levels: it is not built")
        yield where, key, value
        if isinstance(value, Mapping):
            waiting += [(f"{where}.{name}".lstrip("."), str(name), item) for name, item in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(f"{where}.{number}", "", item) for number, item in enumerate(value)]


def _is_admitted(target: Any, allow: Sequence[str]) -> bool:
    if not isinstance(target, str):
        return False
    named = target in _list_conf_targets() or any(target.startswith(f"{package}.") for package in allow)
    return named or _is_method(target)


@cache
def _list_conf_targets() -> frozenset[str]:
    """The targets in the files of conf/."""
    files = [path for path in CONF.rglob("*.yaml") if path.relative_to(CONF).parts[0] not in ELSEWHERE]
    return frozenset(name for path in files for name in re.findall(r"_target_:\s*([\w.]+)", path.read_text()))


def _is_method(target: str) -> bool:
    """Whether it is a public class that a module of methods defines itself."""
    module, _, name = target.rpartition(".")
    if not module.startswith(METHODS) or name.startswith("_") or not re.fullmatch(r"\w+(\.\w+)+", module):
        return False
    try:
        found = vars(import_module(module)).get(name)
    except ImportError:
        return False
    return inspect.isclass(found) and found.__module__ == module
