"""Somebody else's maps as a folder of .npy files: captum's LayerGradCam of the pairs of a run, both ways.

sfam-bench evaluate ... explainer=[grad_cam] explainer.grad_cam.relu=false run_dir=results/ours
python -m benchmarks.captum_maps results/ours maps/captum
sfam-bench evaluate ... '+explainer.captum={_target_: sfam_bench.explainers.saved_maps.SavedMaps,
    folder: maps/captum}' run_dir=results/theirs
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import yaml

from sfam_bench.app.parts import dataset_and_model
from sfam_bench.app.stored import admit_config
from sfam_bench.explainers.saved_maps import write_maps
from sfam_bench.runs.reader import read_run


def captum_maps(run: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """LayerGradCam at the last feature map, of the similarity to the reference, for every pair of the run."""
    from captum.attr import LayerGradCam

    path = run / "config.yaml"
    cfg = admit_config({"keep_memory": False, "device": None, **yaml.safe_load(path.read_text())}, path)
    dataset, model = dataset_and_model(cfg)
    model.eval()

    def explained(query_id: str, reference_id: str) -> np.ndarray:
        query, reference = (
            dataset.sample(name).image[None].to(model.device, memory_format=torch.channels_last)
            for name in (query_id, reference_id)
        )
        with torch.no_grad():
            embedding = model(reference)
        cam = LayerGradCam(lambda images: model.similarity(model(images), embedding), model.trunk)
        return cam.attribute(query, relu_attributions=False)[0, 0].detach().cpu().numpy()

    pairs = read_run(run).pairs
    for query_id, reference_id in pairs[["query_id", "reference_id"]].astype(str).to_numpy():
        yield query_id, reference_id, explained(query_id, reference_id)
        yield reference_id, query_id, explained(reference_id, query_id)


if __name__ == "__main__":
    source, folder = map(Path, sys.argv[1:])
    print(f"{write_maps(folder, captum_maps(source))} maps: {folder}")
