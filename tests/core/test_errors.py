"""Choices and numbers that a YAML file or an argument got wrong."""

import math
import shlex
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from sfam_bench.app.cli import explain_error
from sfam_bench.core.errors import UserError, check_choices, check_range, first_line, one_line
from sfam_bench.core.ranges import NotNegative, Range


@dataclass(frozen=True)
class Lamp:
    colour: Literal["red", "green"] = "red"
    watts: float = 5.0

    def __post_init__(self) -> None:
        check_choices(self)


def test_a_choice_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"Lamp.colour is 'blue': choose one of red, green"):
        Lamp(colour="blue")


def test_a_choice_that_is_one_passes():
    assert Lamp(colour="green", watts=3.0).colour == "green"


RANGE = Annotated[float | int, Range(0, 2, above=True)]


@pytest.mark.parametrize("value", ["epoch=3.ckpt", "a(1).ckpt", "{a}", "[x", "x'y", 'a"b', "a#b", "a=\\", "a,b=c"])
def test_a_value_that_hydra_cannot_read_is_named_and_its_quoting_works(value):
    parser = OverridesParser.create()
    with pytest.raises(HydraException) as caught:
        parser.parse_overrides([f"model.checkpoint={value}"])
    said = explain_error(caught.value)
    assert said.startswith(f"the value of model.checkpoint, {value}, has characters")
    (argument,) = shlex.split(said.partition("quote it: ")[2])
    (override,) = parser.parse_overrides([argument])
    assert override.value() == value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "x is nan: expected a number between 0 and 2"),
        (math.inf, "x is inf"),
        (0, "x is 0: "),
        (2.1, "between 0 and 2"),
    ],
)
def test_a_number_out_of_range_is_refused(value, said):
    with pytest.raises(UserError, match=said):
        check_range("x", value, RANGE)


def test_numbers_in_range_and_none_pass():
    for value in (None, 1e-9, 2):
        check_range("x", value, RANGE)
    check_range("x", 0, NotNegative)


@pytest.mark.parametrize("message", ["", "\n", " "])
def test_an_error_without_a_message_is_described_by_its_type(message):
    assert first_line(ValueError(message)) == one_line(ValueError(message)) == "ValueError"
    assert first_line(ValueError(message), 5) == "Value"


def test_a_message_of_several_lines_is_one_line_or_its_first():
    error = RuntimeError("a  long\nmessage")
    assert (first_line(error), first_line(error, 3)) == ("a  long", "a  ")
    assert one_line(error) == "a long message"
