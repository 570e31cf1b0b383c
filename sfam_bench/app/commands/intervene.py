"""Repaint each part of planted birds in turn, and count the queries that then retrieve another class.

Examples:

    sfam-bench intervene experiment=planted model.checkpoint=RUN/model.safetensors run_dir=results/intervention
    sfam-bench intervene experiment=planted model.checkpoint=RUN/model.safetensors
    sfam-bench intervene experiment=planted head=linear model.checkpoint=RUN/model.safetensors

Settings: run_dir, seed, device.
"""

from pathlib import Path

from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.parts import check_protocol, dataset_and_model, image_ids, pair_choice
from sfam_bench.core.errors import UserError
from sfam_bench.core.files import check_writable, write_text
from sfam_bench.datasets.pairs import PairChoice
from sfam_bench.datasets.planted.dataset import Planted
from sfam_bench.evaluation.intervention import intervention_check, why_not
from sfam_bench.report.tables.formats import to_csv
from sfam_bench.runs.continued import create_folder


@script("intervene")
def main(cfg: DictConfig) -> None:
    check_writable(Path(cfg.run_dir))
    dataset, model = dataset_and_model(cfg)
    if not isinstance(dataset, Planted):
        raise UserError(f"{dataset.name} cannot be repainted: the intervention check needs dataset=planted")
    pairs = pair_choice(cfg)
    if not isinstance(pairs, PairChoice):
        raise UserError("the intervention check takes queries of its own: set only pairs.count")
    protocol = check_protocol(cfg, dataset, model, image_ids(dataset, "test"))
    if not cfg.resume:
        create_folder(Path(cfg.run_dir))
    flips = intervention_check(lambda images: model.encode(images).embeddings, dataset, pairs.count, cfg.seed)
    Path(cfg.run_dir).mkdir(parents=True, exist_ok=True)
    write_text(Path(cfg.run_dir) / "intervention.csv", to_csv(flips))  # with resume=true again, which takes seconds
    for violation in protocol["allowed"].values():
        print(violation)
    print(flips.to_string(index=False, float_format="{:.3f}".format))
    why = why_not(flips, dataset)
    print(f"the model does not count: {why}" if why else "the model counts: it uses the planted cause")
