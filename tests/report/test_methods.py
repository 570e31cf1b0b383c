"""The table and the cards say what docstrings, fields and measurements say."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
import yaml
from latex2mathml.converter import convert

from sfam_bench.core.method_card import Card, field_notes, formula_and_source, remarks
from sfam_bench.evaluation.named import find_object
from sfam_bench.report.tables.methods import (
    definition_lines,
    definitions,
    left_out,
    method_table,
    methods_page,
    plain_text,
)
from tests.conftest import ROOT


@dataclass(frozen=True)
class Made:
    """sum_k w_k A_k; w by hand; Nobody et al., 2020, eq. 1.

    A remark: over
    two lines.

    power, base: of the weights; one
        sentence | more.
    relu: drop what is negative.
    """

    card: ClassVar[Card] = Card(reads_reference=False, margin=False, total="score", degenerate=("it says <nothing>",))

    power: float = 1.0
    base: float | None = None
    relu: bool = True


def test_the_docstring_is_taken_apart() -> None:
    assert formula_and_source(Made) == ("sum_k w_k A_k; w by hand", "Nobody et al., 2020, eq. 1")
    assert remarks(Made) == "A remark: over two lines."
    note = "of the weights; one sentence | more."
    assert field_notes(Made) == {"power": note, "base": note, "relu": "drop what is negative."}


def test_the_table_has_what_was_measured_and_nothing_else() -> None:
    found = {"forwards": 2113.0, "backwards": 0.5, "milliseconds": 1.2345, "residual": 3.2e-6}
    table = method_table({"made": Made, "other": Made}, {"made": found}).set_index("method")
    row = table.loc["made"]
    assert [row[name] for name in ("forward", "backward", "ms per map", "residual")] == ["2113", "0.5", "1.23", "3e-06"]
    assert [row[name] for name in ("targets", "uses reference", "sums to")] == ["similarity", "no", "the score"]
    exact = method_table({"made": Made}, {"made": {"residual": 0.0}})
    assert exact["residual"].tolist() == ["<1e-07"]
    assert [table.loc["other", name] for name in ("forward", "ms per map", "residual")] == ["", "", ""]


def test_the_page_has_a_card_that_markdown_leaves_alone() -> None:
    page = methods_page({"made": Made}, {}, "nothing")
    assert "## made" in page
    assert all(f"\n- {plain_text(name)}: " in page for name in left_out())
    assert r"sum\_k w\_k A\_k" in page
    assert "| `base` | `null` | of the weights; one sentence \\| more. |" in page
    assert "- it says &lt;nothing>" in page
    assert "made.png" not in page
    assert "(images/methods/made.png)" in methods_page({"made": Made}, {}, "nothing", {"made"})
    assert "Ignores the reference; signed; sums to the score; no margin target." in page


@pytest.mark.parametrize("group", ["explainer", "metric"])
def test_every_class_of_conf_has_a_formula(group: Literal["explainer", "metric"]) -> None:
    names = {key for file in (ROOT / "conf" / group).glob("*.yaml") for key in yaml.safe_load(file.read_text())}
    kinds = {type(find_object(group, name)) for name in names}
    assert {kind.__name__ for kind in kinds} <= set(definitions())
    if group == "metric":
        titles = [definitions()[kind.__name__]["title"] for kind in kinds]
        assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", definitions())
def test_a_formula_is_latex(name: str) -> None:
    known = definitions()[name]
    for formula in [known["formula"], *known["where"].split("$")[1::2]]:
        found = convert(formula)
        assert "\\" not in found, "a command that latex2mathml does not know"
    assert known["where"].count("$") % 2 == 0


def test_a_class_without_a_formula_has_its_docstring() -> None:
    assert definition_lines(Made, "sum_k w_k") == [r"sum\_k w\_k", ""]
