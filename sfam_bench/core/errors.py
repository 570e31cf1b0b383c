"""The one error that users see as a line instead of a traceback."""

from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from sfam_bench.core.ranges import range_of, within


class UserError(Exception):
    """A problem that the caller can mend: the message says what, where and what to do."""


def check_object(value: Any, what: str, *kinds: type) -> None:
    """Raise UserError where a class was given for an object, or something that is none of these kinds."""
    if isinstance(value, type):
        raise UserError(f"{what} is the class {value.__name__}: give an object, {value.__name__}(...)")
    if kinds and not isinstance(value, kinds):
        named = " or ".join(kind.__name__ for kind in kinds)
        raise UserError(f"{what} is {value!r:.60}, of type {type(value).__name__}: give an object of {named}")


def check_choices(instance: Any) -> None:
    """Raise UserError where a dataclass field holds what its type does not allow (neither YAML nor Python looks).

    Looked at are fields typed Literal or as a protocol, numbers with a range, and classes in the place of objects.
    """
    for field in fields(instance):
        name = f"{type(instance).__name__}.{field.name}"
        parts = get_args(field.type) if get_origin(field.type) is UnionType else (field.type,)
        kinds = [part for part in parts if part is not NoneType]
        protocols = all(getattr(kind, "_is_runtime_protocol", False) for kind in kinds)
        if getattr(instance, field.name) is not None or NoneType not in parts:
            check_object(getattr(instance, field.name), name, *(kinds if protocols else ()))
        choices = get_args(field.type) if get_origin(field.type) is Literal else ()
        value = getattr(instance, field.name)
        if choices and value not in choices:
            raise UserError(f"{name} is {value!r}: choose one of {', '.join(map(str, choices))}")
        check_range(name, value, field.type)


class Checked:
    """A base of dataclasses whose fields are checked (`check_choices`) when an object is made."""

    def __post_init__(self) -> None:
        check_choices(self)


def check_range(name: str, value: Any, hint: Any) -> None:
    """Raise UserError where a number is out of the range of its type (sfam_bench.core.ranges)."""
    if not within(value, hint):
        raise UserError(f"{name} is {value}: expected a number {range_of(hint)}")
