"""One page that holds everything: tables, figures as data URIs, and how to read them."""

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.names import Named, slug
from sfam_bench.report.page.answer import Answer
from sfam_bench.report.page.explorer import build_explorer, metric_groups, to_json
from sfam_bench.report.tables.tables import Table
from sfam_bench.runs.reader import Run

LIMIT = 24_000_000  # bytes of a page that still opens at once
MARGIN = 1_000_000  # of these for everything but pictures and pairs
SCRIPTS = ("export.js", "report.js", "drawing.js", "explorer.js", "start.js")


@dataclass(frozen=True)
class Picture:
    """A figure of a section, as a data URI, or only its name if the page would grow too large."""

    name: str
    caption: str
    uri: str | None


@dataclass(frozen=True)
class Section:
    """The part of the page for one (dataset, model, target)."""

    title: str
    anchor: str
    protocol: Sequence[tuple[str, str]]
    tables: Sequence[Table]
    differences: Sequence[Table]
    flagged: Table | None
    pictures: Sequence[tuple[Path, str]]  # file and caption
    answer: Answer | None = None
    headlines: Sequence[tuple[Path, str]] = ()  # the pictures of the answer


def load_template(name: str) -> Template:
    """A template of this package, with autoescaping."""
    folder = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(name)


def render_page(
    sections: Sequence[Section],
    comparison: Sequence[Table],
    catalogue: Catalogue,
    metrics: Sequence[str],
    meta: Section | None = None,
    runs: Sequence[Run] = (),
    named: Named = slug,
) -> str:
    """Render the page; all strings are escaped, nothing is loaded from other sites."""
    meanings = [(catalogue.label(metric), text) for metric in metrics if (text := catalogue.meaning(metric))]
    pictures = _embed_pictures([*sections, *([meta] if meta else [])])
    spent = sum(len(shown.uri or "") for some in pictures.values() for shown in some)
    explorer = build_explorer(runs, LIMIT - MARGIN - spent, named)
    data = {"metric-groups": to_json(metric_groups(catalogue, metrics))}
    if explorer:
        data |= {"explorer-index": to_json(explorer.index), **explorer.blocks}
    style, script = _file("report.css"), f'(() => {{\n"use strict";\n{"".join(map(_file, SCRIPTS))}}})();\n'
    return load_template("index.html.j2").render(
        **{"sections": sections, "comparison": comparison, "meanings": meanings, "pictures": pictures, "meta": meta},
        **{"explorer": explorer, "blocks": {name: Markup(text) for name, text in data.items()}},
        **{"style": Markup(style), "script": Markup(script), "policy": _policy(style, script)},
    )


def _file(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """The content security policy: only embedded pictures, style and script."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    own = f"style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'"
    return f"default-src 'none'; img-src data:; {own}; base-uri 'none'; form-action 'none'"


def _embed_pictures(sections: Sequence[Section]) -> dict[str, list[Picture]]:
    """The pictures of each answer and section by its anchor, embedded in order up to the size limit of the page."""
    left = LIMIT - MARGIN
    shown = {f"answer-{section.anchor}": section.headlines for section in sections}
    shown |= {section.anchor: section.pictures for section in sections}
    found: dict[str, list[Picture]] = {}
    for anchor, pictures in shown.items():
        found[anchor] = []
        for path, caption in pictures:
            uri = data_uri(path)
            fits = len(uri) <= left
            left -= len(uri) if fits else 0
            found[anchor].append(Picture(path.name, caption, uri if fits else None))
    return found


def data_uri(path: Path) -> str:
    """A picture as a data URI, as JPEG if that is smaller (photographs: a fifth of the PNG)."""
    png, jpeg = path.read_bytes(), io.BytesIO()
    Image.open(path).convert("RGB").save(jpeg, format="JPEG", quality=88)
    kind, content = ("jpeg", jpeg.getvalue()) if len(jpeg.getvalue()) < len(png) else ("png", png)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
