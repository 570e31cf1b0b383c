"""Pairs packed for the page: small, in an order that shows failures first, and never more than fits."""

import base64
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sfam_bench.core.metric_card import metric_facts
from sfam_bench.metrics.selectivity import Selectivity
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.page import explorer
from sfam_bench.report.page.explorer import build_explorer, to_json
from sfam_bench.report.page.pair_order import count_failures, select_worst, sort_pairs
from sfam_bench.runs.chunks import SCHEMA
from sfam_bench.runs.matrix import RUN, Matrix
from sfam_bench.runs.reader import read_run
from sfam_bench.runs.store import RunStore

PLENTY = 10_000_000
METRICS = metric_facts({"selectivity_peak": Selectivity("peak")})
UNICODE_LINES = "\u2028\u2029"


def inflate(text: str) -> dict[str, Any]:
    return dict(json.loads(zlib.decompress(base64.b64decode(json.loads(text)))))


def decoded(text: str, kind: type) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=kind)


def test_json_cannot_end_its_element() -> None:
    value = {"<script>alert(1)</script>": f"</script><!--&{UNICODE_LINES}"}
    text = to_json(value)
    assert not set("<>&" + UNICODE_LINES) & set(text)
    assert json.loads(text) == value


def test_a_number_that_json_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json({"value": float("nan")})


def test_maps_keep_sign_and_zero_over_their_largest_magnitude() -> None:
    packed = explorer._map(np.array([[0.0, 2.0, -1.0], [0.5, -2.0, 0.004]], np.float32))
    assert packed is not None
    assert (packed["rows"], packed["cols"]) == (2, 3)
    assert decoded(packed["data"], np.int8).tolist() == [0, 127, -64, 32, -127, 0]


def test_fine_maps_are_averaged() -> None:
    fine = np.kron(np.arange(56.0 * 28).reshape(56, 28), np.ones((2, 4)))  # 112 x 112
    packed = explorer._map(fine)
    assert packed is not None
    assert (packed["rows"], packed["cols"]) == (56, 56)
    expected = np.kron(np.arange(56.0 * 28).reshape(56, 28), np.ones((1, 2))) / (56 * 28 - 1)
    assert np.abs(decoded(packed["data"], np.int8).reshape(56, 56) / 127 - expected).max() <= 0.5 / 127 + 1e-6


@pytest.mark.parametrize("raw", [None, np.zeros((3, 3)), np.full((3, 3), 0.7), np.array([[np.nan, 1.0]])])
def test_a_map_that_says_nothing_is_none(raw: np.ndarray | None) -> None:
    assert explorer._map(raw) is None


def test_points_keep_faint_values_and_their_sums() -> None:
    raw = np.zeros((1, 2, 2, 1), np.float16)
    raw[0, :, :, 0] = [[1.0, -0.01], [0.25, 0.0]]
    packed = explorer._points(raw)
    assert packed is not None
    assert packed["grid"] == [1, 2, 2, 1]
    roots = decoded(packed["data"], np.int8) / 127
    np.testing.assert_allclose(np.sign(roots) * roots**2, raw.ravel(), atol=0.005)
    assert packed["sums"] == [[0.99, 0.25], [1.25, -0.01]]
    assert packed["total"] == 1.24
    assert explorer._points(np.zeros((1, 1, 1, 1))) is None
    assert explorer._points(None) is None


def test_curves_come_back_within_a_step_of_uint16() -> None:
    given = {
        "explainer": "sfam",
        "curve": "deletion_mean_colour",
        "fraction": [0.0, 0.5, 1.0],
        "score": [0.9, -0.2, 0.1],
    }
    (packed,) = explorer._curves(pd.DataFrame([given]))
    across, up = (decoded(packed[axis], np.uint16) / 65535 for axis in "xy")
    np.testing.assert_allclose(across, given["fraction"], atol=1e-5)
    np.testing.assert_allclose(packed["low"] + up * (packed["high"] - packed["low"]), given["score"], atol=2e-5)


def test_only_pairs_with_images_are_shown_and_each_image_once(fake_run: Path) -> None:
    found = build_explorer([read_run(fake_run), read_run(fake_run)], PLENTY)
    assert found is not None
    first, second = found.index["runs"]
    assert (first["of"], first["pictured"], len(first["pairs"])) == (40, 8, 8)
    assert len(second["pairs"]) == 8
    assert sum(name.startswith("image-") for name in found.blocks) <= 16
    for pair in first["pairs"]:
        block = inflate(found.blocks[pair["block"]])
        assert all(json.loads(found.blocks[name]).startswith("data:image/webp") for name in pair["images"])
        assert set(block["maps"]) == {"sfam", "grad_cam", "exact", "lafam", "chance"}
    everything = "".join([to_json(found.index), *found.blocks.values()])
    assert "<script" not in everything
    assert "\\u003cscript" in everything


