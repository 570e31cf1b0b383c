"""Explain why a model finds two images alike, pairs of a CSV, or the ranked list of a query in a folder.

The model is EfficientNet-Lite0 with ImageNet weights unless another is chosen. The suffix of the output chooses its
form: .html (one page), .png or .svg (a figure of one pair) or .npz (arrays). A ranked list is a page.

Examples:

    sfam-bench explain a.jpg b.jpg --explainers sfam,grad_cam --out pair.html
    sfam-bench explain --pairs pairs.csv --out maps.npz model=checkpoint model.path=FILE
    sfam-bench explain query.jpg --gallery photos --top 10 --label robin --out page.html

Settings: query, reference, negative, pairs, gallery, top, label, out, batch_size, device.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from sfam_bench.api import explain, explain_ranking, save_explanations, save_ranking
from sfam_bench.app.arguments import to_settings
from sfam_bench.app.cli import exit_with_error, script
from sfam_bench.app.settings import build
from sfam_bench.core.errors import UserError
from sfam_bench.core.files import check_writable
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.report.names import to_prose

SUFFIXES = (".html", ".png", ".svg", ".npz")
HOW = "give two images, A.jpg B.jpg; or one and --gallery FOLDER; or --pairs FILE.csv"


def main() -> None:
    """Read `QUERY [REFERENCE] --NAME VALUE` as settings, then run."""
    try:
        sys.argv[1:] = to_settings("explain", sys.argv[1:])
    except UserError as error:
        exit_with_error(error)
    run()


@script("explain")
def run(cfg: DictConfig) -> None:
    check_choice(cfg, ("reference", "pairs", "gallery"), HOW)
    for given, other in (("negative", "reference"), ("label", "gallery")):
        if cfg[given] is not None and cfg[other] is None:
            raise UserError(f"{given} is given without {other}: leave it out, or give both")
    out = Path(str(cfg.out)).expanduser()
    suffixes = (".html",) if cfg.gallery else (".html", ".npz") if cfg.pairs else SUFFIXES
    if out.suffix not in suffixes:
        raise UserError(f"cannot write {out}: name a file that ends in {' or '.join(suffixes)}")
    check_writable(out.parent)
    model, explainers = build_model(cfg), build(cfg.explainer)
    if cfg.gallery:
        _rank(cfg, model, explainers, out)
        return
    if cfg.pairs:
        found = explain(model, str(cfg.pairs), explainers=explainers, batch_size=cfg.batch_size)
    else:
        query, reference, negative = (plain(cfg[side]) for side in ("query", "reference", "negative"))
        found = [explain(model, query, reference, explainers, negative=negative)]
    for made in found:
        sides = [str(side) for side in made.ids[:2]] if cfg.pairs else []
        flags = [f"{name} has no map ({to_prose(why)})" for name, why in made.flags.items()]
        print("  ".join([f"{made.target} {made.score:.4f}", *sides, *flags]))
    save_explanations(found, out, title=f"Maps of {describe_model(model)}")
    print(f"maps of {describe_model(model)}: {out}")


def _rank(cfg: DictConfig, model: SimilarityModel, explainers: Any, out: Path) -> None:
    label = None if cfg.label is None else str(cfg.label)
    ranking = explain_ranking(
        *(model, str(cfg.query), str(cfg.gallery), cfg.top, explainers), label=label, batch_size=cfg.batch_size
    )
    where = f"{Path(str(cfg.query)).name} in {Path(str(cfg.gallery)).name}"
    save_ranking(ranking, out, f"{where}, by {describe_model(model)}")
    for result in ranking.results:
        verdict = {None: "", True: "  right", False: "  wrong"}[result.is_right]
        print(f"{result.place:4d}  {result.score:.4f}  {result.image_id}{verdict}")
    for image_id in ranking.excluded:
        print(f"left out, since it is the query: {image_id}")
    print(f"page of {describe_model(model)}: {out}")


def check_choice(cfg: DictConfig, ways: tuple[str, ...], how: str) -> None:
    """Raise UserError unless one of these settings is given, with a query unless it is pairs."""
    chosen = [way for way in ways if cfg[way] is not None]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)} are given: choose one; {how}")
    if not chosen or (cfg.query is None) != (chosen == ["pairs"]):
        what = "query and pairs are given" if cfg.query is not None and chosen else "there is nothing to compare"
        raise UserError(f"{what}: {how}")


def build_model(cfg: DictConfig) -> SimilarityModel:
    """The model of the settings, seeded, on its device."""
    torch.manual_seed(cfg.seed)
    device = cfg.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model: SimilarityModel = build(cfg.model).to(device)
    return model


def describe_model(model: SimilarityModel) -> str:
    """Its name, marked if weights are random."""
    random = ", ".join(model.origin.get("random", []))
    return f"{model.name} with RANDOM WEIGHTS ({random})" if random else model.name


def plain(value: Any) -> Any:
    """A setting as Python's own type: a path, or a list of paths."""
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else None if value is None else str(value)
