"""Speed against the peers in one process and one thread, by CPU time: python -m benchmarks.bench [--check]."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

import torch

from benchmarks import measure, peers
from benchmarks.picture import draw, rows
from benchmarks.subjects import photos
from benchmarks.timing import shown
from sfam_bench.engine.memory import keep_memory

RESULTS = Path(__file__).parents[1] / "results" / "bench"
PACKAGES = ("torch", "torchvision", "timm", "openvino", "grad-cam", "torchcam", "captum", "quantus")
WORSE = 0.8  # --check fails where a ratio has fallen to less of the committed one
PLANS = {"lite0": {"pairs": 4, "methods": 4, "rounds": 5}, "resnet50": {"pairs": 2, "methods": 2, "rounds": 2}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, help="a folder of class folders of images (default: rendered birds)")
    parser.add_argument("--rise", type=Path, help="a checkout of eclique/RISE (default: our re-statement of its code)")
    parser.add_argument("--out", type=Path, default=RESULTS / "cpu.json")
    parser.add_argument("--only", choices=(*PLANS, "memory"), help="one part; the other figures stay as they are")
    parser.add_argument("--check", action="store_true", help="compare with the committed figures instead of writing")
    given = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    rise, why = peers.original_rise(given.rise)
    print(f"RISE: {'its own code' if rise else f're-stated ({why})'}", flush=True)
    parts = [given.only] if given.only else [*PLANS, "memory"]
    before = json.loads(given.out.read_text())["figures"] if given.only or given.check else {}
    figures = {**before, **measured(parts, given.photos, rise)}
    if given.check:
        sys.exit(check(figures, before))
    made_on = {
        **{"photos": given.photos.name if given.photos else "rendered birds", "machine": platform.machine()},
        **{"cores": os.cpu_count(), "threads": 1, "python": platform.python_version()},
        "versions": {package: metadata.version(package) for package in PACKAGES},
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"made_on": made_on, "figures": figures}, indent=2) + "\n")
    draw(given.out)
    print(f"written: {given.out}")


def measured(parts: Sequence[str], folder: Path | None, rise: Any) -> dict[str, Any]:
    """All figures, said as they come."""
    started = time.perf_counter()
    figures: dict[str, Any] = {}

    def note(where: dict[str, Any], name: str, found: Any) -> None:
        where[name] = found
        print(f"[{time.perf_counter() - started:.0f} s] {name}: {json.dumps(found)}", flush=True)

    for name in [name for name in parts if name in PLANS]:
        print(name, flush=True)
        plan = PLANS[name]
        setting, rounds = measure.setting(name, photos(folder, plan["pairs"])), plan["rounds"]
        one, half = (measure.with_pairs(setting, count) for count in (1, plan["pairs"] // 2))
        of_model: dict[str, Any] = {}
        figures[name] = of_model
        note(of_model, "passes", dict(setting.passes.facts))
        note(of_model, "rates", measure.rates(setting, rounds + 2))
        note(
            of_model,
            "overhead",
            measure.overhead(half, plan["methods"], rounds),
        )
        note(of_model, "curves", measure.curves(one, min(rounds, 3), rise))
        note(of_model, "maps", measure.activation_maps(setting, 2))
        if name == "lite0":
            note(of_model, "peer_metrics", measure.peer_metrics(one))
            note(of_model, "imputation", measure.imputation(one))
            note(of_model, "milliseconds_a_pass", measure.scaling(setting))
    if "memory" in parts:
        note(figures, "memory", measure.memory())
    return figures


def check(found: Mapping[str, Any], committed: Mapping[str, Any]) -> int:
    """Compare the ratios; 1 if one has fallen too far."""
    worse = 0
    for name in PLANS:
        now, before = rows(found[name]), rows(committed[name])
        for what in before.keys() & now.keys():
            fallen = now[what]["median"] < WORSE * before[what]["median"]
            worse |= fallen
            print(f"{'WORSE' if fallen else 'ok':5} {name}, {what}: {shown(before[what])} -> {shown(now[what])}")
    return int(worse)


if __name__ == "__main__":
    main()
