"""Every block of code on the pages is run, composed or read, and every link of the built site leads somewhere."""

import importlib
import importlib.util
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from hydra import compose, initialize_config_dir
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mkdocs.commands.build import build as build_site
from mkdocs.config import load_config
from omegaconf import OmegaConf

from sfam_bench.app import guide
from sfam_bench.app.arguments import OPTIONS, to_settings
from sfam_bench.app.commands import track
from sfam_bench.app.commands.submit import VERBS
from sfam_bench.app.console import main as console
from sfam_bench.app.overrides import write_value
from sfam_bench.app.settings import check_fields, check_settings, resolve
from sfam_bench.app.sweeping import Sweep
from sfam_bench.datasets.planted.dataset import Planted
from sfam_bench.tracks.card import SubmissionCard
from tests.paths import ROOT

PAGES = {str(path.relative_to(ROOT)): path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}
CLASSES = ("python", "yaml", "sh", "text")  # text is what is printed, and is not run
TUTORIALS = (
    "docs/index.md",
    "docs/api.md",
    "docs/how-to/",
)  # whose commands are run, if they do not say that they take long
BEFORE = {"README.md": "docs/how-to/method.md"}  # a page that takes the files of another for written
LONG = re.compile(r"#.*\b(minutes?|hours?)\b")
FEWER = {  # images and pairs than a reader of the page has
    "experiment=planted": ("dataset.train_per_class=2", "dataset.test_per_class=3"),
    "pairs.count=12": ("pairs.count=8",),
}
EVALUATED = ("steps.intervals=2", "full_share=0", "passes.mode=eager")  # with fewer passes, none to find a fast mode
ABSENT = {"dataset=cub", "dataset=cars196", "dataset=sop", "experiment=cub"}  # real photos are not at hand
TO_SETTINGS = {"track": track.to_settings} | {name: partial(to_settings, name) for name in OPTIONS}
SEVERAL = ("explainer", "metric", "baseline")  # groups of which several files are chosen
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = guide.commands()


@dataclass
class Block:
    """A fence of a page; `title` is the file that it is, where it is one."""

    language: str
    text: str
    title: str = ""

    @classmethod
    def of(cls, token: Token) -> "Block":
        language, _, rest = token.info.strip().partition(" ")
        title = re.fullmatch(r'title="([\w./-]+)"', rest)
        assert title or not rest, f"not understood: {token.info}"
        return cls(language if token.type == "fence" else "indented", token.content, title[1] if title else "")


def blocks(path: Path) -> list[Block]:
    """All code of a page, in order."""
    return [Block.of(token) for token in MarkdownIt().parse(path.read_text()) if token.type in ("fence", "code_block")]


CODED = [name for name, path in PAGES.items() if blocks(path)]


@pytest.mark.parametrize("page", CODED)
def test_no_block_escapes(page: str) -> None:
    assert {block.language for block in blocks(PAGES[page])} <= set(CLASSES)


