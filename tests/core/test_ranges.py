"""Every number in conf/ has a range: NaN, infinity and what lies outside are refused, from YAML and in Python."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin

import pytest
import yaml
from omegaconf import OmegaConf

from sfam_bench.app.settings import build, signature
from sfam_bench.core.errors import UserError, check_choices
from sfam_bench.core.ranges import Count, Natural, NotNegative, Positive, Range, Share, is_within, range_of
from sfam_bench.datasets.pairs import PairChoice
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.metrics.localisation import PointingGame
from tests.paths import CONF

ELSEWHERE = ("pytorch_metric_learning.", "torch.", "sfam_bench.training.", "hydra")  # of others, and of training


def targets(node: Any) -> set[str]:
    """Every target below a node of YAML."""
    if isinstance(node, list):
        return {found for item in node for found in targets(item)}
    if not isinstance(node, dict):
        return set()
    own = {node["_target_"]} if "_target_" in node else set()
    return own.union(*map(targets, node.values()))


def numeric(hint: Any) -> bool:
    parts = get_args(hint) if get_origin(hint) is not Annotated else ()
    return get_origin(hint) is Annotated or hint in (int, float) or any(map(numeric, parts))


def every_target() -> dict[str, dict[str, Any]]:
    """The numeric fields of every target that conf/ names, but for those ELSEWHERE."""
    files = [path for path in CONF.rglob("*.yaml") if "hydra" not in path.relative_to(CONF).parts]
    named = {found for path in files for found in targets(yaml.safe_load(path.read_text()))}
    found = {}
    for target in sorted(name for name in named if not name.startswith(ELSEWHERE)):
        fields = signature(target) or {}
        found[target] = {name: field.annotation for name, field in fields.items() if numeric(field.annotation)}
    return found


TARGETS = every_target()
FIELDS = [(target, name, hint) for target, fields in TARGETS.items() for name, hint in fields.items()]


@pytest.mark.parametrize(("target", "name", "hint"), FIELDS, ids=[f"{t.rpartition('.')[2]}.{n}" for t, n, _ in FIELDS])
def test_every_number_of_a_config_has_a_range(target: str, name: str, hint: Any) -> None:
    known = range_of(hint)
    assert "Range(" in repr(hint), f"{target}.{name} has no range: use a type of sfam_bench/core/ranges.py"
    several = any(get_origin(part) in (tuple, list, Sequence) for part in (hint, *get_args(hint)))
    outside = [math.nan, math.inf, -math.inf, known.low - 1, known.high + 1]
    for value in [*outside, *([known.low] if known.above else [])]:
        assert not is_within([value] if several else value, hint)


def test_ranges() -> None:
    assert [value in Range(0, 1) for value in (-0.1, 0, 0.5, 1, 1.1, math.nan)] == [
        False,
        True,
        True,
        True,
        False,
        False,
    ]
    assert [value in Range(0, above=True) for value in (0, 1e-9, math.inf)] == [False, True, False]
    assert [str(range_of(kind)) for kind in (Count, Natural, Positive, NotNegative, Share, float)] == [
        *("of at least 1", "of at least 0", "above 0", "of at least 0", "between 0 and 1", "that is finite")
    ]
    assert range_of(Count | None) == Range(1, whole=True)
    assert is_within(None, Count | None)
    assert is_within((1, 2), tuple[Count, ...])
    assert not is_within([1, 0], tuple[Count, ...])
    assert is_within(True, bool)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PointingGame(tolerance=-5.0),
        lambda: PointingGame(tolerance=math.nan),
        lambda: SFAM(gamma=math.inf),
        lambda: PairChoice(count=0),
        lambda: PairChoice(seed=-1),
        lambda: PairChoice(per_class=0),
    ],
)
def test_in_python(make: Any) -> None:
    with pytest.raises(UserError, match=r"\w+\.\w+ is \S+: expected a number"):
        make()


def test_a_count_is_whole() -> None:
    assert [is_within(value, Count) for value in (2, 2.0, 1.5)] == [True, False, False]
    with pytest.raises(UserError, match=r"PairChoice.count is 1.5: expected a whole number of at least 1"):
        PairChoice(count=1.5)


def test_from_yaml() -> None:
    cfg = OmegaConf.create({"game": {"_target_": "sfam_bench.metrics.localisation.PointingGame", "tolerance": "NaN"}})
    cfg.game.tolerance = math.nan
    with pytest.raises(UserError, match=r"game.tolerance is nan: expected a number of at least 0"):
        build(cfg.game)


def test_a_field_without_a_range_is_finite() -> None:
    @dataclass
    class Plain:
        size: float = 1.0

    check_choices(Plain(-3.0))
    with pytest.raises(UserError, match=r"Plain.size is nan: expected a number that is finite"):
        check_choices(Plain(math.nan))
