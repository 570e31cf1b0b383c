"""Two runs of random, seeded records, made through the store itself."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sfam_bench.core.baselines import Blur
from sfam_bench.core.metric_card import GROUPS, Described, MetricCard, metric_facts
from sfam_bench.metrics.localisation import EnergyPointingGame, IoU
from sfam_bench.metrics.perturbation import AreaError, Perturbation
from sfam_bench.metrics.selectivity import Selectivity
from sfam_bench.runs.chunks import chunk_path, read_footer
from sfam_bench.runs.manifests import read_manifest
from sfam_bench.runs.store import RunStore

EXPLAINERS = {"sfam": 0.30, "grad_cam": 0.22, "exact": 0.31, "lafam": 0.20, "chance": 0.02}
HOSTILE = "<script>alert('class')</script>"
METRICS = metric_facts(
    {
        "deletion_mean_colour": Perturbation("deletion"),
        "insertion_mean_colour": Perturbation("insertion"),
        "energy_pointing_game": EnergyPointingGame(),
        "selectivity_energy": Selectivity(),
        "part_agreement": Described(MetricCard(group=GROUPS[0], label="part agreement", family="part_agreement"), True),
        "iou_50": IoU(),
        "forward_passes": Described(MetricCard(group="Cost", label="forward passes"), False),
        "foreground_area": Described(MetricCard(group="Localisation", label="foreground area")),
    }
)
METRICS["energy_pointing_game"]["chance"] = "energy_pointing_game_chance"
KINDS = ("nearest_positive", "hard_negative", "random_positive", "partial_match")


def make_pairs(count: int = 40, classes: int = 8) -> pd.DataFrame:
    rows = []
    for number in range(count):
        label = number % classes
        name = HOSTILE if label == 0 else f"{label:03d}.Bird_{label}"
        query, reference = f"{label:03d}.Bird/q_{number}.jpg", f"{label:03d}.Bird/r_{number}.jpg"
        ids = {"query_id": query, "reference_id": reference, "negative_id": None, "kind": KINDS[number % 4]}
        labels = {"query_label": label, "reference_label": label, "query_class": name, "reference_class": name}
        rows.append({**ids, **labels, "score": 0.9 - number / 100})
    return pd.DataFrame(rows)


def make_records(model: str, pairs: pd.DataFrame, rng: np.random.Generator, gain: float) -> pd.DataFrame:
    rows = []
    for pair in pairs.itertuples():
        where = {"dataset": "cub", "model": model, "target": "similarity"}
        where |= {"query_id": pair.query_id, "reference_id": pair.reference_id}
        base, of_class = rng.normal(0, 0.05), 0.04 * np.sin(pair.query_label)
        for explainer, level in EXPLAINERS.items():
            for metric in METRICS:
                value = {"forward_passes": 2.0, "foreground_area": 0.4}.get(metric)
                if value is None:
                    sign = -1 if metric.startswith("deletion") else 1
                    value = 0.5 + sign * gain * level + base + of_class + rng.normal(0, 0.03)
                row = {**where, "explainer": explainer, "metric": metric, "value": value, "flag": ""}
                if pair.Index == 3 and metric in ("deletion_mean_colour", "insertion_mean_colour"):
                    row |= {"value": np.nan, "flag": "zero_range"}
                if pair.Index in (1, 5) and explainer == "grad_cam" and metric != "forward_passes":
                    row |= {"value": np.nan, "flag": "constant_map"}
                rows.append(row)
        for fact, value in {"s_full": 0.8, "s_base_mean_colour": 0.2, "energy_pointing_game_chance": 0.4}.items():
            noisy = value + rng.normal(0, 0.01)
            rows.append({**where, "explainer": "pair", "metric": fact, "value": noisy, "flag": ""})
    return pd.DataFrame(rows)


def make_maps(pairs: pd.DataFrame, rng: np.random.Generator) -> dict[str, np.ndarray]:
    maps = {name: pairs[name].to_numpy(dtype=str) for name in ("query_id", "reference_id")}
    rows, cols = np.mgrid[0:7, 0:7]
    for explainer in EXPLAINERS:
        for side in ("query", "reference"):
            centre = rng.uniform(1.5, 4.5, size=(len(pairs), 2, 1, 1))
            blob = np.exp(-((rows - centre[:, 0]) ** 2 + (cols - centre[:, 1]) ** 2) / 3)
            signed = blob + rng.normal(0, 0.05, size=blob.shape) - (0.3 if explainer == "grad_cam" else 0)
            maps[f"{explainer}/{side}"] = signed.astype(np.float32)
    maps["grad_cam/query"][1] = 0.0
    return maps


def make_image(rng: np.random.Generator, size: int = 96) -> np.ndarray:
    rows, cols = np.mgrid[0:size, 0:size] / size
    tints = rng.uniform(60, 220, size=3)
    body = (rows - 0.5) ** 2 + (cols - rng.uniform(0.4, 0.6)) ** 2 < 0.06
    pixels = np.stack([150 + 80 * rows, 160 + 60 * cols, 190 - 60 * rows], axis=-1)
    pixels[body] = tints
    return pixels.astype(np.uint8)


def make_run(root: Path, model: str, seed: int, gain: float = 1.0) -> Path:
    """A finished run folder of 40 pairs in 8 classes."""
    rng, pairs = np.random.default_rng(seed), make_pairs()
    facts = {
        **{"kind": "evaluate", "dataset": "cub", "model": model, "target": "similarity", "seed": seed, "shards": 2},
        **{"split": {"name": "zero-shot, last 100 classes", "hash": "3f2a"}, "image_counts": {"test": 420}},
        **{"retrieval": {"recall_at_1": 0.85, "map_at_r": 0.41, "count": 420}},
        **{"explainers": [*EXPLAINERS], "blind": ["lafam", "chance"], "metrics": METRICS},
        **{"skipped": ["selectivity_peak: the data set has no region 'unshared'"]},
    }
    store = RunStore.create(root, {"model": model, "seed": seed}, facts)
    store.write_pairs(pairs)
    records, maps = make_records(model, pairs, rng, gain), make_maps(pairs, rng)
    for number, half in enumerate((slice(0, 20), slice(20, 40))):
        own = records[records["query_id"].isin(pairs["query_id"][half])]
        store.write_chunk(number, own, {name: array[half] for name, array in maps.items()})
    for pair in pairs[:8].itertuples():
        store.write_image(pair.query_id, make_image(rng))
        store.write_image(pair.reference_id, make_image(rng))
    store.finish()
    return root


@pytest.fixture(scope="session")
def fake_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "frozen", "lite0 frozen", 0)


AREA_ERRORS = {
    "deletion_mean_colour_area_error": [0.001, 0.004, 0.002],
    "insertion_mean_colour_area_error": [0.003, 0.0044123],
}
PASSES = {
    **{"mode": "openvino", "batch": 16, "threads": 1, "images_per_second": {"eager": 60.0, "openvino": 130.0}},
    **{"score_differences": {"compiled": 6e-8, "openvino": 3.6e-7}, "refused": {}},
}


def rewrite_records(root: Path, number: int, records: pd.DataFrame, curves: Sequence[Any] = ()) -> None:
    """Write a batch of `make_run` again with other records and curves."""
    said = read_footer(chunk_path(root, "records", number))
    with np.load(chunk_path(root, "maps", number)) as maps:
        RunStore(root, said["key"], said["passes"]).write_chunk(number, records, dict(maps), curves)


@pytest.fixture(scope="session")
def checked_run(tmp_path_factory: pytest.TempPathFactory, fake_run: Path) -> Path:
    """The same run, with five curves taken in full too, and one that could not be."""
    copy = Path(shutil.copytree(fake_run, tmp_path_factory.mktemp("runs") / "checked"))
    records = pd.read_parquet(copy / "records" / "00001.parquet").astype({"metric": str, "explainer": str, "flag": str})
    rows = []
    for metric, errors in AREA_ERRORS.items():
        drawn = records.drop_duplicates("query_id")[: len(errors) + 1]
        flag = ["", "", "", "constant_map"][-len(drawn) :]
        explainer = ["sfam", "lafam", "sfam", "grad_cam"][: len(drawn)]
        rows.append(drawn.assign(metric=metric, explainer=explainer, value=[*errors, np.nan], flag=flag))
    rewrite_records(copy, 1, pd.concat([records, *rows]))
    manifest = read_manifest(copy)
    manifest["metrics"] |= metric_facts(
        {
            "deletion_mean_colour_area_error": AreaError("deletion"),
            "insertion_mean_colour_area_error": AreaError("insertion"),
            "deletion_blur_area_error": AreaError("deletion", Blur()),
        }
    )
    manifest["skipped"].append("deletion_blur_area_error")
    RunStore(copy).write_manifest({**manifest, "passes": PASSES})
    return copy


@pytest.fixture(scope="session")
def fake_runs(tmp_path_factory: pytest.TempPathFactory, fake_run: Path) -> list[Path]:
    return [fake_run, make_run(tmp_path_factory.mktemp("runs") / "tuned", "lite0 fine-tuned", 1, 1.5)]
