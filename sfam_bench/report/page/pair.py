"""Pairs as HTML: a fragment for notebooks, or one page with embedded images, without scripts."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from sfam_bench.report.figures.colours import overlay
from sfam_bench.report.figures.pair import Sheet
from sfam_bench.report.names import to_prose
from sfam_bench.report.page.page import load_template


def render_fragment(sheets: Sequence[Sheet]) -> str:
    """A table for each sheet: a column for each image, a row for each method; all strings are escaped."""
    return load_template("pair.html.j2").render(sheets=[_table(sheet) for sheet in sheets], title="", whole=False)


def render_pairs(sheets: Sequence[Sheet], title: str) -> str:
    """The same as a page of its own."""
    return load_template("pair.html.j2").render(sheets=[_table(sheet) for sheet in sheets], title=title, whole=True)


def image_uri(image: np.ndarray) -> str:
    """An image, uint8 (rows, cols, 3), as a JPEG in a data URI."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _table(sheet: Sheet) -> dict[str, Any]:
    images = [(title, image_uri(image)) for title, image in sheet.images.items()]
    rows = []
    for panel in sheet.panels:
        cells = []
        for (title, image), raw in zip(sheet.images.items(), panel.maps, strict=True):
            uri = image_uri(overlay(image, raw, sheet.colormap, sheet.alpha)) if raw.any() else ""
            cells.append({"uri": uri, "text": f"map of the {title} by {panel.name}"})
        rows.append({"name": to_prose(panel.name), "lines": panel.lines, "cells": cells})
    return {"title": sheet.title, "lines": sheet.lines, "images": images, "rows": rows, "note": sheet.note}
