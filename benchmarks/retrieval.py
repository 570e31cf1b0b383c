"""Seconds and peak memory of retrieval at the size of Stanford Online Products: python -m benchmarks.retrieval.

Each way runs in a process of its own: torch and faiss chunk by chunk; stable sorts of whole rows, as was done before,
of some rows only, since the whole order of each stays in memory; and k-means, at the size of CUB.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sfam_bench.core.files import atomic
from sfam_bench.core.similarity import Cosine, unit
from sfam_bench.retrieval.recall import cluster_agreement, retrieval
from sfam_bench.retrieval.search import Engine

OUT = Path(__file__).parents[1] / "results" / "bench" / "retrieval.json"
ITEMS, CLASSES, DIMS = 60_502, 11_316, 512  # the test half of Stanford Online Products
CUB = (5_924, 100)
RECALL_AT = (1, 10, 100, 1000)
ROWS, SORTED = 1024, 8192  # that were sorted at a time, and that are sorted here


def drawn(items: int, classes: int) -> tuple[Tensor, Tensor]:
    """Unit embeddings about the centres of their classes, of which each has at least two."""
    draw = torch.Generator().manual_seed(0)
    rest = torch.randint(classes, (items - 2 * classes,), generator=draw)
    labels = torch.cat([torch.arange(classes).repeat(2), rest])
    gallery = torch.randn(items, DIMS, generator=draw)
    centres = torch.randn(classes, DIMS, generator=draw) / 2
    for rows, of in zip(gallery.split(ROWS), labels.split(ROWS), strict=True):
        rows.copy_(unit(rows + centres[of]))
    return gallery, labels


def searched(engine: Engine) -> Callable[[Tensor, Tensor], object]:
    """Retrieval as it is."""
    return lambda gallery, labels: retrieval(Cosine(), gallery, labels, RECALL_AT, engine=engine)


def sorted_in_full(gallery: Tensor, labels: Tensor) -> object:
    """Rows sorted, the gallery scaled for every chunk; the cut order is a view of the whole, which stays in memory."""
    found = []
    for start in range(0, min(SORTED, len(gallery)), ROWS):
        scores = unit(gallery[start : start + ROWS]) @ unit(gallery).T
        rows = torch.arange(len(scores))
        scores[rows, rows + start] = -torch.inf
        order = scores.argsort(dim=1, descending=True, stable=True)[:, : max(RECALL_AT)]
        found.append(order)
    positions = torch.cat(found)
    hits = labels[positions] == labels[: len(positions), None]
    return {f"recall_at_{k}": float(hits[:, :k].any(dim=1).double().mean()) for k in RECALL_AT}


WAYS: dict[str, tuple[Callable[[Tensor, Tensor], object], tuple[int, int]]] = {
    "torch": (searched("torch"), (ITEMS, CLASSES)),
    "faiss": (searched("faiss"), (ITEMS, CLASSES)),
    f"{SORTED} rows sorted in full": (sorted_in_full, (ITEMS, CLASSES)),
    "k-means, at the size of CUB": (
        lambda gallery, labels: {"nmi": cluster_agreement(Cosine(), gallery, labels)},
        CUB,
    ),
}


def mebibytes(field: str) -> float:
    """VmRSS (held now) or VmHWM (held at most) of this process; not getrusage, which hands on the parent's peak."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def measure(way: str) -> dict[str, object]:
    """What one way takes, in this process."""
    function, (items, classes) = WAYS[way]
    gallery, labels = drawn(items, classes)
    function(gallery[:64], labels[:64] % 8)  # imports and threads
    held, wall, cpu = mebibytes("VmRSS"), time.perf_counter(), time.process_time()
    found = function(gallery, labels)
    return {
        **{"way": way, "items": items, "classes": classes, "dims": DIMS, "threads": torch.get_num_threads()},
        **{"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu},
        **{"gallery_mib": gallery.nbytes / 2**20, "before_mib": held, "peak_mib": mebibytes("VmHWM"), "found": found},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"of {', '.join(WAYS)}; all unless given")
    parser.add_argument("--here", action="store_true", help="measure one way in this process and print it")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.ways[0])))
        return
    rows = []
    for way in options.ways or WAYS:
        command = [sys.executable, "-m", "benchmarks.retrieval", "--here", way]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{way}: left out: {(done.stderr.strip().splitlines() or ['killed'])[-1]}")
            continue
        row = json.loads(done.stdout)
        rows.append(row)
        above = row["peak_mib"] - row["before_mib"]
        print(
            f"{way}: {row['seconds']:.0f} s ({row['cpu_seconds']:.0f} s of CPU, {row['threads']} threads), "
            f"peak {row['peak_mib']:.0f} MiB, {above:.0f} above the {row['before_mib']:.0f} before, of which the "
            f"gallery is {row['gallery_mib']:.0f}; {row['found']}",
            flush=True,
        )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    with atomic(OUT) as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