@dataclass
class Reader:
    """Somebody who follows a page to the letter, in a folder of their own."""

    page: str
    folder: Path
    run_script: Callable[..., tuple[int, str, str]]
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})

    def follow(self, block: Block) -> None:
        if block.title:
            (self.folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / block.title).write_text(block.text)
            importlib.invalidate_caches()
        match block.language:
            case "python" if not block.title:
                exec(compile(block.text, self.page, "exec"), self.names)
            case "python":
                compile(block.text, block.title, "exec")  # what uses it imports it
            case "yaml":
                self.settings(block)
            case "sh":
                for command, long in commands(block.text):
                    self.command(command, really=self.page.startswith(TUTORIALS) and not long)

    @property
    def search(self) -> list[str]:
        """Configs that the page has had the reader write."""
        return [f"hydra.searchpath=[file://{self.folder}/conf]"] if (self.folder / "conf").is_dir() else []

    def settings(self, block: Block) -> None:
        """A file of a group is composed and its targets are looked at; settings without a file must all exist."""
        node = yaml.safe_load(block.text)
        if block.title == "card.yaml":
            SubmissionCard.of(node, block.title)
            return
        if not block.title:
            with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
                merged = OmegaConf.merge(compose("submit"), node)
            check_settings(merged)
            check_fields(resolve(merged), self.page)
            return
        _, group, name = Path(block.title).with_suffix("").parts
        if group == "sweep":
            sweep = Sweep.of(name, node, self.folder / "sweep")
            for stage in sweep.stages:
                jobs = sweep.jobs(stage)
                of_value = {(key, str(value)): job for job in jobs for key, value in job.axes.items()}
                for job in {job.id: job for job in [jobs[0], *of_value.values()]}.values():
                    axes = [f"{key}={write_value(value)}" for key, value in job.axes.items()]
                    composed(stage, [*sweep.given, *axes], self.search)
            return
        assert "_target_" in str(node)
        check_fields(composed("evaluate", [f"{group}={f'[{name}]' if group in SEVERAL else name}"], self.search), name)

    def command(self, words: list[str], really: bool) -> None:
        match words:
            case ["srun", *rest]:
                self.command([word for word in rest if not word.startswith("--")], False)
            case ["python" | ".venv/bin/python", script, *arguments] if script.startswith("experiments/"):
                self.script(Path(script).stem, arguments, really)
            case ["python", "-m", "pytest", *arguments]:
                assert all((ROOT / word).exists() for word in arguments if word.startswith("tests/"))
            case ["python", "-m", module]:
                assert importlib.util.find_spec(module)
            case ["make", *arguments]:
                self.made(arguments)
            case ["sfam-bench", "models" | "explainers" | "datasets" | "tasks", *_] | [
                "sfam-bench",
                "metrics",
                "ls",
                *_,
            ]:
                assert console(words[1:]) == 0
            case ["source", "<(sfam-bench", "--completion)"]:
                assert console(["--completion"]) == 0
            case ["sfam-bench" | ".venv/bin/sfam-bench", command, *arguments] if command in COMMANDS:
                self.script(COMMANDS[command], arguments, really)
            case ["pip", "install", "--quiet", package]:
                assert set(re.findall(r"\[(\w+)\]", package)) <= set(PROJECT["optional-dependencies"])
            case ["export", *settings]:
                known = "".join(path.read_text() for path in (ROOT / "conf").rglob("*.yaml"))
                assert all(setting.split("=")[0] in known for setting in settings)
            case ["source", ".venv/bin/activate"]:
                pass
            case _:
                raise AssertionError(f"{self.page} has a command of an unknown kind: {shlex.join(words)}")

    def script(self, name: str, arguments: list[str], really: bool) -> None:
        if name in TO_SETTINGS:
            arguments = TO_SETTINGS[name](arguments)
        if not really or ABSENT & set(arguments):
            composed(name, arguments, self.search)
            return
        begun = [begin for begin in FEWER if any(given.startswith(begin) for given in arguments)]
        fewer = [*(word for begin in begun for word in FEWER[begin]), *(EVALUATED if name == "evaluate" else ())]
        code, out, err = self.run_script(name, *arguments, *fewer, *self.search)
        assert code == 0, err
        assert out
        for given in arguments:
            if name == "report" and given.startswith("out="):
                assert (self.folder / given.removeprefix("out=") / "index.html").is_file()

    def made(self, arguments: list[str]) -> None:
        """What make would do, said and not done; the scripts that it would run must compose."""
        found = subprocess.run(
            ["make", "--dry-run", "--no-print-directory", *arguments], cwd=ROOT, capture_output=True, text=True
        )
        assert found.returncode == 0, found.stderr
        parts = [part.strip() for line in found.stdout.splitlines() for part in line.split("&&")]
        first = {shlex.split(part)[1]: part for part in reversed(parts) if part.startswith(".venv/bin/sfam-bench ")}
        assert first or ".venv/bin/sfam-bench" not in found.stdout
        for part in first.values():  # of each script, since further ones differ in a value
            self.command(shlex.split(part), False)


