"""Which settings a script has: its own config, without experiments and conf/local.yaml; others are refused by name."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sfam_bench.app.settings import signature
from sfam_bench.core.conf import conf_folder
from sfam_bench.core.errors import UserError

CONF = conf_folder()
FILES = ("experiment", "variants", ".@_global_")  # groups whose files set what others define; the last is local.yaml
NAMED = ("explainer", "metric", "baseline", "table", "figure")  # dictionaries of objects, which anybody may add to
OPEN = {"sweep"}  # whose keys are read as data; their readers check them
OPEN |= {f"hydra.{name}" for name in ("callbacks", "env", "help", "hydra_help", "launcher", "output", "overrides")}
OPEN |= {f"hydra.{name}" for name in ("hydra_logging", "job_logging", "runtime", "sweeper", "job.env_set")}


def check_keys(cfg: DictConfig) -> None:
    """Raise UserError for a setting that the command does not have, from any source."""
    hydras = HydraConfig.get()
    task = [*OmegaConf.to_container(hydras.overrides.task, resolve=False)]  # type: ignore[misc]
    given = {text.lstrip("+~").split("=")[0] for text in task}
    added = {text.lstrip("+").split("=")[0] for text in task if text.startswith("+")}
    groups = {group: choice for group, choice in hydras.runtime.choices.items() if group not in {*FILES, *added}}
    chosen = [f"{group}={choice}" for group, choice in groups.items() if choice and not group.startswith("hydra/")]
    search = [text for text in hydras.overrides.hydra if text.startswith("hydra.searchpath=")]
    schema = _compose(str(hydras.job.config_name), tuple(chosen + search))
    found = {**OmegaConf.to_container(cfg, resolve=False), "hydra": OmegaConf.to_container(hydras, resolve=False)}  # type: ignore[dict-item]
    own = OmegaConf.to_container(OmegaConf.structured(HydraConf), resolve=False)
    schema = {**_dictionaries(str(hydras.job.config_name)), **schema, "hydra": {"env": {}, "output": {}, **own}}  # type: ignore[dict-item]
    for path, names in _unknown(found, schema, ""):
        if path in _top_settings() and path not in given:  # experiments may hold settings of other commands
            continue
        where, _, name = path.rpartition(".")
        raise UserError(_describe(where, name, names, _nested_setting(path, found)))


def suggestion(config_name: str, key: str) -> str:
    """The closest settings to an unknown one, or how to list all."""
    known = [*_paths(_compose(config_name, ()), "")]
    near = get_close_matches(key, known, 3, 0.7) or [path for path in known if path.rpartition(".")[2] == key][:3]
    return "check its name" + (f"; did you mean {' or '.join(near)}?" if near else "")


def _nested_setting(path: str, config: Mapping[str, Any]) -> str:
    """The unknown setting in full: if the unknown name holds a single setting, that one."""
    value: Any = config
    for name in path.split("."):
        value = value[name]
    while isinstance(value, Mapping) and len(value) == 1:
        ((name, value),) = value.items()
        path = f"{path}.{name}"
    return path


def _describe(where: str, name: str, names: Sequence[str], written: str) -> str:
    near = get_close_matches(name, names, 3) or get_close_matches(name.lower(), names, 3)
    if not where:
        below = written.removeprefix(name)
        meant = f": did you mean {' or '.join(f'{other}{below}' for other in near)}?" if near else ": check its name"
        return f"no setting '{written}'{meant} (all settings: --cfg job)"
    meant = f": did you mean {' or '.join(near)}?" if near else ""
    return f"{where} has no setting '{name}'{meant}{'' if near else ':'} it has {', '.join(names) or 'none'}"


@functools.cache
def _compose(config_name: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """A command's config with these groups; conf/hydra/empty/, searched first, replaces the user's local.yaml."""
    path = ConfigSearchPathImpl()
    for provider, place in (("schema", f"file://{CONF / 'hydra' / 'empty'}"), ("main", f"file://{CONF}")):
        path.append(provider, place)
    path.append("hydra", "pkg://hydra.conf")
    path.append("schema", "structured://")
    mode = RunMode.MULTIRUN  # lets a group without a choice (???) pass
    cfg = ConfigLoaderImpl(path).load_configuration(config_name, [*overrides], mode, from_shell=False)
    return {name: value for name, value in OmegaConf.to_container(cfg, resolve=False).items() if name != "hydra"}  # type: ignore[union-attr, misc]


def _dictionaries(config_name: str) -> dict[str, Any]:
    """The groups of NAMED in a command's config that are empty by default."""
    entries = yaml.safe_load((CONF / f"{config_name}.yaml").read_text()).get("defaults", [])
    return {group: {} for entry in entries if isinstance(entry, dict) for group in entry if group in NAMED}


@functools.cache
def _top_settings() -> frozenset[str]:
    """The top-level settings of all commands."""
    files = (yaml.safe_load(path.read_text()) or {} for path in CONF.glob("*.yaml") if path.stem != "local")
    return frozenset(key for file in files for key in file if key not in ("defaults", "hydra"))


def _paths(node: Any, where: str) -> Iterator[str]:
    for name, value in node.items():
        yield f"{where}{name}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{where}{name}.")


def _unknown(node: Any, schema: Any, where: str) -> Iterator[tuple[str, list[str]]]:
    """Each setting that is neither in the schema nor a field of its target, with the known names."""
    if where in OPEN or not isinstance(node, Mapping):
        if isinstance(node, list):
            for item in node:
                yield from _unknown(item, item, where)
        return
    known = schema if isinstance(schema, Mapping) else {}
    names = [name for name in known if not str(name).startswith("_")]
    extra = [name for name in node if name not in known and not str(name).startswith("_")]
    fields = signature(str(node["_target_"])) if "_target_" in node and extra else None
    takes_any = fields is not None and any(field.kind is field.VAR_KEYWORD for field in fields.values())
    for name, value in node.items():
        path = f"{where}.{name}" if where else str(name)
        added = where in NAMED and isinstance(value, Mapping) and "_target_" in value
        if name in extra and not added and not takes_any and name not in (fields or {}):
            yield path, list(dict.fromkeys([*names, *(fields or {})]))
        elif "_target_" not in node or not isinstance(value, Mapping) or "_target_" in value:  # others are data
            yield from _unknown(value, known.get(name, {}), path)
