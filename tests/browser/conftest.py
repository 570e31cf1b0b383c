"""A small run, its page, and a real browser that opens it from disk."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sfam_bench.core.metric_card import metric_facts
from sfam_bench.metrics.perturbation import Perturbation
from sfam_bench.metrics.selectivity import Selectivity
from sfam_bench.report.writer import write_report
from sfam_bench.runs.store import RunStore

HOSTILE = "<script>alert(1)</script>"
METHODS = ("sfam", "grad_cam", "lafam")
METRICS = metric_facts(
    {
        "selectivity_energy": Selectivity(),
        "insertion_minus_deletion_mean_colour": Perturbation("insertion_minus_deletion"),
        "deletion_mean_colour": Perturbation("deletion"),
    }
)
GRID, OTHER = (3, 4), (4, 5)  # of query and reference, unlike so that neither can pass for the other
PAIRS = 8
MATCH = (0.5, 0.25, 0.75, 0.125, -1.0)  # down and across in the query, in the reference, and the value
FAILED, FLAT = 2, 5  # numbers of pairs


def pairs_of_run() -> pd.DataFrame:
    """Eight pairs of four classes and two kinds."""
    rows = []
    for number in range(PAIRS):
        name = HOSTILE if number % 4 == 0 else f"bird {number % 4}"
        sides = {
            f"{side}_{what}": value
            for side in ("query", "reference")
            for what, value in {"id": f"{side[0]}/{number}", "label": number % 4, "class": name}.items()
        }
        kind = "partial_match" if number < 4 else "nearest_positive"
        rows.append({**sides, "negative_id": "", "kind": kind, "score": 0.9 - number / 100})
    return pd.DataFrame(rows)


def records_of_run(pairs: pd.DataFrame, model: str) -> pd.DataFrame:
    """Values in a known order: sfam worst on pair FAILED; grad_cam flagged on pair FLAT."""
    rows = []
    for number, pair in enumerate(pairs.to_dict("records")):
        where = {"dataset": "made", "model": model, "target": "similarity"}
        where |= {name: pair[name] for name in ("query_id", "reference_id")}
        for place, method in enumerate(METHODS):
            for metric in METRICS:
                value = -0.2 if number == FAILED and method == "sfam" else 0.5 - 0.1 * place + 0.01 * number
                flag = "constant_map" if number == FLAT and method == "grad_cam" else ""
                value = np.nan if flag else value
                rows.append({**where, "explainer": method, "metric": metric, "value": value, "flag": flag})
        rows.append({**where, "explainer": "pair", "metric": "s_full", "value": pair["score"], "flag": ""})
    return pd.DataFrame(rows)


def points_of_run() -> np.ndarray:
    """Position n of the query goes with position n + 1 of the reference alone."""
    whole = np.zeros((PAIRS, 12, 20), np.float16)
    whole[:, np.arange(12), np.arange(12) + 1] = 1 / 16
    return whole.reshape(PAIRS, *GRID, *OTHER)


def raw_map(grid: tuple[int, int], place: int) -> np.ndarray:
    """A map of both signs, unlike for each method."""
    made: np.ndarray = np.sin(np.arange(grid[0] * grid[1], dtype=np.float32) + place).reshape(grid)
    return made


@dataclass(frozen=True)
class Curve:
    """As sfam_bench.core.records.Curve, which needs torch."""

    explainer: str
    curve: str
    query_id: str
    reference_id: str
    fraction: list[float]
    score: list[float]


def make_run(root: Path, model: str) -> Path:
    """A run folder with maps, curves and images of all but the last pair."""
    pairs = pairs_of_run()
    facts = {
        "kind": "evaluate",
        "dataset": "made",
        "model": model,
        "target": "similarity",
        "similarity": "cosine",
        "shards": 1,
        "blind": ["lafam"],
        "metrics": METRICS,
    }
    store = RunStore.create(root, {"model": model}, facts)
    store.write_pairs(pairs)
    maps: dict[str, np.ndarray] = {name: pairs[name].to_numpy(dtype=str) for name in ("query_id", "reference_id")}
    for place, method in enumerate(METHODS):
        for side, grid in (("query", GRID), ("reference", OTHER)):
            maps[f"{method}/{side}"] = raw_map(grid, place)[None].repeat(PAIRS, axis=0)
    maps["grad_cam/query"][FLAT] = 0.25
    maps["point_to_point"] = points_of_run()
    maps["grad_cam/matches"] = np.array([MATCH], np.float32)[None].repeat(PAIRS, axis=0)
    ids = pairs[["query_id", "reference_id"]].itertuples(index=False, name=None)
    curves = [
        Curve(method, curve, *one, [0.0, 0.25, 0.5, 1.0], [0.9, 0.6 - place / 10, 0.3, 0.1])
        for one in ids
        for place, method in enumerate(METHODS)
        for curve in ("deletion_mean_colour", "insertion_mean_colour")
    ]
    store.write_chunk(0, records_of_run(pairs, model), maps, curves)
    for pair in pairs[:-1].to_dict("records"):
        for side in ("query_id", "reference_id"):
            pixels = np.full((48, 60, 3), 150, np.uint8)
            pixels[:24] = 60
            store.write_image(pair[side], pixels)
    store.finish()
    return root


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two runs."""
    root = tmp_path_factory.mktemp("browser")
    runs = [make_run(root / name, name) for name in ("first", "second")]
    write_report(runs, root / "report")
    return root / "report" / "index.html"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser, where there is one."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install playwright")
    if not (path := shutil.which("chromium")):
        pytest.skip("chromium is missing: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page, with what it complained of and what it asked for."""

    page: Any
    index: Path
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, address: str = "") -> Any:
        """Load the page with this hash, until its first pair is drawn."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.index.as_uri()}{address}")
        self.page.wait_for_selector("html[data-ready]")
        self.page.wait_for_selector("#panels canvas")
        return self.page


@pytest.fixture
def opened(chromium: Any, index: Path) -> Iterator[Opened]:
    """The page in a window of its own; whatever a test does, it may not complain or load anything."""
    context = chromium.new_context(viewport={"width": 1300, "height": 900}, color_scheme="light")
    found = Opened(context.new_page(), index)
    found.page.set_default_timeout(15_000)
    found.page.on("console", lambda message: found.complaints.append(message.text))
    found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
    found.page.on("dialog", lambda dialog: (found.complaints.append("dialog"), dialog.dismiss()))
    found.page.on("request", lambda request: found.requests.append(request.url))
    yield found
    context.close()
    assert found.complaints == []
    own = ("data:image/", "blob:", found.index.as_uri(), "about:")
    assert [url for url in found.requests if not url.startswith(own)] == []
