"""From config to objects, with every plain value checked against the type that its target declares."""

import inspect
import pydoc
from collections.abc import Container, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from beartype import BeartypeConf
from beartype.door import is_bearable
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from sfam_bench.core.errors import UserError
from sfam_bench.core.ranges import Count, Finite, Natural, NotNegative, Positive, Range, Share, is_within, range_of

OWN: dict[str, Any] = {  # settings that the scripts read themselves; all others go through `build`
    **{
        "seed": Annotated[int, Range(0, 2**63 - 1, whole=True)],
        "batch_size": Count,
        "resume": bool | Literal["anyway"],
        "split": str,
        "run_dir": str,
        "device": str | None,
    },
    **{
        "maps.save": bool,
        "keep_memory": bool,
        "curves": bool,
        "maps.pictures": Natural | Literal["all"],
        "recall_at": list[Count],
        "nmi": bool,
        "shots": list[Count],
        "verification": bool,
        "top": Count,
        "label": str | int | None,
        **dict.fromkeys(("query", "gallery", "foreground"), str | None),
        **dict.fromkeys(("reference", "negative", "metrics"), str | list[str] | None),
        "box": list[float] | None,
        "engine": Literal["torch", "faiss"],
        "runs": list,
        "out": str,
        "allow_unfinished": bool,
        "unsupported": Literal["refuse", "skip"],
        "shards": Count | None,
        "task_minutes": Count,
        "images_per_second": Positive | None,
        "launcher": str,
        "workers": Count | None,
        **dict.fromkeys(("wait", "dry_run", "watch", "partial"), bool),
        **dict.fromkeys(("allow", "gone"), list[str]),
        "tuned": list[str] | str | None,
        "trials": Count,
        "objective": str,
        "held_out": Share,
        **{"tolerance": NotNegative, "evidence_tolerance": NotNegative, "min_range": Finite, "full_share": Share},
        **{"records": str, "document": bool, "run": str, "pictures": Natural},
    },
}
STARRED = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
TOWER = BeartypeConf(is_pep484_tower=True)  # an integer is accepted as a float
PLAIN = {bool: "true or false", int: "an integer", float: "a number", str: "a string", list: "a list"}


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """A config in plain types, interpolations resolved."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)  # type: ignore[return-value]


def build(config: Any, **fields: Any) -> Any:
    """Instantiate one node; dicts and lists inside are plain, so that frozen dataclasses stay hashable."""
    if isinstance(config, DictConfig | ListConfig):
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
        check_fields(plain, config._get_full_key(None), fields)
    return instantiate(config, _convert_="all", **fields)


def check_settings(cfg: DictConfig) -> None:
    """Raise UserError for a setting of the wrong type (resume=maybe would count as true)."""
    for name, hint in OWN.items():
        value = OmegaConf.select(cfg, name, default="???")
        if value == "???":
            continue
        value = list(value) if isinstance(value, ListConfig) else value
        if not is_of_type(value, hint) or value == "":
            raise UserError(f"{name} is {show_value(value)}: expected {describe_type(hint)}")


def check_fields(node: Any, where: str, given: Container[str] = ()) -> None:
    """Raise UserError if a `_target_` has no such field, or a field's plain value is not of its type."""
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
            if not is_of_type(value, hint):
                raise UserError(f"{where}.{name} is {show_value(value)}: expected {describe_type(hint)}")
        elif not takes_any:
            raise UserError(f"{where} has no setting '{name}': it has {', '.join(parameters) or 'no settings'}")


def signature(target: str) -> Mapping[str, inspect.Parameter] | None:
    """The signature of a target; None if it has none, or cannot be imported, which Hydra reports."""
    try:
        found: Any = pydoc.locate(target)
        own = dict(inspect.signature(found, eval_str=True).parameters)
        if not isinstance(found, type) or all(field.kind is not field.VAR_KEYWORD for field in own.values()):
            return own
        for base_ in found.__mro__[1:-1]:  # **kwargs go to a base class
            own = {**inspect.signature(base_).parameters, **own}
        return {name: field for name, field in own.items() if name != "self" and field.kind not in STARRED}
    except Exception:  # the import of a target may raise anything
        return None


def is_of_type(value: Any, hint: Any) -> bool:
    """Whether a plain YAML value is of the type `hint`; a mapping stands for an object, which `build` makes."""
    if hint is inspect.Parameter.empty or (isinstance(value, dict) and ("_target_" in value or not plain_type(hint))):
        return True
    if isinstance(value, bool) and not is_bearable("text", hint):  # bool is a subclass of int
        return bool in (hint, *get_args(hint)) or hint in (Any, object)
    typed = is_bearable(value, hint, conf=TOWER) or (isinstance(value, list) and is_bearable(tuple(value), hint))
    return typed and is_within(value, hint)


def plain_type(hint: Any) -> bool:
    """Whether a type consists of numbers, strings, choices and lists of these, so that no mapping fits it."""
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return True
    if get_origin(hint) is Annotated:
        return plain_type(parts[0])
    if hint in (*PLAIN, type(None), ...):
        return True
    return get_origin(hint) in (*PLAIN, tuple, Union, UnionType) and all(map(plain_type, parts))


def show_value(value: Any) -> str:
    """A plain value in YAML."""
    return "null" if value is None else repr(value)


def describe_type(hint: Any) -> str:
    """A type in the words of a YAML user, with the range of its numbers."""
    if get_origin(hint) is Annotated:
        return f"{'an integer' if get_args(hint)[0] is int else 'a number'} {range_of(hint)}"
    if get_origin(hint) in (Union, UnionType) and any(get_origin(part) is Annotated for part in get_args(hint)):
        parts = sorted(get_args(hint), key=lambda part: get_origin(part) is not Literal)
        return " or ".join("null" if part is type(None) else describe_type(part) for part in parts)
    if get_origin(hint) is tuple:
        return "a list" if ... in get_args(hint) else f"a list of {len(get_args(hint))}"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    named = [describe_type(part) for part in get_args(hint) if get_origin(part) is Literal]
    named += [PLAIN[kind] for kind in PLAIN if kind in (hint, get_origin(hint), *map(base_type, get_args(hint)))]
    return " or ".join([*named, *(["null"] if type(None) in get_args(hint) else [])]) or "a mapping"


def base_type(hint: Any) -> Any:
    """list of list[str], the type itself otherwise."""
    return get_origin(hint) or hint
