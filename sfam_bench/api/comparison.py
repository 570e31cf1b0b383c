"""Compare methods on one pair, or models: maps and values side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from sfam_bench.api.explanation import Explanation, save_sheets
from sfam_bench.api.maps import explain
from sfam_bench.api.models import find_model
from sfam_bench.api.pairs import Reference
from sfam_bench.api.values import score
from sfam_bench.core.errors import UserError, check_object
from sfam_bench.core.references import MEAN, Prototype
from sfam_bench.datasets.pictures import Corners, Picture, Region
from sfam_bench.evaluation.named import Explainers, Metrics
from sfam_bench.report.figures.pair import Sheet, pair_figure
from sfam_bench.report.page.pair import render_fragment

Models: TypeAlias = nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module] | None


@dataclass(frozen=True)
class Comparison:
    """What `compare` returns.

    Attributes:
        explanations: of each model by its name.
        scores: a row for each model and method, a column for each metric.
    """

    explanations: dict[str, Explanation]
    scores: pd.DataFrame

    @property
    def sheets(self) -> list[Sheet]:
        """What is drawn: a sheet for each model."""
        alone = len(self.explanations) == 1
        return [
            made.sheet(self.scores.loc[[name]].droplevel("model"), "" if alone else name)
            for name, made in self.explanations.items()
        ]

    def show(self, path: str | Path | None = None) -> Figure:
        """Draw images, maps and values, of each model below the other; saved as PNG or SVG by the suffix of `path`."""
        if path is not None:
            save_sheets(self.sheets, path, kinds=(".png", ".svg"))
        return pair_figure(self.sheets)

    def save(self, path: str | Path) -> None:
        """Write the figure (.png, .svg) or a page (.html); raises UserError for another suffix."""
        save_sheets(self.sheets, path)

    def _repr_html_(self) -> str:
        return render_fragment(self.sheets)


def compare(
    models: Models,
    query: Picture,
    reference: Reference,
    explainers: Explainers = None,
    metrics: Metrics = None,
    foreground: Region | None = None,
    box: Corners | None = None,
    background: str = "white",
    negative: Reference | None = None,
    how: Prototype = MEAN,
) -> Comparison:
    """Explain and measure one pair by several methods, or by several models, side by side.

    Args:
        models: a model, several, or a mapping from names to them; None for `default_model()`. Each reads the images by
            its own geometry.
        query: one image, as in `explain`.
        reference: as in `explain`.
        explainers: as in `explain`.
        metrics: as in `score`.
        foreground: as in `score`.
        box: as in `score`.
        background: colour behind transparent pixels.
        negative: as in `explain`.
        how: as in `explain`.

    Returns:
        The explanations by model, and one table of values. A notebook displays images, maps and values.

    Raises:
        UserError: as `explain` and `score`, and if two models have one name.
    """
    explanations, tables = {}, {}
    for name, model in _named(models).items():
        explanations[name] = explain(model, query, reference, explainers, background, how, negative)
        tables[name] = score(model, query, reference, explainers, metrics, foreground, box, background, negative, how)
    first = next(iter(tables.values()))
    whole = pd.concat(tables, names=["model", "explainer"])
    whole.attrs = {
        "score": {name: table.attrs["score"] for name, table in tables.items()},
        "flags": {name: table.attrs["flags"] for name, table in tables.items()},
        "metrics": first.attrs["metrics"],
    }
    return Comparison(explanations, whole)


def _named(models: Models) -> dict[str, nn.Module]:
    check_object(models, "models", nn.Module, Sequence, Mapping, type(None))
    if isinstance(models, Mapping):
        found = {name: find_model(model) for name, model in models.items()}
    else:
        given = [models] if models is None or isinstance(models, nn.Module) else [*models]
        made = [find_model(model) for model in given]
        found = {model.name: model for model in made}
        if len(found) < len(made):
            names = ", ".join(model.name for model in made)
            raise UserError(f"the models are called {names}: give them as {{'name': model, ...}}")
    if not found:
        raise UserError("no model is given: give one, several, or None for the default")
    return dict(found)
