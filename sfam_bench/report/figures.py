"""Pictures: the maps of a few pairs, and every explainer's mean with its interval."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from sfam_bench.report.names import (
    COMPARED,
    arrow,
    chance_of,
    group,
    slug,
    sort_explainers,
    sort_metrics,
    words,
)
from sfam_bench.statistics import FACTS
from sfam_bench.store import Run, image_path, read_maps

SHEET = 5  # explainers on one sheet of the gallery
ROUNDING = 1e-5  # as in maps.py: range over largest magnitude below which a map is flat
METHOD, CONTROL, REFERENCE = "#0072B2", "#7f7f7f", "#D55E00"  # Okabe and Ito's blue and vermilion, and grey
PLAIN: dict[str, Any] = {"parse_math": False}  # names may hold dollar signs


def gallery(run: Run, out: Path, pairs: int = 6) -> list[Path]:
    """Sheets of pairs by explainers in the folder `out`; none if the run kept no maps or images."""
    chosen = _with_images(run, pairs)
    maps = read_maps(run.root, {(row["query_id"], row["reference_id"]) for row in chosen})
    names = dict.fromkeys(name.rpartition("/")[0] for name in maps if "/" in name)
    explainers = sort_explainers([*names], run.manifest.get("blind") or ())
    if not chosen or not explainers:
        return []
    stem = slug("gallery", *(str(run.manifest.get(name, "")) for name in ("dataset", "model", "target")))
    paths = []
    for number, start in enumerate(range(0, len(explainers), SHEET), 1):
        path = out / f"{stem}-{number}.png"
        _sheet(run, chosen, maps, explainers[start : start + SHEET]).savefig(path, dpi=130)
        paths.append(path)
    return paths


def _with_images(run: Run, count: int) -> list[dict[str, Any]]:
    """The first pairs whose images were kept, of each kind in turn."""
    there = {path.name for path in (run.root / "images").glob("*.png")}
    rows = run.pairs.drop_duplicates(["query_id", "reference_id"]).to_dict("records")
    kept: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if all(image_path(run.root, row[side]).name in there for side in ("query_id", "reference_id")):
            kept.setdefault(row["kind"], []).append({str(name): value for name, value in row.items()})
    in_turn = (row for rank in zip_longest(*kept.values()) for row in rank if row is not None)
    return sorted(
        [row for row, _ in zip(in_turn, range(count), strict=False)], key=lambda row: [*kept].index(row["kind"])
    )


def _sheet(
    run: Run, chosen: Sequence[Mapping[str, Any]], maps: Mapping[str, np.ndarray], names: Sequence[str]
) -> Figure:
    place = {
        pair: row for row, pair in enumerate(zip(maps["query_id"].tolist(), maps["reference_id"].tolist(), strict=True))
    }
    widths = [1.0, 1.0, *[gap for _ in names for gap in (0.08, 1.0, 1.0)]]
    left, top, bottom, size = 1.6, 0.62, 0.3, 1.2
    width, height = left + size * sum(widths) + 0.05, top + bottom + size * len(chosen)
    figure = Figure(figsize=(width, height))
    box = {"left": left / width, "right": 1 - 0.05 / width, "top": 1 - top / height, "bottom": bottom / height}
    grid = figure.add_gridspec(len(chosen), len(widths), width_ratios=widths, wspace=0.04, hspace=0.04, **box)
    for number, pair in enumerate(chosen):
        sides = ("query", "reference")
        pixels = [np.asarray(Image.open(image_path(run.root, pair[f"{side}_id"])).convert("RGB")) for side in sides]
        where = place.get((pair["query_id"], pair["reference_id"]))
        for column, image in enumerate(pixels):
            axes = _bare(figure.add_subplot(grid[number, column]), sides[column] if number == 0 else "")
            axes.imshow(image)
            if column == 0:
                axes.text(
                    -0.06, 0.5, _caption(pair), transform=axes.transAxes, ha="right", va="center", fontsize=8.5, **PLAIN
                )
        for at, name in enumerate(names):
            for column, (side, image) in enumerate(zip(sides, pixels, strict=True)):
                axes = _bare(figure.add_subplot(grid[number, 3 * at + 3 + column]), side if number == 0 else "")
                raw = maps.get(f"{name}/{side}")
                _show(axes, image, None if raw is None or where is None else raw[where])
                if number == 0 and column == 0:
                    axes.text(
                        1.02, 1.25, name, transform=axes.transAxes, ha="center", fontsize=11, weight="bold", **PLAIN
                    )
    note = (
        "Maps over their own image, divided by their largest magnitude: to yellow for the similarity, blue against it."
    )
    figure.text(box["left"], 0.07 / height, note, fontsize=9, color="#444444")
    return figure


def _caption(pair: Mapping[str, Any]) -> str:
    """Kind, score and classes beside a row."""
    classes = dict.fromkeys(str(pair[f"{side}_class"]) for side in ("query", "reference"))
    short = [name if len(name) <= 20 else f"{name[:19]}…" for name in classes]
    return "\n".join([words(str(pair["kind"])), f"score {pair['score']:.3f}", *short])


def _bare(axes: Axes, title: str) -> Axes:
    axes.set_axis_off()
    axes.set_title(title, fontsize=9, pad=2)
    return axes


def _show(axes: Axes, image: np.ndarray, raw: np.ndarray | None) -> None:
    """The map over its image, or a grey field with a word when there is nothing to see."""
    word = "no map" if raw is None else "flagged" if _is_flat(raw) else ""
    if raw is None or word:
        axes.imshow(np.full_like(image, 205))
        axes.text(0.5, 0.5, word, transform=axes.transAxes, ha="center", va="center", fontsize=9, color="#333333")
    else:
        axes.imshow(overlay(image, raw))


def _is_flat(raw: np.ndarray) -> bool:
    return not np.isfinite(raw).all() or not np.ptp(raw) > ROUNDING * np.abs(raw).max()


def overlay(image: np.ndarray, raw: np.ndarray) -> np.ndarray:
    """The image in grey under the map: inferno for positive values, blue for negative ones, opaque by magnitude."""
    rows, cols = image.shape[:2]
    scaled = Image.fromarray(np.ascontiguousarray(raw, dtype=np.float32)).resize(
        (cols, rows), Image.Resampling.BILINEAR
    )
    values = np.asarray(scaled) / np.abs(raw).max()
    grey = np.repeat(np.asarray(Image.fromarray(image).convert("L"), dtype=float)[..., None] / 255, 3, axis=-1)
    colour = np.where(
        values[..., None] > 0, mpl.colormaps["inferno"](values.clip(0, 1))[..., :3], mpl.colors.to_rgb(METHOD)
    )
    alpha = 0.8 * np.abs(values).clip(0, 1)[..., None]
    return np.asarray(255 * (alpha * colour + (1 - alpha) * grey)).astype(np.uint8)


def overview(summary: pd.DataFrame, metrics: Mapping[str, Mapping[str, Any]], out: Path) -> list[Path]:
    """A panel for each metric of one (dataset, model, target): means and 95 % intervals, as PNG and SVG in `out`."""
    own = summary[(summary["explainer"] != FACTS) & summary["higher_is_better"].notna() & (summary["count"] > 0)]
    names = [name for name in sort_metrics(own["metric"].drop_duplicates().tolist()) if group(name) in COMPARED]
    if not names:
        return []
    explainers, columns = own["explainer"].drop_duplicates().tolist(), min(4, len(names))
    explainers = sort_explainers(explainers, set(own.loc[own["blind"], "explainer"]))
    rows = -(-len(names) // columns)
    width, height = 1.2 + 2.3 * columns, 0.9 + rows * (0.62 + 0.19 * len(explainers))
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for name, axes in zip(names, grid.flat, strict=False):
        chance = summary.loc[summary["metric"] == chance_of(name, metrics), "mean"].mean()
        _panel(axes, own[own["metric"] == name], explainers, float(chance))
    dataset, model, target = (str(summary[name].iloc[0]) for name in ("dataset", "model", "target"))
    figure.suptitle(f"{dataset} · {model} · {target}", fontsize=10, **PLAIN)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=5, fontsize=7.5, frameon=False)
    paths = [out / f"{slug('overview', dataset, model, target)}.{kind}" for kind in ("png", "svg")]
    figure.savefig(paths[0], dpi=130)
    with mpl.rc_context({"svg.hashsalt": "sfam_bench"}):  # the same numbers give the same file
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def _panel(axes: Axes, part: pd.DataFrame, explainers: Sequence[str], chance: float) -> None:
    for row in part.to_dict("records"):
        blind = row["blind"]
        colour, place = (CONTROL if blind else METHOD), explainers.index(row["explainer"])
        axes.plot([row["low"], row["high"]], [place, place], color=colour, lw=1.4, solid_capstyle="round")
        face = "white" if blind else colour
        axes.plot(row["mean"], place, "s" if blind else "o", color=colour, markerfacecolor=face, ms=4 + 2 * row["best"])
        if row["explainer"] == "lafam":
            axes.axvline(row["mean"], color=REFERENCE, lw=0.9, ls=":", zorder=0)
    if np.isfinite(chance):
        axes.axvline(chance, color="black", lw=0.9, ls="--", zorder=0)
    title = words(part["metric"].iloc[0]) + arrow(part["higher_is_better"].iloc[0])
    axes.set_title(fill(title, 30), fontsize=8.5)
    axes.set_yticks(range(len(explainers)), [*explainers], fontsize=7.5, **PLAIN)
    axes.set_ylim(len(explainers) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="y", color="#eeeeee", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.locator_params(axis="x", nbins=4)


def _legend() -> list[Line2D]:
    return [
        Line2D([], [], color=METHOD, marker="o", ms=4, lw=1.4, label="method"),
        Line2D([], [], color=METHOD, marker="o", ms=6, lw=0, label="larger: best"),
        Line2D([], [], color=CONTROL, marker="s", ms=4, markerfacecolor="white", lw=1.4, label="blind to the pair"),
        Line2D([], [], color=REFERENCE, lw=0.9, ls=":", label="lafam"),
        Line2D([], [], color="black", lw=0.9, ls="--", label="chance level"),
    ]
