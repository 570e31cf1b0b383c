"""How near the engine comes to a GPU's own rate: python -m benchmarks.gpu [--photos DIR]."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import profile

from benchmarks.bench import RESULTS
from benchmarks.measure import ACTIVATION, Setting
from benchmarks.subjects import SIX, network, photos
from benchmarks.timing import interleaved, ratio, spread
from sfam_bench.engine.calibration import Calibration
from sfam_bench.explainers.controls import Chance
from sfam_bench.metrics.perturbation import Midpoint

CUB_TEST = 5_924  # images, each with one reference
TWELVE = {**SIX, **{name: method for name, method in ACTIVATION.items() if name not in SIX}, "chance 1": Chance(1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, help="a folder of class folders of images (default: rendered birds)")
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--batches", type=int, default=5, help="how often the pairs are evaluated")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here: make bench measures the CPU")
    how = given.photos, given.pairs, given.batches, given.device
    figures = {name: measured(name, *how) for name in ("lite0", "resnet50")}
    device = torch.cuda.get_device_name() if given.device == "cuda" else given.device
    given.out.parent.mkdir(parents=True, exist_ok=True)
    found = {"device": device, "torch": torch.__version__, "figures": figures}
    given.out.write_text(json.dumps(found, indent=2) + "\n")
    print(given.out.read_text())


def measured(name: str, folder: Path | None, pairs: int, batches: int, device: str) -> dict[str, Any]:
    """Passes a second of the graph alone and of a whole evaluation, and what else took time."""
    finish: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None

    def clock() -> float:
        finish()
        return time.perf_counter()

    model = network(name).to(device)
    batch = photos(folder, pairs)
    passes = Calibration(payback=0)(model, model.similarity.matrix, batch.query.to(device), 1)
    setting = Setting(model, model, passes, batch)
    count = 2 * len(TWELVE) * pairs * Midpoint().intervals
    images = batch.query[:1].to(device).expand(passes.batch, -1, -1, -1).contiguous()

    def raw() -> None:
        for _ in range(count // passes.batch):
            passes.function(images)

    def ours() -> None:
        setting.walk(setting.scene(), TWELVE, Midpoint())

    ours()
    seconds = interleaved({"raw": raw, "ours": ours}, batches, clock)
    with profile() as profiler:
        ours()
    print(profiler.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=12))
    return {
        "passes": dict(passes.facts),
        "passes_per_second_raw": spread([count // passes.batch * passes.batch / s for s in seconds["raw"]]),
        "passes_per_second_ours": spread([count / s for s in seconds["ours"]]),
        "share_of_the_ceiling": ratio(seconds["raw"], seconds["ours"]),
        "full_cub_test_minutes": spread([s / pairs * CUB_TEST / 60 for s in seconds["ours"]]),
    }


if __name__ == "__main__":
    main()
