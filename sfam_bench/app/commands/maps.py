"""Export the raw maps of one explainer from a run folder, one .npy file for each pair; SavedMaps reads them.

Examples:

    sfam-bench maps run=results/mine method=sfam
    sfam-bench maps run=results/mine method=grad_cam out=maps/ours
    sfam-bench maps run=results/mine method=lafam

Settings: run, method, out.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.core.errors import UserError
from sfam_bench.explainers.saved_maps import write_maps
from sfam_bench.runs.reader import read_maps, read_run


@script("maps")
def main(cfg: DictConfig) -> None:
    run, name = Path(cfg.run), str(cfg.method)
    read_run(run)  # whole and undamaged
    kept = read_maps(run)
    if not kept:
        raise UserError(f"{run} has no maps: evaluate with maps.save=true")
    if f"{name}/query" not in kept:
        names = sorted(key.removesuffix("/query") for key in kept if key.endswith("/query"))
        raise UserError(f"{run} has no maps of {name}: choose method={' or '.join(names)}")
    ids = [kept[side].tolist() for side in ("query_id", "reference_id")]

    def maps() -> Iterator[tuple[str, str, np.ndarray]]:
        # of a pair that was explained both ways, the queries' maps are the ones that were scored: they come last
        yield from zip(ids[1], ids[0], kept.get(f"{name}/reference", ()), strict=False)
        yield from zip(*ids, kept[f"{name}/query"], strict=True)

    print(f"{write_maps(Path(cfg.out), maps())} maps of {name}: {cfg.out}")