def test_failures_are_counted_over_all_pairs_and_the_worst_are_selected(fake_run: Path) -> None:
    run = read_run(fake_run)
    run.matrix.entries["selectivity_energy", "sfam"][[4, 9, 17]] = [-0.2, 0.0, -0.1]
    run.pairs.loc[20, "reference_label"] = 99  # another class, nearer than the query's own
    run.pairs.loc[21, "query_id"] = run.pairs.loc[20, "query_id"]
    listed = sort_pairs(run.pairs, run.matrix, run.manifest)
    assert count_failures(run, Catalogue.of(run.manifest)) == sum(bool(pair.failed) for pair in listed) == 4
    worst = select_worst(run, 2)
    assert {run.matrix.pairs[4], run.matrix.pairs[17]} <= worst
    deletion = run.matrix.entries["deletion_mean_colour", "sfam"]
    assert run.matrix.pairs[int(np.nanargmax(deletion))] in worst
    assert select_worst(run, 0) == set()


def test_matches_are_listed_by_method_without_empty_ones() -> None:
    raw = np.array([[0.25, 0.5, 0.75, 0.125, -2.0], [0.5, 0.5, 0.5, 0.5, 0.0]], np.float32)
    assert explorer._matches(raw) == [[0.25, 0.5, 0.75, 0.125, -2.0]]
    assert explorer._matches(None) == []


def test_what_does_not_fit_is_left_out_from_the_end(fake_run: Path) -> None:
    run = read_run(fake_run)
    whole = build_explorer([run], PLENTY)
    assert whole is not None
    size = sum(map(len, whole.blocks.values()))
    part = build_explorer([run], int(size * 0.6))
    assert part is not None
    assert sum(map(len, part.blocks.values())) <= size * 0.6
    shown = part.index["runs"][0]["pairs"]
    assert 0 < len(shown) < 8
    assert shown == whole.index["runs"][0]["pairs"][: len(shown)]
    assert part.index["runs"][0]["pictured"] == 8
    assert build_explorer([run], 100) is None


@pytest.mark.parametrize("lost", ["maps", "images"])
def test_a_run_without_maps_or_images(fake_run: Path, tmp_path: Path, lost: str) -> None:
    copy = Path(shutil.copytree(fake_run, tmp_path / "run"))
    shutil.rmtree(copy / lost)
    found = build_explorer([read_run(copy)], PLENTY)
    if lost == "images":
        assert found is None
    else:
        assert found is not None
        assert inflate(found.blocks["block-0-0"])["maps"] == {}


def made(values: dict[str, float], kind: str = "partial_match", flags: dict[str, str] | None = None) -> list[tuple]:
    """Pairs by query with the selectivity of the first method, as they are ordered: query, failed, flagged."""
    pairs, records = [], []
    for query, value in values.items():
        ids = {"query_id": query, "reference_id": "r"}
        pairs.append({**ids, "query_label": 0, "reference_label": 1, "kind": kind, "score": 0.5})
        for method in ("lafam", "sfam"):
            flag = (flags or {}).get(query, "")
            number = np.nan if flag else value if method == "sfam" else 0.9
            records.append(
                {
                    **ids,
                    **dict.fromkeys(RUN, "x"),
                    "explainer": method,
                    "metric": "selectivity_peak",
                    "value": number,
                    "flag": flag,
                }
            )
    matrix = Matrix.of(pd.DataFrame(records), pd.DataFrame(pairs))
    found = sort_pairs(pd.DataFrame(pairs), matrix, {"blind": ["lafam"], "metrics": METRICS})
    return [(pair.ids[0], bool(pair.failed), bool(pair.flagged)) for pair in found]


def test_failures_come_first_then_flags_then_the_worst() -> None:
    given = {"good": 0.9, "flagged": 0.0, "poor": 0.1, "lost": -0.4, "level": 0.0}
    found = made(given, flags={"flagged": "constant_map"})
    assert [query for query, _, _ in found] == ["lost", "level", "flagged", "poor", "good"]
    assert [failed for _, failed, _ in found] == [True, True, False, False, False]
    assert [flagged for _, _, flagged in found] == [False, False, True, False, False]


def test_a_flag_that_all_pairs_of_a_kind_have_is_by_design() -> None:
    flags = dict.fromkeys("ab", "other_class")
    assert made({"a": 0.5, "b": 0.5}, flags=flags) == [("a", False, False), ("b", False, False)]


def test_another_class_nearer_than_its_own_is_a_failure() -> None:
    row = {"query_id": "q", "query_label": 0}
    pairs = pd.DataFrame([
        {**row, "reference_id": "own", "reference_label": 0, "kind": "nearest_positive", "score": 0.6},
        {**row, "reference_id": "near", "reference_label": 1, "kind": "hard_negative", "score": 0.7},
        {**row, "reference_id": "far", "reference_label": 2, "kind": "hard_negative", "score": 0.5},
    ])  # fmt: skip
    none = Matrix.of(SCHEMA.empty_table().to_pandas(), pairs)
    found = {pair.ids[1]: pair.failed for pair in sort_pairs(pairs, none, {})}
    assert found == {"own": (), "near": ("another class is nearer than the query's own class",), "far": ()}


def test_pairs_of_a_run_without_curves_are_shown(tmp_path: Path, fake_run: Path) -> None:
    store = RunStore(fake_run)
    assert not list((store.root / "curves").glob("*.parquet"))
    found = build_explorer([read_run(fake_run)], PLENTY)
    assert found is not None
    assert inflate(found.blocks["block-0-0"])["curves"] == []
