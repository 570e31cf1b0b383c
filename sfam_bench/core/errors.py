"""The error that users see as one line instead of a traceback, and checks that raise it."""

from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from sfam_bench.core.ranges import is_within, range_of


class UserError(Exception):
    """An error that the caller can fix: the message states what is wrong, where, and what to do."""


def first_line(error: BaseException, most: int | None = None) -> str:
    """The first line of an error's message, at most so many characters of it; its type where it has no message."""
    return next(filter(str.strip, str(error).splitlines()), type(error).__name__)[:most]


def one_line(error: BaseException) -> str:
    """The message of an error on one line; its type where it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def check_object(value: Any, what: str, *kinds: type) -> None:
    """Raise UserError if the value is a class instead of an object, or is of none of these kinds."""
    if isinstance(value, type):
        raise UserError(f"{what} is the class {value.__name__}: give an object, {value.__name__}(...)")
    if kinds and not isinstance(value, kinds):
        named = " or ".join(kind.__name__ for kind in kinds)
        raise UserError(f"{what} is {value!r:.60}, of type {type(value).__name__}: give an object of {named}")


def check_choices(instance: Any) -> None:
    """Raise UserError if a field of a dataclass holds a value that its type does not allow.

    Checks fields typed as Literal or as a protocol, numbers with a range, and classes given instead of objects.
    """
    for field in fields(instance):
        name, value = f"{type(instance).__name__}.{field.name}", getattr(instance, field.name)
        parts = get_args(field.type) if get_origin(field.type) is UnionType else (field.type,)
        kinds = [part for part in parts if part is not NoneType]
        protocols = all(getattr(kind, "_is_runtime_protocol", False) for kind in kinds)
        if value is not None or NoneType not in parts:
            check_object(value, name, *(kinds if protocols else ()))
        if get_origin(field.type) is Literal and value not in get_args(field.type):
            raise UserError(f"{name} is {value!r}: choose one of {', '.join(map(str, get_args(field.type)))}")
        check_range(name, value, field.type)


class Checked:
    """A base of dataclasses whose fields are checked (`check_choices`) when an object is made."""

    def __post_init__(self) -> None:
        check_choices(self)


def check_range(name: str, value: Any, hint: Any) -> None:
    """Raise UserError if a number is out of the range of its type (sfam_bench.core.ranges)."""
    if not is_within(value, hint):
        kind = "whole number" if isinstance(value, float) and range_of(hint).whole else "number"
        raise UserError(f"{name} is {value}: expected a {kind} {range_of(hint)}")
