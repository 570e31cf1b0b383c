"""The one error that users see as a line instead of a traceback."""

from dataclasses import fields
from typing import Any, Literal, get_args, get_origin

from sfam_bench.ranges import range_of, within


class UserError(Exception):
    """A problem that the caller can mend: the message says what, where and what to do."""


def check_choices(instance: Any) -> None:
    """Raise UserError where a dataclass field is none of the choices of its Literal, or a number out of its range."""
    for field in fields(instance):
        choices = get_args(field.type) if get_origin(field.type) is Literal else ()
        value = getattr(instance, field.name)
        if choices and value not in choices:
            raise UserError(
                f"{type(instance).__name__}.{field.name} is {value!r}: choose one of {', '.join(map(str, choices))}"
            )
        if not within(value, field.type):
            raise UserError(
                f"{type(instance).__name__}.{field.name} is {value}: expected a number {range_of(field.type)}"
            )
