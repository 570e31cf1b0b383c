"""Rank a folder of images for a query and write a page that explains each result, and why it is above the next.

The model is EfficientNet-Lite0 with ImageNet weights unless another is chosen.

Examples:

    sfam-bench explain query.jpg --gallery photos --top 10 --out page.html
    sfam-bench explain query.jpg --gallery photos --label robin model.checkpoint=RUN/model.safetensors
    sfam-bench explain query.jpg --gallery photos model=checkpoint model.path=FILE 'explainer=[sfam,grad_cam]'

Settings: query, gallery, top, label, out, batch_size, device.
"""

import sys
from pathlib import Path

import torch
from omegaconf import DictConfig

from sfam_bench.api import explain_ranking, save_ranking
from sfam_bench.app.cli import exit_with_error, script
from sfam_bench.app.settings import build
from sfam_bench.app.sweeping import write_value
from sfam_bench.core.errors import UserError
from sfam_bench.core.files import check_writable

OPTIONS = ("--gallery", "--top", "--label", "--out")


def main() -> None:
    """Read `QUERY --gallery DIR --top N --label NAME --out FILE` as settings, then run."""
    try:
        sys.argv[1:] = to_settings(sys.argv[1:])
    except UserError as error:
        exit_with_error(error)
    run()


def to_settings(arguments: list[str]) -> list[str]:
    """The arguments as settings; other arguments stay as they are."""
    found, left = list[str](), list(arguments)
    while left:
        text = left.pop(0)
        name, equals, value = text.partition("=")
        if name in OPTIONS:
            if not equals and not left:
                raise UserError(f"{name} has no value: give one, as in {name} VALUE")
            value = value if equals else left.pop(0)
            found.append(f"{name[2:]}={value if name == '--top' else write_value(value)}")
        elif not equals and not text.startswith("-") and not any(other.startswith("query=") for other in found):
            found.append(f"query={write_value(text)}")
        else:
            found.append(text)
    return found


@script("explain")
def run(cfg: DictConfig) -> None:
    out = Path(str(cfg.out)).expanduser()
    check_writable(out.parent)
    torch.manual_seed(cfg.seed)
    device = cfg.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model, explainers = build(cfg.model).to(device), build(cfg.explainer)
    label = None if cfg.label is None else str(cfg.label)
    ranking = explain_ranking(
        *(model, str(cfg.query), str(cfg.gallery), cfg.top, explainers), label=label, batch_size=cfg.batch_size
    )
    save_ranking(ranking, out, f"{Path(str(cfg.query)).name} in {Path(str(cfg.gallery)).name}, by {model.name}")
    for result in ranking.results:
        verdict = {None: "", True: "  right", False: "  wrong"}[result.is_right]
        print(f"{result.place:4d}  {result.score:.4f}  {result.image_id}{verdict}")
    for image_id in ranking.excluded:
        print(f"left out, since it is the query: {image_id}")
    print(f"page: {out}")
