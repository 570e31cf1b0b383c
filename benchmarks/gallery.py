"""Draw the picture of docs/gallery.md, the maps of all methods on two pairs.

python -m benchmarks.gallery MODEL.safetensors
"""

import math
import sys
from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from benchmarks.concepts import OTHER_PARTIAL, OUT, PARTIAL, QUERY, SEEN, bird, map_of_each, show
from sfam_bench.core.method_card import card_of
from sfam_bench.core.similarity import Cosine
from sfam_bench.evaluation.named import find_object
from sfam_bench.models.build import build
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP
from sfam_bench.report.figures.colours import overlay

COLUMNS = 6  # methods in a row


def main(checkpoint: str) -> int:
    """Draw it."""
    model = build("planted_net", planted_net(), GAP(), Cosine(), checkpoint=checkpoint, image_size=SEEN.size)
    maps = dict(map_of_each(model))
    blind = {name for name in maps if card_of(find_object("explainer", name)).blind}
    content = BytesIO()
    draw_gallery(maps, blind).savefig(content, dpi=110, facecolor="white")
    path = OUT / "gallery.jpg"
    Image.open(content).convert("RGB").save(path, quality=82, optimize=True)
    print(f"{path}: {len(maps)} methods, {path.stat().st_size / 1000:.0f} kB")
    return 0


def draw_gallery(maps: Mapping[str, Sequence[NDArray[np.float32]]], blind: set[str]) -> Figure:
    """The two pairs, then for each method its maps of the query for either reference."""
    rows = 1 + math.ceil(len(maps) / COLUMNS)
    figure = Figure(figsize=(2.1 * COLUMNS, 1.2 * rows), layout="constrained")
    panels = figure.subplots(rows, 2 * COLUMNS)
    for axes in panels.flat:
        axes.axis("off")
    shown = {QUERY: "query", PARTIAL: "reference 1:\nsame crest", OTHER_PARTIAL: "reference 2:\nsame tail"}
    for axes, (image_id, title) in zip(panels[0], shown.items(), strict=False):
        show(axes, bird(image_id), title)
    for place, (name, found) in enumerate(sorted(maps.items(), key=lambda item: (item[0] in blind, item[0]))):
        row, column = divmod(place, COLUMNS)
        for side, raw in enumerate(found):
            show(panels[1 + row, 2 * column + side], overlay(bird(QUERY), raw))
        title = f"{name}{' (blind)' if name in blind else ''}"
        panels[1 + row, 2 * column].set_title(title, loc="left", fontsize=8)  # over both maps
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
