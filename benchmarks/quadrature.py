"""Which points of a curve give its area best: python -m benchmarks.quadrature MODEL=FOLDER ... [--squeezenet FILE].

MODEL is lite0, lite1, lite2 or squeezenet, FOLDER holds class folders of photos. Every curve is taken at all the points
of all rules and of the full protocol, so that the rules are compared on the same curves.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

import numpy as np
import torch
from numpy.polynomial import legendre

from benchmarks.subjects import SIX, lite, photos, squeezenet
from sfam_bench.core.baselines import Baseline, Blur, MeanColour
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import Similarity
from sfam_bench.core.types import Flags
from sfam_bench.engine.calibration import Calibration
from sfam_bench.engine.memory import keep_memory
from sfam_bench.evaluation.evaluate import answer_questions, make_methods
from sfam_bench.metrics.perturbation import Midpoint, Trapezoid, Walk
from sfam_bench.metrics.shared.base import Explained, Measured, Probe, Scene
from sfam_bench.models.build import build
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import SimilarityModel, encode_pairs

OUT = Path(__file__).parents[1] / "results" / "bench" / "quadrature.json"
PIXELS = 224 * 224
Rule = tuple[np.ndarray, np.ndarray]  # counts of changed pixels, weights
BASELINES: dict[str, Baseline] = {"mean_colour": MeanColour(), "blur": Blur()}
RAW = 0.0005  # of the score: methods whose areas differ by less in full count as tied in `order_of_distinct`


def placed(nodes: np.ndarray, weights: np.ndarray) -> Rule:
    """Nodes in [-1, 1] and weights of sum 2."""
    return np.rint((nodes + 1) / 2 * PIXELS).astype(int), weights / 2


def interpolatory(nodes: np.ndarray) -> Rule:
    """The rule that is exact for all polynomials through the nodes."""
    degree = len(nodes) - 1
    return placed(nodes, 2 * np.linalg.solve(legendre.legvander(nodes, degree).T, np.eye(1, degree + 1)[0]))


def lobatto(intervals: int) -> Rule:
    """Gauss-Lobatto: both ends, which are free, and the roots of a Legendre polynomial's derivative."""
    roots = legendre.legroots(legendre.legder(np.eye(intervals + 1)[intervals]))
    return interpolatory(np.array([-1, *roots, 1]))


@cache
def rules() -> dict[str, Rule]:
    """By name and passes a curve."""
    found: dict[str, Rule] = {"full protocol, 223": exactly(Trapezoid(224))}
    for passes in (15, 20, 31):
        middle = (np.arange(passes) + 0.5) * 2 / passes - 1
        found[f"trapezoid, {passes}"] = exactly(Trapezoid(passes + 1))
        found[f"midpoint, {passes}"] = placed(middle, np.full(passes, 2 / passes))
        found[f"midpoint corrected, {passes}"] = exactly(Midpoint(passes))
        found[f"Gauss-Legendre, {passes}"] = placed(*legendre.leggauss(passes))
        found[f"Gauss-Lobatto, {passes}"] = lobatto(passes + 1)
        found[f"Clenshaw-Curtis, {passes}"] = interpolatory(-np.cos(np.pi * np.arange(passes + 2) / (passes + 1)))
    found["Clenshaw-Curtis, 7"] = interpolatory(-np.cos(np.pi * np.arange(9) / 8))
    return found


def exactly(steps: Any) -> Rule:
    """The rule of the library."""
    counts, weights = steps(PIXELS)
    return np.array(counts), np.array(weights)


@dataclass(frozen=True)
class Every:
    """All points of all rules."""

    def __call__(self, pixels: int) -> tuple[list[int], list[float]]:
        counts = np.unique(np.concatenate([counts for counts, _ in rules().values()]))
        return counts.tolist(), [float("nan")] * len(counts)


@dataclass(frozen=True)
class Curves:
    """Asks for the curves and measures nothing."""

    probes: tuple[Probe, ...]
    share: float = 1.0
    higher_is_better: bool | None = None
    needs: tuple[str, ...] = ()

    def reasons(self, explained: Explained) -> dict[str, Flags]:
        return {"none": torch.zeros(len(explained.maps), dtype=torch.bool)}

    def __call__(self, explained: Explained) -> Measured:
        return Measured(explained.scene.full(), {})


