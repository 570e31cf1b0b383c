"""The one error that users see as a line instead of a traceback."""

from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin


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

    Looked at are fields typed Literal or as a protocol, and classes in the place of objects.
    """
    for field in fields(instance):
        parts = get_args(field.type) if get_origin(field.type) is UnionType else (field.type,)
        kinds = [part for part in parts if part is not NoneType]
        protocols = all(getattr(kind, "_is_runtime_protocol", False) for kind in kinds)
        if getattr(instance, field.name) is not None or NoneType not in parts:
            what = f"{type(instance).__name__}.{field.name}"
            check_object(getattr(instance, field.name), what, *(kinds if protocols else ()))
        choices = get_args(field.type) if get_origin(field.type) is Literal else ()
        value = getattr(instance, field.name)
        if choices and value not in choices:
            raise UserError(
                f"{type(instance).__name__}.{field.name} is {value!r}: choose one of {', '.join(map(str, choices))}"
            )
