"""One page that holds everything: tables, figures as data URIs, and how to read them."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from sfam_bench.report.names import place, words
from sfam_bench.report.tables import Table

LIMIT = 15_000_000  # bytes of a page that still opens at once
MARGIN = 1_000_000  # of these for everything but pictures


@dataclass(frozen=True)
class Picture:
    """A figure of a section, as a data URI, or as a mere name where the page would grow too large."""

    name: str
    caption: str
    uri: str | None


@dataclass(frozen=True)
class Section:
    """All that one (dataset, model, target) has to show."""

    title: str
    anchor: str
    protocol: Sequence[tuple[str, str]]
    tables: Sequence[Table]
    differences: Sequence[Table]
    flagged: Table | None
    pictures: Sequence[tuple[Path, str]]  # file and caption


def render(
    sections: Sequence[Section], comparison: Sequence[Table], metrics: Sequence[str], meta: Section | None = None
) -> str:
    """The page; every text is escaped, nothing is loaded from elsewhere."""
    templates = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    meanings = [(words(metric), place(metric)[3]) for metric in metrics if place(metric)[3]]
    pictures = _embedded([*sections, *([meta] if meta else [])])
    return environment.get_template("index.html.j2").render(
        sections=sections, comparison=comparison, meanings=meanings, pictures=pictures, meta=meta
    )


def _embedded(sections: Sequence[Section]) -> dict[str, list[Picture]]:
    """The pictures of each section by its anchor, embedded in order until the page is full."""
    left = LIMIT - MARGIN
    found: dict[str, list[Picture]] = {section.anchor: [] for section in sections}
    for section in sections:
        for path, caption in section.pictures:
            uri = data_uri(path)
            fits = len(uri) <= left
            left -= len(uri) if fits else 0
            found[section.anchor].append(Picture(path.name, caption, uri if fits else None))
    return found


def data_uri(path: Path) -> str:
    """A picture as a data URI: photographs as JPEG, which is a fifth of their PNG, where that is smaller."""
    png, jpeg = path.read_bytes(), io.BytesIO()
    Image.open(path).convert("RGB").save(jpeg, format="JPEG", quality=88)
    kind, content = ("jpeg", jpeg.getvalue()) if len(jpeg.getvalue()) < len(png) else ("png", png)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
