"""Print the table of metrics, and write the page of cards."""

from pathlib import Path

from omegaconf import DictConfig

from experiments.cli import script
from experiments.settings import build
from sfam_bench.files import atomic
from sfam_bench.report.metrics import metric_table, metrics_page
from sfam_bench.report.names import sort_metrics


@script("metrics")
def main(cfg: DictConfig) -> None:
    built, pixels = build(cfg.metric), int(cfg.model.image_size) ** 2
    metrics = {name: built[name] for name in sort_metrics([*built])}
    print(metric_table(metrics, pixels).drop(columns="measures").to_string(index=False))
    with atomic(Path(cfg.out)) as path:
        path.write_text(metrics_page(metrics, pixels), encoding="utf-8")
    print(f"page: {cfg.out}")


if __name__ == "__main__":
    main()
