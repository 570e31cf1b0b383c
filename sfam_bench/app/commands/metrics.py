"""Print the table of metrics and write the page of metrics; or list them, one line each (ls), or one (ls NAME).

Examples:

    sfam-bench metrics ls
    sfam-bench metrics ls deletion_mean_colour
    sfam-bench metrics model=lite0 'metric=[deletion,insertion]' out=metrics.md

Settings: out.
"""

import math
import sys
from pathlib import Path

from omegaconf import DictConfig

from sfam_bench.app.cli import script
from sfam_bench.app.listing import list_entries, list_or_show, wrap
from sfam_bench.app.settings import build
from sfam_bench.core.files import write_text
from sfam_bench.core.geometry import sides
from sfam_bench.core.method_card import remarks
from sfam_bench.core.metric_card import list_needs, measures_and_source, metric_card, metric_facts, settings
from sfam_bench.evaluation.named import find_object
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.tables.metrics import format_interval, metric_table, metrics_page


def main() -> None:
    """Print the list or a card after `ls`, else write the page."""
    if sys.argv[1:2] == ["ls"]:
        list_or_show("metrics", list_metrics, describe, "metric")
    else:
        write_page()


def list_metrics() -> dict[str, str]:
    """The label of each metric, with its direction, and its meaning."""
    metrics = {name: find_object("metric", name) for name in list_entries("metric")}
    catalogue = Catalogue(metric_facts(metrics))
    return {name: f"{catalogue.title(name)}: {catalogue.meaning(name)}" for name in metrics}


def describe(name: str) -> str:
    """The card of a metric."""
    metric = find_object("metric", name)
    catalogue, card, kind = Catalogue(metric_facts({name: metric})), metric_card(metric), type(metric)
    source = measures_and_source(kind)[1]
    facts = {
        "table": catalogue.group(name),
        "range": format_interval(card.range),
        "needs": ", ".join(list_needs(metric)),
        "source": source,
        **{f"setting {key}": value for key, value in settings(metric).items()},
    }
    lines = [name, "", f"{catalogue.title(name)}: {catalogue.meaning(name)}", wrap(remarks(kind)), ""]
    lines += [f"{key}: {value}" for key, value in facts.items() if value]
    lines += ["", "Limitations:", *(f"  - {entry}" for entry in card.degenerate)] if card.degenerate else []
    return "\n".join(lines)


@script("metrics")
def write_page(cfg: DictConfig) -> None:
    size = cfg.model.image_size or build(cfg.model).geometry.crop
    built, pixels = build(cfg.metric), math.prod(sides(size))
    metrics = {name: built[name] for name in Catalogue(metric_facts(built)).sort(built)}
    print(metric_table(metrics, pixels).drop(columns="measures").to_string(index=False))
    write_text(Path(cfg.out), metrics_page(metrics, pixels))
    print(f"page: {cfg.out}")
