"""Measure the maps of two images, or of pairs in a CSV, and print the table: metrics down, methods across.

The model is EfficientNet-Lite0 with ImageNet weights unless another is chosen. Means of many pairs have no intervals
here; `sfam-bench evaluate` and `report` give them.

Examples:

    sfam-bench score a.jpg b.jpg --explainers sfam,grad_cam,chance
    sfam-bench score a.jpg b.jpg --metrics pointing_game,iou_50 --box 40,30,180,200
    sfam-bench score --pairs pairs.csv --out values.csv

Settings: query, reference, negative, pairs, foreground, box, metrics, out, batch_size, device.
"""

import sys
from collections import Counter
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from sfam_bench.api import evaluate
from sfam_bench.app.arguments import to_settings
from sfam_bench.app.cli import exit_with_error, script
from sfam_bench.app.commands.explain import build_model, check_choice, describe_model, plain
from sfam_bench.app.settings import build
from sfam_bench.core.errors import UserError
from sfam_bench.core.files import atomic, check_writable
from sfam_bench.core.metric_card import list_needs
from sfam_bench.core.records import PAIR
from sfam_bench.evaluation.named import metrics_of
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.names import to_prose

HOW = "give two images, A.jpg B.jpg, or --pairs FILE.csv"
SIDES = ("query", "reference", "negative", "foreground", "box")


def main() -> None:
    """Read `QUERY REFERENCE --NAME VALUE` as settings, then run."""
    try:
        sys.argv[1:] = to_settings("score", sys.argv[1:])
    except UserError as error:
        exit_with_error(error)
    run()


@script("score")
def run(cfg: DictConfig) -> None:
    check_choice(cfg, ("reference", "pairs"), HOW)
    if cfg.pairs and (given := [name for name in SIDES[2:] if cfg[name] is not None]):
        raise UserError(f"{given[0]} is given beside pairs: write it as a column of the CSV")
    out = Path(str(cfg.out)).expanduser()
    if out.suffix != ".csv":
        raise UserError(f"cannot write {out}: name a file that ends in .csv")
    check_writable(out.parent)
    metrics = build(cfg.metric) if cfg.get("metric") else None
    if cfg.metrics is not None:
        metrics = {**metrics_of(plain(cfg.metrics), ()), **(metrics or {})}
    model, explainers = build_model(cfg), build(cfg.explainer)
    pairs = str(cfg.pairs) if cfg.pairs else pd.DataFrame([{n: plain(cfg[n]) for n in SIDES if cfg[n] is not None}])
    name = Path(str(cfg.pairs or "pair")).stem
    found = evaluate(model, pairs, explainers, metrics, dataset=name, batch_size=cfg.batch_size)
    if metrics and len(found.attrs["skipped"]) == len(metrics):
        needed = sorted({need for name in metrics for need in list_needs(metrics[name])})
        raise UserError(f"none of the metrics can be measured: they need {', '.join(needed)} of the pairs")
    print(format_records(found))
    if metrics and found.attrs["skipped"]:
        lacking = {name: ", ".join(list_needs(metrics[name])) for name in found.attrs["skipped"]}
        print("skipped: " + "; ".join(f"{name} needs {need}" for name, need in lacking.items()))
    with atomic(out) as file:
        found.to_csv(file, index=False)
    print(f"values of {describe_model(model)}: {out}")


def format_records(records: pd.DataFrame) -> str:
    """Means over pairs in aligned columns, the score in the last line; and how many values each flag left out."""
    own = records[records["explainer"] != PAIR]
    facts = records[(records["explainer"] == PAIR) & (records["metric"] == "s_full")]
    catalogue = Catalogue(records.attrs["metrics"])
    names = catalogue.sort(dict.fromkeys(own["metric"]))
    table = own.pivot_table("value", "metric", "explainer", sort=False, dropna=False)
    table = table.reindex(index=names, columns=list(dict.fromkeys(own["explainer"])))
    table.index, table.columns.name = pd.Index([catalogue.title(name) for name in names]), None
    lines = [table.map(lambda value: f"{value:.3f}").to_string()] if len(table) else []
    count = int(facts["value"].notna().sum())
    pairs = "1 pair" if count == 1 else f"{count} pairs"
    pairs += f" of {len(facts)}" if count < len(facts) else ""
    left_out = Counter(flag for flag in own["flag"] if flag)
    lines += [f"{to_prose(flag)}: {count} values left out" for flag, count in left_out.items()]
    return "\n".join([*lines, f"{facts['target'].iloc[0]} {facts['value'].mean():.4f}, {pairs}"])