def collect(
    model: SimilarityModel, folder: Path, count: int, baselines: Sequence[Baseline]
) -> tuple[np.ndarray, np.ndarray]:
    """Curves (curves, points), and which (pair, baseline, direction) each belongs to."""
    batch = photos(folder, count)
    passes = Calibration(payback=0)(model, model.similarity.matrix, batch.query, 1)
    scene = Scene(model, encode_pairs(model, Similarity(), batch.query, batch.reference, passes=passes), batch)
    walks = [Walk(name, baseline, Every()) for baseline in baselines for name in ("deletion", "insertion")]
    everyone = torch.ones(count, dtype=torch.bool)
    curves, groups = [], []
    for method in answer_questions(make_methods(scene, SIX, [""] * count), [Curves(tuple(walks))], passes):
        for number, walk in enumerate(walks):
            curves.append(walk.scores(method.explained, everyone).numpy().astype(float))
            groups.append(np.arange(count) * len(walks) + number)
        print(f"{model.name} {folder.name} {method.name}", flush=True)
    return np.concatenate(curves), np.concatenate(groups)


def compared(curves: np.ndarray, groups: np.ndarray) -> dict[str, dict[str, float]]:
    """Each rule's errors against the full protocol, in units of the score, and the order of methods that it keeps."""
    points = {count: place for place, count in enumerate(Every()(PIXELS)[0])}
    areas = {
        name: curves[:, [points[count] for count in counts]] @ weights for name, (counts, weights) in rules().items()
    }
    full = areas.pop("full protocol, 223")
    found = {}
    for name, area in areas.items():
        errors, order = np.abs(area - full), concordance(area, full, groups, 0)
        figures = {"median": np.median(errors), "p95": np.quantile(errors, 0.95), "max": errors.max()}
        figures |= {"bias": (area - full).mean(), "order": order}
        figures["order_of_distinct"] = concordance(area, full, groups, RAW)
        found[name] = {key: float(f"{value:.3g}") for key, value in figures.items()}
    return found | nested(areas, full)


def nested(areas: Mapping[str, np.ndarray], full: np.ndarray) -> dict[str, dict[str, float]]:
    """How often the difference of two nested rules bounds the finer one's error."""
    pairs = (("Clenshaw-Curtis, 7", "Clenshaw-Curtis, 15"), ("Clenshaw-Curtis, 15", "Clenshaw-Curtis, 31"))
    covered = {
        f"{fine} bounded by {coarse}": np.mean(np.abs(areas[fine] - full) <= np.abs(areas[fine] - areas[coarse]))
        for coarse, fine in pairs
    }
    return {name: {"coverage": float(f"{share:.3g}")} for name, share in covered.items()}


def concordance(area: np.ndarray, full: np.ndarray, groups: np.ndarray, apart: float) -> float:
    """The share of pairs of methods on the same curve that stand in the same order as in full."""
    same = total = 0
    for group in np.unique(groups):
        a, b = (values[groups == group] for values in (area, full))
        upper = np.triu_indices(len(a), 1)
        differ, truly = (np.subtract.outer(values, values)[upper] for values in (a, b))
        counted = np.abs(truly) > apart
        same, total = same + ((differ * truly) > 0)[counted].sum(), total + counted.sum()
    return float(same / total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="+", metavar="MODEL=FOLDER")
    parser.add_argument("--squeezenet", type=Path, help="torchvision's ImageNet weights of squeezenet1_1")
    parser.add_argument("--pairs", type=int, default=4, help="of each subject")
    parser.add_argument("--baselines", nargs="+", choices=BASELINES, default=list(BASELINES))
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    for subject in given.subjects:
        name, folder = subject.split("=", 1)
        trunk = squeezenet(given.squeezenet) if name == "squeezenet" else lite(int(name[-1]))
        model = build(name, trunk, GAP(), Cosine()).to(memory_format=torch.channels_last)
        curves, groups = collect(model, Path(folder), given.pairs, [BASELINES[name] for name in given.baselines])
        kept.append((curves, groups + sum(len(found) for found, _ in kept)))
    curves, groups = (np.concatenate(arrays) for arrays in zip(*kept, strict=True))
    figures = compared(curves, groups)
    made_on = [subject.split("=")[0] + " on " + Path(subject.split("=")[1]).name for subject in given.subjects]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    text = {"subjects": made_on, "pairs_each": given.pairs, "curves": len(curves), "rules": figures}
    given.out.write_text(json.dumps(text, indent=2) + "\n")
    for name, row in figures.items():
        print(f"{name:45} " + "  ".join(f"{key} {value:g}" for key, value in row.items()))


if __name__ == "__main__":
    main()
