"""The page of a ranked list: the query's map for each result, and what changes from one result to the next."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sfam_bench.report.figures.colours import overlay
from sfam_bench.report.names import to_prose
from sfam_bench.report.page.page import load_template
from sfam_bench.report.page.pair import image_uri

NOTE = (
    "Each map lies over its own image and is divided by its own largest magnitude: yellow raises the value, blue "
    "lowers it, and colours of two maps are not on one scale. The value is the similarity to the result, and in the "
    "last column the similarity to the result minus that to the next result shown."
)


@dataclass(frozen=True)
class Shown:
    """One result; images are uint8 (rows, cols, 3), maps (rows, cols); zeros are flagged, None is absent.

    maps: for each method the query's map, the result's, and the query's over the next result shown.
    flags: for each method the reason for a map of the query that is all zeros, or "".
    """

    place: int
    name: str
    lines: Sequence[str]
    image: np.ndarray
    is_right: bool | None
    maps: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None]]
    flags: Sequence[str]


@dataclass(frozen=True)
class Cell:
    """A picture as a data URI with its description; or, without a picture, the reason."""

    uri: str | None
    text: str


def render_ranking(
    title: str,
    query: np.ndarray,
    facts: Sequence[tuple[str, str]],
    methods: Sequence[str],
    results: Sequence[Shown],
) -> str:
    """Render the page: all strings are escaped, images are embedded, and nothing is loaded or executed."""
    rows = []
    for shown in results:
        named = []
        for name, maps, flag in zip(methods, shown.maps, shown.flags, strict=True):
            what = f"{name}, result {shown.place}"
            over = (
                Cell(None, "last result shown")
                if maps[2] is None
                else _cell(query, maps[2], f"map of the query over the next by {what}", "")
            )
            cells = [
                _cell(query, maps[0], f"map of the query by {what}", flag),
                _cell(shown.image, maps[1], f"map of the result by {what}", flag),
                over,
            ]
            named.append((to_prose(name), cells))
        verdict = {None: "", True: "the query's class", False: "another class"}[shown.is_right]
        rows.append(
            {
                **{"place": shown.place, "name": shown.name, "lines": shown.lines, "methods": named},
                **{"image": image_uri(shown.image), "verdict": verdict, "is_right": shown.is_right},
            }
        )
    return load_template("ranking.html.j2").render(
        title=title, query=image_uri(query), facts=facts, note=NOTE, rows=rows
    )


def _cell(image: np.ndarray, raw: np.ndarray, text: str, flag: str) -> Cell:
    if not raw.any():
        return Cell(None, to_prose(flag) if flag else "no map: it is constant")
    return Cell(image_uri(overlay(image, raw)), text)
