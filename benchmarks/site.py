"""A hook of mkdocs: files outside docs/ that pages link to become pages of the site, and LaTeX becomes MathML."""

import posixpath
import re
from functools import partial
from html import escape, unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

OUTWARD = re.compile(r"(?<=\]\()((?:\.\./)+)([\w./-]+)(?=\))")
FORMULA = re.compile(r"\\\((.+?)\\\)(?=</span>)|\\\[(.+?)\\\](?=</div>)", re.DOTALL)  # as arithmatex leaves it
SHOWN = {".py": "python", ".json": "json", "": "text"}  # as pages; what is none of these is taken as it is


def on_files(files: Files, /, *, config: MkDocsConfig) -> Files:
    """Add the files and folders that pages link to, each once."""
    root = Path(config.config_file_path).parent
    for page in list(files.documentation_pages()):
        for target in outward(page.src_uri, page.content_string):
            place = root / target
            if not place.exists() or not place.resolve().is_relative_to(root):
                raise PluginError(f"docs/{page.src_uri} links to {target}, which is not there")
            within = [path for path in place.iterdir() if path.is_file()] if place.is_dir() else []
            for path in [*within, place]:
                added = as_file(config, root, path)
                if added.src_uri not in files.src_uris:
                    files.append(added)
    return files


def on_page_markdown(markdown: str, /, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links out of docs/ to where their files now are."""
    here = posixpath.dirname(page.file.src_uri)

    def within(found: re.Match[str]) -> str:
        target = resolved(page.file.src_uri, found[0])
        return found[0] if target is None else posixpath.relpath(named(config, target), here or ".")

    return OUTWARD.sub(within, markdown)


def on_page_content(html: str, /, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert formulas to MathML, which browsers render without a script."""

    def typeset(found: re.Match[str]) -> str:
        return convert(unescape(found[1] or found[2]).strip(), display="inline" if found[1] else "block")

    return FORMULA.sub(typeset, html)


def outward(page: str, markdown: str) -> list[str]:
    """What a page links to outside docs/, from the root of the repository."""
    targets = (resolved(page, found[0]) for found in OUTWARD.finditer(markdown))
    return [target for target in targets if target is not None]


def resolved(page: str, link: str) -> str | None:
    """A link of a page from the root of the repository; None where it stays within docs/."""
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if target.startswith("docs/") else target


def named(config: MkDocsConfig, target: str) -> str:
    """The file of the site that stands for one of the repository."""
    place = Path(config.config_file_path).parent / target
    if place.is_dir():
        return f"{target}/index.md"
    return f"{target}.md" if place.suffix in SHOWN else target


def as_file(config: MkDocsConfig, root: Path, path: Path) -> File:
    """A folder as a list, code as a page, anything else as it is."""
    target = path.relative_to(root).as_posix()
    make = partial(File.generated, config, named(config, target), inclusion=InclusionLevel.NOT_IN_NAV)
    if path.is_dir():
        return make(content=hidden(target, "\n".join(listed(config, entry) for entry in sorted(path.iterdir()))))
    if path.suffix in SHOWN:
        return make(content=hidden(target, f"````{SHOWN[path.suffix]}\n{path.read_text()}\n````"))
    if path.suffix == ".md":
        return make(content=path.read_text())
    return make(abs_src_path=str(path))


def listed(config: MkDocsConfig, entry: Path) -> str:
    """A line of a folder's list; folders within it are named and left out, since they may be large."""
    name = escape(entry.name)
    return f"- {name}/" if entry.is_dir() else f"- [{name}]({posixpath.basename(named(config, str(entry)))})"


def hidden(title: str, text: str) -> str:
    """A page by itself, which the search leaves out."""
    return f"---\nsearch:\n  exclude: true\n---\n\n# {title}\n\n{text}\n"
