"""What every script shares: Hydra's entry, settings checked before use, and one-line errors with exit code 2."""

import functools
import inspect
import os
import pydoc
import re
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import hydra
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sfam_bench.errors import UserError

MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError)
SETTINGS: dict[str, Any] = {  # those that the scripts themselves read; the others go through `build`
    **{"seed": int, "batch_size": int, "resume": bool, "split": str, "run_dir": str, "device": str | None},
    **{"maps.save": bool, "keep_memory": bool, "maps.pictures": int, "runs": list, "out": str},
}
LOWEST = {"seed": 0, "batch_size": 1, "maps.pictures": 0}
WRITTEN: dict[Any, Any] = {bool: bool, int: int, float: (int, float), str: str, Path: str}  # types as YAML writes them
# What Hydra says, and what it means to somebody who has mistyped an argument
PLAINER = {
    r"Could not override '([^']+)'\. To append to your config use (\S+)": r"no setting '\1': check its name, or add it "
    r"with \2 (all settings: --cfg job)",
    r"Key '([^']+)' is not in struct": r"no \1 is chosen: name at least one",
    r"Missing mandatory value: (\S+)": r"\1 is not given: add \1=...",
    r"^In '\w+': | Available options in .*| Config search path: .*|, set env var HYDRA_FULL_ERROR=1.*": "",
}


def script(config: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Decorate `main(cfg)` with the config `conf/<config>.yaml`."""

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def task(cfg: DictConfig) -> None:
            try:
                check_settings(cfg)
                main(cfg)
            except MISTAKES as error:  # here, before Hydra adds a line of its own
                fail(error)

        entry = hydra.main(version_base="1.3", config_path="../conf", config_name=config)(task)

        def run() -> None:
            # Hydra prints its own errors and exits with 1; this hands them on
            os.environ["HYDRA_FULL_ERROR"] = "1"
            try:
                entry()
            except MISTAKES as error:
                fail(error)
            except KeyboardInterrupt:
                print("interrupted: what was finished is kept; continue with resume=true", file=sys.stderr)
                sys.exit(130)

        return run

    return decorate


def fail(error: BaseException) -> NoReturn:
    """Say what is wrong on one line and exit with 2."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    sys.exit(2)


def one_line(error: BaseException) -> str:
    """The message of the user's own mistake, or of Hydra's error with its first cause, on one line."""
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    if isinstance(cause, UserError):
        return " ".join(str(cause).split())
    if isinstance(error, OSError) and not isinstance(error, HydraException):  # one of Hydra's is both
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; check the path, its permissions and the free space"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = " ".join(line for line in lines if not line.startswith(("full_key: ", "object_type=", "reference_type=")))
    for pattern, plain in PLAINER.items():
        message = re.sub(pattern, plain, message)
    message = re.sub(r"^Could not (?:find|load) '([\w/]+)/([^/']+)'\.?", options, message)
    keys = [line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")]
    return f"{keys[0]}: {message}"[:600] if keys and keys[0] not in message else message[:600]


def options(absent: re.Match[str]) -> str:
    """What can be chosen instead of a file that a group of conf/ does not have."""
    files = (Path(__file__).parents[1] / "conf" / absent[1]).glob("*.yaml")
    return f"there is no {absent[1]} '{absent[2]}': choose {', '.join(sorted(file.stem for file in files))}"


def build(config: Any, **fields: Any) -> Any:
    """Instantiate one node; plain dicts and lists inside, so that frozen dataclasses stay what they are."""
    if isinstance(config, DictConfig | ListConfig):
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
        check_fields(plain, config._get_full_key(None), fields)
    return instantiate(config, _convert_="all", **fields)


def check_settings(cfg: DictConfig) -> None:
    """Raise UserError where a setting of the scripts has the wrong type (resume=maybe would count as true)."""
    for name, hint in SETTINGS.items():
        value = OmegaConf.select(cfg, name, default="???")
        if value == "???":
            continue
        value = list(value) if isinstance(value, ListConfig) else value
        low = name in LOWEST and isinstance(value, int) and value < LOWEST[name]
        if not fits(value, hint) or value == "" or low:
            least = f" of at least {LOWEST[name]}" if name in LOWEST else ""
            raise UserError(f"{name} is {shown(value)}: expected {readable(hint)}{least}")


def check_fields(node: Any, where: str, given: Container[str] = ()) -> None:
    """Raise UserError where a `_target_` has no such field, or a field's plain value is not of its type."""
    if isinstance(node, list):
        for item in node:
            check_fields(item, where)
    if not isinstance(node, dict):
        return
    for name, value in node.items():
        check_fields(value, f"{where}.{name}")
    parameters = signature(node["_target_"]) if "_target_" in node else None
    if parameters is None:
        return
    takes_any = any(known.kind is known.VAR_KEYWORD for known in parameters.values())
    for name, value in node.items():
        if name.startswith("_") or name in given or value == "???":
            continue
        if name in parameters:
            hint = parameters[name].annotation
            if not fits(value, hint):
                raise UserError(f"{where}.{name} is {shown(value)}: expected {readable(hint)}")
        elif not takes_any:
            raise UserError(f"{where} has no setting '{name}': it has {', '.join(parameters) or 'no settings'}")


def signature(target: str) -> Mapping[str, inspect.Parameter] | None:
    """What a target takes; nothing where Python cannot tell, or where there is none, which Hydra says."""
    try:
        found: Any = pydoc.locate(target)
        return inspect.signature(found, eval_str=True).parameters
    except Exception:  # the import of a target may raise anything
        return None


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value out of YAML is of the type `hint`; types that YAML cannot write take all but null."""
    return any(_fits(value, part) for part in parts(hint))


def _fits(value: Any, hint: Any) -> bool:
    if hint in (inspect.Parameter.empty, Any, object):
        return True
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if value is None or hint is NoneType:
        return value is None and hint is NoneType
    if hint in WRITTEN:
        return isinstance(value, WRITTEN[hint]) and isinstance(value, bool) == (hint is bool)
    return not (isinstance(value, str | int | float) and (get_origin(hint) or hint) in (tuple, list, Sequence))


def shown(value: Any) -> str:
    """A plain value as YAML would show it."""
    return "null" if value is None else repr(value)


def readable(hint: Any) -> str:
    """A type as a reader of YAML would name it."""
    names = {NoneType: "null", bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return " or ".join(
        f"one of {', '.join(map(str, get_args(part)))}"
        if get_origin(part) is Literal
        else names.get(part, "a list" if (get_origin(part) or part) in (tuple, list, Sequence) else "a mapping")
        for part in parts(hint)
    )


def parts(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