def commands(text: str) -> Iterator[tuple[list[str], bool]]:
    """The commands of a shell block, and whether each says that it takes long."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words, bool(LONG.search(line))


def composed(script: str, arguments: list[str], search: list[str]) -> dict[str, Any]:
    """The config of a script with these arguments, resolved, with every setting and target of the right type."""
    return _composed(script, *arguments, *search)


@cache
def _composed(script: str, *arguments: str) -> dict[str, Any]:
    assert (ROOT / "experiments" / f"{script}.py").is_file()
    if script == "submit":
        assert arguments[0] in VERBS
        arguments = (f"verb={arguments[0]}", *arguments[1:])
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(script, list(arguments))
    check_settings(cfg)
    plain = resolve(cfg)
    check_fields(plain, script)
    return plain


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, run_script: Callable[..., tuple[int, str, str]]) -> Path:
    """The network of the quick start, after one epoch of few images."""
    folder = tmp_path_factory.mktemp("first") / "train"
    small = ("train.epochs=1", "dataset.train_per_class=1", "dataset.test_per_class=2")
    code, _, err = run_script("train", "experiment=planted", *small, f"run_dir={folder}")
    assert code == 0, err
    return folder


@pytest.fixture
def reader(
    page: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_script: Callable[..., tuple[int, str, str]],
) -> Iterator[Reader]:
    """A folder with two pictures and the network, where modules that the page writes can be imported."""
    shutil.copytree(trained, tmp_path / "results" / "first" / "train")
    for name, image_id in {"query": "test-0097-03", "reference": "test-0097-07"}.items():
        Planted(size=288).image(image_id).save(tmp_path / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    names = ("explainers", "metrics", "datasets", "models")
    packages = [importlib.import_module(f"sfam_bench.{name}") for name in names]
    for package in packages:
        own = str(tmp_path.joinpath(*package.__name__.split(".")))
        monkeypatch.setattr(package, "__path__", [*package.__path__, own])
    yield Reader(page, tmp_path, run_script)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            parent, _, last = name.rpartition(".")
            delattr(sys.modules[parent], last)
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("page", CODED)
def test_what_a_page_says_works(page: str, reader: Reader) -> None:
    written_before = [block for block in blocks(PAGES[BEFORE[page]]) if block.title] if page in BEFORE else []
    for block in [*written_before, *blocks(PAGES[page])]:
        reader.follow(block)


THEIRS = [block for block in blocks(PAGES["docs/coming-from.md"]) if block.title.startswith("theirs/")]
PACKAGES = {"oml": "open-metric-learning"}  # where it is not called as it is imported


@pytest.mark.slow
@pytest.mark.parametrize("block", THEIRS, ids=[Path(block.title).stem for block in THEIRS])
def test_the_line_of_another_library_runs(block: Block) -> None:
    package = Path(block.title).stem
    if not importlib.util.find_spec(package):
        pytest.skip(f"{package} is missing: pip install {PACKAGES.get(package, package)}")
    exec(compile(block.text, block.title, "exec"), {"__name__": "page"})


@pytest.mark.slow
@pytest.mark.parametrize(
    "block",
    [
        Block("sh", "frobnicate --all"),
        Block("sh", "make no-such-target"),
        Block("sh", "python experiments/evaluate.py no.such=setting"),
        Block("sh", "sfam-bench no-such"),
        Block("python", "1 / 0"),
        Block("yaml", "pairs: {cuont: 3}"),
        Block("yaml", "mine: {_target_: sfam_bench.explainers.sfam.SFAM, gama: 1}", "conf/explainer/mine.yaml"),
        Block("yaml", "trian: {}", "conf/sweep/mine.yaml"),
    ],
)
@pytest.mark.parametrize("page", ["docs/training.md"])
def test_what_is_wrong_is_found(page: str, reader: Reader, block: Block) -> None:
    with pytest.raises((Exception, SystemExit)):
        reader.follow(block)


# The site


class Links(HTMLParser):
    """What a page refers to, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []  # without a click
        self.without_alt: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag in ("a", "link") and "href" in given:
            (self.links if tag == "a" else self.loaded).append(given["href"])
        if "src" in given:
            self.loaded.append(given["src"])
        if tag == "img" and not given.get("alt"):
            self.without_alt.append(given["src"])


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as make docs does: a warning ends it."""
    folder = tmp_path_factory.mktemp("site")
    said: list[logging.LogRecord] = []
    listening = logging.Handler(logging.WARNING)
    listening.emit = said.append  # type: ignore[method-assign]
    logging.getLogger("mkdocs").addHandler(listening)
    try:
        with patch.dict(os.environ, {"NO_MKDOCS_2_WARNING": "1"}):
            config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
            config.plugins.on_startup(command="build", dirty=False)
            build_site(config)
    finally:
        logging.getLogger("mkdocs").removeHandler(listening)
    assert not said
    return folder


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Links]:
    return {path: Links(path.read_text()) for path in site.rglob("*.html")}


@pytest.mark.slow
def test_every_link_and_anchor_of_the_site_leads_somewhere(site: Path, pages: dict[Path, Links]) -> None:
    dead = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto", "data"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else set()
            known = not parts.fragment or target not in pages or unquote(parts.fragment) in anchors
            if not (target.is_file() and target.is_relative_to(site) and known):
                dead.append((path.relative_to(site).as_posix(), link))
    dead = [pair for pair in dead if pair[0] != "404.html"]  # whose links start at the root of a server
    assert not dead
    assert len(pages) > len(PAGES)


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: Path, pages: dict[Path, Links]) -> None:
    assert not [link for page in pages.values() for link in page.loaded if urlsplit(link).netloc]
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text()), path
    text = "".join(path.read_text() for path in pages)
    assert 'class="mermaid"' not in text  # which the theme would fetch a library for
    assert (site / "search" / "search_index.js").is_file()


@pytest.mark.slow
def test_every_picture_says_what_it_shows(pages: dict[Path, Links]) -> None:
    assert not [src for page in pages.values() for src in page.without_alt]


@pytest.mark.slow
def test_formulas_are_typeset_and_pictures_small(site: Path, pages: dict[Path, Links]) -> None:
    for name in ("methods", "metrics"):
        text = (site / f"{name}.html").read_text()
        assert text.count("<math ") > text.count("<h2 ")
        assert not re.search(r"\\\(|\\\[|\$\$", text)
    assert all(path.stat().st_size <= 40 * 1024 for path in (site / "images" / "methods").iterdir())


@pytest.mark.slow
def test_a_docstring_of_the_api_is_in_sections(site: Path) -> None:
    text = (site / "api.html").read_text()
    assert text.count("Raises:") >= 4
    lines = re.findall(r"<p>reads_reference: ", text)
    assert not lines, "the fields of Card are a list"


def test_every_question_of_the_faq_has_an_anchor() -> None:
    text = PAGES["docs/faq.md"].read_text()
    assert len(re.findall(r"^### ", text, re.MULTILINE)) > 20
    assert not re.findall(r"^\*\*", text, re.MULTILINE)


def test_each_page_is_once_in_the_menu() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text().partition("nav:")[2])
    listed = re.findall(r"[\w/-]+\.md", str(menu))
    assert sorted(f"docs/{name}" for name in listed) == sorted(set(PAGES) - {"README.md"})


# CITATION.cff


def test_the_citation_is_that_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert cited["version"] == PROJECT["version"]
    assert cited["license"] == PROJECT["license"]
    assert {"message", "title", "authors", "type"} <= set(cited)
    (paper,) = cited["references"]
    assert paper["identifiers"][0]["value"] in (ROOT / "docs" / "sfam.md").read_text()
