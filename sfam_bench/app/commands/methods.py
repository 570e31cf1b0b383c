"""Print the table of methods with cost and residual, measured on a few pairs; write the page of methods.

Examples:

    sfam-bench methods experiment=planted out=methods.md
    sfam-bench methods experiment=planted 'explainer=[sfam,grad_cam]' out=methods.md
    sfam-bench methods experiment=cub dataset.root=CUB_200_2011 out=methods.md

Settings: out, pairs.count.
"""

from pathlib import Path

from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.parts import dataset_and_model, image_ids, pair_choice, prepare_explainers, train_ids
from sfam_bench.app.settings import build
from sfam_bench.core.errors import UserError
from sfam_bench.core.files import write_text
from sfam_bench.core.stream import progress
from sfam_bench.datasets.batches import cut_batches, load_batch
from sfam_bench.evaluation.properties import properties
from sfam_bench.report.tables.methods import method_table, methods_page
from sfam_bench.retrieval.recall import embed


@script("methods")
def main(cfg: DictConfig) -> None:
    dataset, model = dataset_and_model(cfg)
    chosen, target = image_ids(dataset, cfg.split), build(cfg.target)
    asked = build(cfg.explainer)
    explainers = prepare_explainers(cfg, dataset, model, asked, train_ids(cfg, dataset, asked, chosen))
    frame = pair_choice(cfg)(dataset, model.similarity, embed(model, dataset, chosen, cfg.batch_size), chosen)
    first = cut_batches(frame, len(frame))[0]
    batch, kind = load_batch(dataset, first), first["kind"].iloc[0]
    measured, refused = {}, {}
    for name, explainer in progress(explainers.items(), "methods", len(explainers), "method"):
        try:
            measured[name] = vars(properties(explainer, model, target, batch))
        except UserError as error:
            refused[name] = str(error)
    methods = {name: type(explainer) for name, explainer in asked.items()}
    print(method_table(methods, measured).to_string(index=False))
    for name, why in refused.items():
        print(f"{name} was not measured: {why}")
    on = f"{len(batch)} pairs ({kind}) of {dataset.name}, {model.name} (weights: {model.origin['weights']})"
    on += f", {model.similarity.name}"
    pictures = {picture.stem for picture in (Path(cfg.out).parent / "images" / "methods").glob("*.png")}
    write_text(Path(cfg.out), methods_page(methods, measured, on, pictures))
    print(f"page: {cfg.out}")
