"""What every metric of conf/metric says of itself, held to what it does; and the page that is made of it."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from sfam_bench.core.errors import UserError
from sfam_bench.core.metric_card import (
    Described,
    Limits,
    MetricCard,
    list_needs,
    measures_and_source,
    metric_card,
    metric_facts,
    passes_a_map,
    settings,
)
from sfam_bench.core.targets import Similarity
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.metrics.localisation import EnergyPointingGame
from sfam_bench.metrics.perturbation import Perturbation, Trapezoid
from sfam_bench.metrics.shared.base import Explained, Scene
from sfam_bench.models.similarity_model import encode_pairs
from sfam_bench.report.tables.metrics import format_interval, metric_table, metrics_page
from tests.contract import FILES, SETUPS, SIZE, build_entries, entries, gallery, pairs, tiny

UNSOURCED: set[str] = set()
METRICS = [name for group, name in FILES if group == "metric"]
FIRST_LINE = 'the first line of the docstring must be "what it measures; source.", or "...; defined here."'
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def scene() -> Scene:
    model, batch = tiny(*SETUPS[0]), pairs()
    encoded = encode_pairs(model, Similarity(), batch.query, batch.reference)
    return Scene(model, encoded, batch, gallery=gallery(model, batch))


@pytest.mark.parametrize("name", METRICS)
def test_the_first_line_of_the_docstring_says_what_it_measures_and_after_whom(name: str) -> None:
    for key, metric in build_entries("metric", name).items():
        measures, source = measures_and_source(type(metric))
        assert measures, f"{key}: {FIRST_LINE}"
        assert source or type(metric).__name__ in UNSOURCED, f"{key}: {FIRST_LINE}"


def test_every_metric_says_what_tables_need_and_no_two_the_same() -> None:
    facts = metric_facts({key: metric for name in METRICS for key, metric in build_entries("metric", name).items()})
    for key, said in facts.items():
        assert said["group"] not in ("Others", "Cost"), key
        assert said["meaning"], key
        assert said["role"] == "score" or said["higher_is_better"] is None, key
    assert len({said["label"] for said in facts.values()}) == len(facts)
    levels = [said["chance"] for said in facts.values() if "chance" in said]
    assert sorted(levels) == sorted(key for key, said in facts.items() if said["role"] == "chance")


def test_a_chance_level_is_that_of_the_same_settings_or_names_its_score() -> None:
    found = metric_facts(
        {
            "share": EnergyPointingGame(),
            "ratio": EnergyPointingGame(value="ratio"),
            "box": EnergyPointingGame("box"),
            "level": EnergyPointingGame(value="chance", higher_is_better=None),
            "mine": Described(MetricCard(role="chance", of="box")),
        }
    )
    assert {key: facts.get("chance") for key, facts in found.items()} == {
        **{"share": "level", "box": "mine"},
        **dict.fromkeys(("ratio", "level", "mine")),
    }


def test_a_group_that_no_table_has_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"MetricCard\.group is 'Faith': choose one of Metrics that depend on the pair, "
    ):
        MetricCard.__post_init__(SimpleNamespace(group="Faith", role="score"))  # no type checker stands before it


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("offset", [-0.3, 0.0, -1.0])
def test_values_lie_in_the_range_that_the_card_states(name: str, offset: float, scene: Scene) -> None:
    maps = (torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(1)) + offset).clamp(-1, 1)
    for key, metric in build_entries("metric", name).items():
        low, high = metric_card(metric).range or (-inf, inf)
        values = metric(Explained(scene, maps, "sfam", maps, SFAM())).values
        kept = values[values.isfinite()]
        assert (kept >= low - ROUNDING).all(), key
        assert (kept <= high + ROUNDING).all(), key


@dataclass(frozen=True)
class Made:
    """What is measured; with a twist; Nobody et al., 2020.

    A remark on `some_thing`, which is a*b.

    power: of a_b.
    """

    card: ClassVar[MetricCard] = MetricCard((0, inf), needs=("a gallery",), remakes=2, degenerate=("it is <0>",))
    needs: ClassVar[tuple[str, ...]] = ("same_class", "other_class")
    higher_is_better: bool | None = False

    power: float | None = None


def test_the_docstring_is_taken_apart() -> None:
    assert measures_and_source(Made) == ("What is measured; with a twist", "Nobody et al., 2020")
    assert settings(Made()) == {"power": "null"}
    assert list_needs(Made()) == ["other references", "a gallery"]


def test_passes_are_those_of_all_probes_by_the_share_of_pairs() -> None:
    assert passes_a_map(Made(), 100) == 0
    assert passes_a_map(Perturbation("insertion_minus_deletion", steps=Trapezoid(4)), 100) == 2 * 3
    found = build_entries("metric", "deletion")["deletion_mean_colour_area_error"]
    assert passes_a_map(found, 224**2) == pytest.approx(0.02 * (223 + 20))


@pytest.mark.parametrize(
    ("limits", "text"), [(None, ""), ((0, 1), "[0, 1]"), ((0, inf), "[0, inf)"), ((-inf, inf), "(-inf, inf)")]
)
def test_an_interval_is_open_where_there_is_no_bound(limits: Limits | None, text: str) -> None:
    assert format_interval(limits) == text


def test_the_table_has_a_row_for_each_metric_and_the_page_a_card_for_each_kind() -> None:
    chosen = {"one": Made(), "two": Made(power=2.0, higher_is_better=True)}
    table = metric_table(chosen, 100).set_index("metric")
    assert table.loc["one"].to_dict() == {
        **{"label": "one", "table": "Others"},
        **{"better": "lower", "range": "[0, inf)", "needs": "other references, a gallery", "passes": "0", "maps": "2"},
        **{"source": "Nobody et al., 2020", "measures": "What is measured; with a twist"},
    }
    page = metrics_page(chosen, 100)
    assert page.count("## Made") == 1
    assert "[two](#made) | two | Others | higher" in page
    assert "| two | 2.0 |" in page
    assert r"A remark on `some_thing`, which is a\*b." in page
    assert r"| `power` | `null` | of a\_b. |" in page
    assert "- it is &lt;0>" in page
    assert "10 x 10 pixels" in page


@pytest.mark.slow
def test_the_script_prints_the_table_and_writes_the_page(
    run_script: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    chosen = f"metric=[{','.join(METRICS)}]"
    code, out, err = run_script("metrics", "model=lite0", chosen, f"out={tmp_path / 'metrics.md'}")
    assert code == 0, err
    page = (tmp_path / "metrics.md").read_text()
    for name in (key for file in METRICS for key in entries("metric", file)):
        assert name in out
        assert f"| [{name}](#" in page
    assert "224 x 224 pixels" in page
