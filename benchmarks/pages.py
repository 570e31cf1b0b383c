"""Size and opening time of a page of 60, 240 and 500 pairs: python -m benchmarks.pages [--pairs 60 240 500].

Maps, point-to-point maps, curves and records are those of results/records/planted, whose pairs are repeated under other
names; each pair has two images of its own, drawn for it. Needs playwright and chromium.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from playwright.sync_api import sync_playwright

from sfam_bench.core.files import write_json
from sfam_bench.datasets.planted.dataset import Planted
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.page.page import render_page
from sfam_bench.runs.proof import DIGESTS
from sfam_bench.runs.reader import read_curves, read_maps, read_records, read_run
from sfam_bench.runs.store import RunStore

ROOT = Path(__file__).parents[1]
SOURCE, OUT = ROOT / "results" / "records" / "planted", ROOT / "results" / "bench" / "pages.json"
REPEATS = 5  # openings, of which the median counts
PAIR = ["query_id", "reference_id"]


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[60, 240, 500])
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for count in parser.parse_args().pairs:
            page = write_page(Path(folder) / str(count), count)
            found.append({"pairs": count, "megabytes": round(page.stat().st_size / 1e6, 2), "seconds": measure(page)})
            print(found[-1])
    write_json(OUT, {"pages": found, "image_pixels": 224, "methods": 6, "opening": f"median of {REPEATS}, chromium"})


def write_page(root: Path, count: int) -> Path:
    """The page of a run of `count` pairs."""
    source = read_run(SOURCE)
    kept = source.pairs.drop_duplicates(PAIR)
    maps, records, curves = read_maps(SOURCE, None, points=True), read_records(SOURCE), read_curves(SOURCE)
    row_of = {pair: row for row, pair in enumerate(zip(maps["query_id"], maps["reference_id"], strict=True))}
    kept = kept[[pair in row_of for pair in kept[PAIR].itertuples(index=False, name=None)]]
    facts = {name: value for name, value in source.manifest.items() if name not in ("merged", "done", DIGESTS)}
    store = RunStore.create(root / "run", {"pairs": count}, {**facts, "shards": 1})
    parts: dict[str, list[pd.DataFrame]] = {"pairs": [], "records": [], "curves": []}
    rows = []
    for number, pair in enumerate(islice(cycle(kept.to_dict("records")), count)):
        ids = pair["query_id"], pair["reference_id"]
        names = {side: f"{name}-{number}" for side, name in zip(PAIR, ids, strict=True)}
        rows.append(row_of[ids])
        parts["pairs"].append(pd.DataFrame([pair]).assign(**names))
        for kind, frame in (("records", records), ("curves", curves)):
            own = frame[(frame["query_id"] == ids[0]) & (frame["reference_id"] == ids[1])]
            parts[kind].append(own.assign(**names))
    frames = {kind: pd.concat(some, ignore_index=True) for kind, some in parts.items()}
    store.write_pairs(frames["pairs"])
    arrays = {name: array[rows] for name, array in maps.items() if name not in PAIR}
    arrays |= {name: frames["pairs"][name].to_numpy(dtype=str) for name in PAIR}
    store.write_chunk(0, frames["records"], arrays, curves_of(frames["curves"]))
    for seed, name in enumerate(PAIR):
        birds = Planted(size=224, seed=seed + 1)
        for image_id, drawn in zip(frames["pairs"][name], islice(cycle(birds.index.index), count), strict=False):
            store.write_image(image_id, np.asarray(birds.image(drawn)))
    store.finish()
    run = read_run(root / "run")
    path = root / "index.html"
    path.write_text(render_page([], [], Catalogue.of(run.manifest), run.matrix.metrics, runs=[run]), encoding="utf-8")
    shutil.rmtree(root / "run")
    return path


def curves_of(frame: pd.DataFrame) -> list[SimpleNamespace]:
    """The rows of a frame as a store takes them."""
    return [SimpleNamespace(**{str(name): value for name, value in row.items()}) for row in frame.to_dict("records")]


def measure(page: Path) -> float:
    """Seconds from the address to the first pair drawn."""
    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(REPEATS):
            tab = browser.new_page(viewport={"width": 1400, "height": 900})
            start = time.perf_counter()
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-ready]")
            tab.wait_for_selector("#panels canvas")
            found.append(time.perf_counter() - start)
            tab.close()
        browser.close()
    return round(statistics.median(found), 2)


if __name__ == "__main__":
    main()
