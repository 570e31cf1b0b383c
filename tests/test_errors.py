"""Choices that a YAML file got wrong."""

from dataclasses import dataclass
from typing import Literal

import pytest

from sfam_bench.errors import UserError, check_choices


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
