"""The figures of a benchmark as a picture."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

COLOURS = {"lite0": "#0072B2", "resnet50": "#D55E00"}  # Okabe and Ito: told apart without red and green
LABELS = {"lite0": "EfficientNet-Lite0", "resnet50": "ResNet-50"}


def draw(results: Path) -> None:
    """Ratios with their ranges, as SVG and PNG beside the JSON."""
    figures = json.loads(results.read_text())["figures"]
    names = [name for name in LABELS if name in figures]
    labels = list(rows(figures[names[0]]))
    figure = Figure(figsize=(8, 0.5 * len(labels) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for number, name in enumerate(names):
        found = rows(figures[name])
        places = [len(labels) - 1 - k + 0.16 * (1 - 2 * number) for k in range(len(labels))]
        middle = [found[label]["median"] for label in labels]
        ends = [found[label]["high"] for label in labels]
        below = [m - found[label]["low"] for m, label in zip(middle, labels, strict=True)]
        above = [end - m for end, m in zip(ends, middle, strict=True)]
        style: dict[str, Any] = {"fmt": "os"[number], "color": COLOURS[name], "capsize": 3, "markersize": 5}
        axes.errorbar(middle, places, xerr=[below, above], label=LABELS[name], **style)
        for value, place, right in zip(middle, places, ends, strict=True):
            axes.annotate(f"{value:.3g} x", (right, place), (6, -3), textcoords="offset points", fontsize=8)
    axes.axvline(1, color="0.6", linewidth=0.8)
    axes.set_yticks(range(len(labels) - 1, -1, -1), labels)
    axes.set_xscale("log")
    axes.set_xlim(0.8, axes.get_xlim()[1] * 1.3)
    axes.xaxis.set_major_formatter("{x:g} x")
    axes.set_xlabel("times as fast as the peer (median and range of paired rounds; log scale)")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with mpl.rc_context({"svg.hashsalt": "sfam_bench", "svg.fonttype": "none"}):
        figure.savefig(results.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(results.with_suffix(".png"), dpi=150)


def rows(of_model: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What stands in the picture, from top to bottom."""
    mode = of_model["passes"]["mode"]
    curves, maps = of_model["curves"], of_model["maps"]["speed_up"]
    return {
        "a pass, against eager one by one": of_model["rates"]["speed_up"][mode],
        "curves at 224 steps, against RISE": curves["speed_up_at_the_same_steps"],
        "curves at 20 points, against RISE": curves["speed_up_at_our_points"],
        **{f"maps, against {peer}": found for peer, found in maps.items()},
    }
