"""Peak memory in MiB of one evaluation: python -m benchmarks.memory METHODS POINTS."""

import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

from benchmarks.subjects import network, photos
from sfam_bench.core.baselines import MeanColour
from sfam_bench.core.targets import Similarity
from sfam_bench.evaluation.evaluate import evaluate
from sfam_bench.explainers.controls import Chance
from sfam_bench.metrics.perturbation import Midpoint, Perturbation

if __name__ == "__main__":
    methods, points = (int(argument) for argument in sys.argv[1:])
    metric = Perturbation("deletion", MeanColour(), Midpoint(points), min_range=-9)
    explainers = {f"chance {seed}": Chance(seed) for seed in range(methods)}
    for _ in evaluate(network("lite0"), Similarity(), [photos(None, 1)], explainers, {"deletion": metric}, "birds"):
        pass
    # not getrusage, which hands the parent's peak on to its children
    (peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    print(int(peak) / 1024)
