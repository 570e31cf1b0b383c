"""Print the table of metrics and write the page of metrics.

Examples:

    sfam-bench metrics model=lite0 out=metrics.md
    sfam-bench metrics model=lite0 'metric=[deletion,insertion]' out=metrics.md
    sfam-bench metrics model=resnet50 out=metrics.md

Settings: out.
"""

import math
from pathlib import Path

from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.settings import build
from sfam_bench.core.files import atomic
from sfam_bench.core.geometry import sides
from sfam_bench.core.metric_card import metric_facts
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.tables.metrics import metric_table, metrics_page


@script("metrics")
def main(cfg: DictConfig) -> None:
    size = cfg.model.image_size or build(cfg.model).geometry.crop
    built, pixels = build(cfg.metric), math.prod(sides(size))
    metrics = {name: built[name] for name in Catalogue(metric_facts(built)).sort(built)}
    print(metric_table(metrics, pixels).drop(columns="measures").to_string(index=False))
    with atomic(Path(cfg.out)) as path:
        path.write_text(metrics_page(metrics, pixels), encoding="utf-8")
    print(f"page: {cfg.out}")
