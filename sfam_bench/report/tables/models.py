"""Trained models beside what they were before training, and beside what was published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sfam_bench.core.errors import UserError, first_line
from sfam_bench.core.files import read_json
from sfam_bench.report.names import to_prose
from sfam_bench.report.tables.tables import NOTHING, Cell, Column, Table
from sfam_bench.runs.manifests import EACH, NONE, NUMBER, TEXT, find_misfit
from sfam_bench.runs.proof import check_digest
from sfam_bench.statistics import LEVEL, clustered_intervals, holm, sign_flip_p

KEY = {  # the values that identify a training, and their places in its facts
    **{"dataset": "split.dataset", "split": "split.name", "model": "config.model.name", "loss": "loss"},
    **{"miner": "miner", "part": "config.train.part", "recipe": "recipe", "seed": "config.train.seed"},
}
FILES = ("model.json", "retrieval.parquet", "history.csv")
NEEDED = (*KEY.values(), "split.train_classes", "chosen")
MAY_HOLD = {
    **{"split": {"dataset": TEXT, "name": TEXT, "train_classes": [(int,)]}, "chosen": TEXT, "digests": {EACH: TEXT}},
    "published": {"recall_at_1": (*NUMBER, NONE), **dict.fromkeys(("source", "mark", "setting"), TEXT)},
}
MEASURES = ("recall_at_1", "map_at_r")
STAGES = ("frozen", "trained")
SIDES = (*STAGES, "difference")
COLUMNS = [f"{name}_{side}" for name in MEASURES for side in SIDES]
HITS = [f"recall_at_1_{stage}" for stage in STAGES]  # 0 or 1 of each image
DIFFERENCES = [f"{name}_difference" for name in MEASURES]
TESTS = [f"{name}_p_holm" for name in DIFFERENCES]
WITHIN = 0.01  # so far below the published recall@1 is still a reproduction
OFFICIAL = {  # classes and images of the zero-shot halves: training classes, test classes, test images
    "cub": (100, 100, 5_924),
    "cars196": (98, 98, 8_131),
    "sop": (11_318, 11_316, 60_502),
}
NOTE = (
    "Mean over the test images [95 % interval, from resampling their classes]; difference: of the same images, trained "
    "minus frozen; bold: above zero, p ≤ 0.05 by sign flips of classes after Holm over all differences of the table."
)
BESIDE = (
    f"recall@1. PASS: at least what was published less {WITHIN:g}; DRIFT: less than that; only the official split in "
    "full is judged. Recalled figures were not read in the paper itself."
)


@dataclass(frozen=True)
class Training:
    """A training: its facts, and the values of each test image at both stages."""

    root: Path
    facts: Mapping[str, Any]
    items: pd.DataFrame  # by image_id: label and COLUMNS
    seconds: float  # NaN if the history does not record it

    @property
    def key(self) -> tuple[str, ...]:
        """Its identifying values, in the order of KEY."""
        return tuple(str(_fact(self.facts, where)) for where in KEY.values())


def read_training(root: Path) -> Training:
    """Read a run folder of train; UserError if it is not one, or incomplete."""
    again = "train again into another run_dir"
    if absent := [name for name in FILES if not (root / name).is_file()]:
        raise UserError(f"{root} is not a finished training (no {absent[0]}): pass a run_dir of train")
    facts = read_json(root / "model.json", again)
    if wrong := find_misfit(facts, MAY_HOLD):
        raise UserError(f"{root / 'model.json'} does not describe a training: {wrong}; {again}")
    for name in FILES[1:]:
        check_digest(root, facts, root / name, again)
    try:
        items = pd.read_parquet(root / "retrieval.parquet")
        history = pd.read_csv(root / "history.csv")
    except Exception as error:  # pyarrow and pandas raise a dozen kinds of a damaged file
        raise UserError(f"cannot read the training in {root} ({first_line(error)}): {again}") from error
    if unsaid := [where for where in NEEDED if _fact(facts, where) is None]:
        raise UserError(f"{root / 'model.json'} does not say {unsaid[0]}: {again}")
    if "seconds" in history and not pd.api.types.is_numeric_dtype(history["seconds"]):
        raise UserError(f"{root / 'history.csv'}: column seconds does not hold numbers; {again}")
    seconds = history["seconds"].sum() if "seconds" in history else np.nan
    return Training(root, facts, _by_image(root, items), float(seconds))


def _fact(facts: Any, where: str) -> Any:
    """A value of nested mappings by its dotted name; None if absent."""
    for name in where.split("."):
        facts = facts.get(name) if isinstance(facts, dict) else None
    return facts


def _by_image(root: Path, items: pd.DataFrame) -> pd.DataFrame:
    """One row an image, with the values of both stages and their differences."""
    path = root / "retrieval.parquet"
    if absent := {"image_id", "label", "stage", *MEASURES} - {*items.columns}:
        raise UserError(f"{path} has no column {sorted(absent)[0]}: train again into another run_dir")
    sides = {stage: part.set_index("image_id") for stage, part in items.groupby("stage")}
    frozen, trained = (sides.get(stage, items[:0].set_index("image_id"))["label"].sort_index() for stage in STAGES)
    if frozen.empty or not frozen.index.is_unique or not frozen.equals(trained):
        raise UserError(
            f"{path} does not hold the same images frozen and trained, each once: train again into another run_dir"
        )
    before, after = (sides[stage].loc[frozen.index, [*MEASURES]].to_numpy(dtype=float) for stage in STAGES)
    if not np.isfinite([before, after]).all():
        raise UserError(f"{path} holds values that are not finite: train again into another run_dir")
    values = np.stack([before, after, after - before], axis=2).reshape(len(frozen), -1)
    return pd.DataFrame(values, frozen.index, COLUMNS).assign(label=frozen)


def model_table(trainings: Sequence[Training], draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """One row a training: means and intervals of both stages and of their difference, and what was published."""
    if not trainings:
        raise UserError("no training to report: pass run folders of train, for example runs=[results/cub]")
    seen: dict[tuple[str, ...], Path] = {}
    for training in trainings:
        if other := seen.get(training.key):
            raise UserError(f"{other} and {training.root} both hold {' · '.join(training.key)}: pass one of them")
        seen[training.key] = training.root
    table = pd.DataFrame([_row(training, draws, seed) for training in trainings])
    for _, part in table.groupby(["dataset", "split"], sort=False):  # a table of `model_sheets`
        table.loc[part.index, TESTS] = holm(part[TESTS].to_numpy().ravel()).reshape(len(part), -1)
    return table


def _row(training: Training, draws: int, seed: int) -> dict[str, Any]:
    items = training.items
    values, labels = items[COLUMNS].to_numpy(), items["label"].to_numpy()
    found = clustered_intervals(values, labels, draws, seed, shares=np.isin(COLUMNS, HITS))
    row: dict[str, Any] = dict(zip(KEY, training.key, strict=True))
    row |= {"images": len(items), "classes": items["label"].nunique(), "chosen": training.facts["chosen"]}
    for name, interval in zip(COLUMNS, found, strict=True):
        row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    p_values = sign_flip_p(items[DIFFERENCES].to_numpy(), labels, draws, seed)
    row |= dict(zip(TESTS, p_values.tolist(), strict=True))
    return {**row, "seconds": training.seconds, **compare_with_published(training, row["recall_at_1_trained"])}


def compare_with_published(training: Training, ours: float) -> dict[str, Any]:
    """The published recall@1, the difference of ours, and whether it is within the tolerance."""
    published = training.facts.get("published") or {}
    figure = published.get("recall_at_1")
    why = _why_incomparable(training) if figure is not None else "no recall@1 was published" if published else ""
    difference = np.nan if figure is None else ours - figure
    verdict = "not judged" if why else "" if figure is None else "PASS" if difference >= -WITHIN - 1e-9 else "DRIFT"
    return {
        **{"published": np.nan if figure is None else figure, "published_difference": difference},
        **{"verdict": verdict, "why": why},
        **{name: published.get(name, "") for name in ("source", "mark", "setting")},
    }


def _why_incomparable(training: Training) -> str:
    """Why the published figure is not comparable with this training; empty if it is."""
    name = str(training.facts["split"]["dataset"])
    if name not in OFFICIAL:
        return f"{name} has no official size here"
    sizes = (len(training.facts["split"]["train_classes"]), training.items["label"].nunique(), len(training.items))
    named = zip(("training classes", "test classes", "test images"), sizes, OFFICIAL[name], strict=True)
    differing = [f"{size} of {official} {what}" for what, size, official in named if size != official]
    return f"a part of the data: {', '.join(differing)}" if differing else ""


def model_sheets(frame: pd.DataFrame) -> list[Table]:
    """The rows of one split as two tables that fit a page: measures, and comparison with published figures."""
    title = f"{' · '.join(map(str, frame.iloc[0][['dataset', 'split']]))} ({describe_sizes(frame)})"
    rows = frame.assign(name=row_names(frame)).to_dict("records")
    columns = [Column(to_prose(name), side) for name in MEASURES for side in SIDES]
    columns += [Column("n", "images; classes"), Column("chosen by"), Column("seconds")]
    sheets = [Table(title, tuple(columns), tuple((row["name"], _cells(row)) for row in rows), NOTE, head="model")]
    if judged := [row for row in rows if not np.isnan(row["published"])]:
        heads = ("ours", "published", "difference", "verdict", "source", "setting")
        table = tuple((row["name"], _published_cells(row)) for row in judged)
        sheets.append(Table(f"{title}: published", tuple(map(Column, heads)), table, BESIDE, head="model"))
    return sheets


def describe_sizes(frame: pd.DataFrame) -> str:
    """The numbers of images and classes of one split."""
    return f"{frame['images'].iloc[0]} test images of {frame['classes'].iloc[0]} classes"


def row_names(frame: pd.DataFrame) -> list[str]:
    """Row names of one split: model, loss and part, and further facts that make them unique."""
    names = ["model", "loss", "part"]
    for more in ("miner", "recipe", "seed"):
        if frame.duplicated(names).any() and len(set(frame[more])) > 1:
            names.append(more)
    return [" · ".join(map(str, row)) for row in frame[names].itertuples(index=False)]


def _cells(row: Mapping[Any, Any]) -> tuple[Cell, ...]:
    measured = [_measured_cells(row, name) for name in COLUMNS]
    seconds = NOTHING if np.isnan(row["seconds"]) else f"{row['seconds']:.0f}"
    return (*measured, Cell(f"{row['images']}; {row['classes']}"), Cell(str(row["chosen"])), Cell(seconds))


def _measured_cells(row: Mapping[Any, Any], name: str) -> Cell:
    signed = name.endswith("difference")
    sign = "+" if signed else ""
    mean, low, high = (f"{round(row[key], 3) + 0.0:{sign}.3f}" for key in (name, f"{name}_low", f"{name}_high"))
    interval = f"[{low}, {high}]" if np.isfinite(row[f"{name}_low"]) and low != high else ""
    better = signed and bool(row[name] > 0 and row[f"{name}_p_holm"] <= LEVEL)
    return Cell(mean, interval, best=better)


def _published_cells(row: Mapping[Any, Any]) -> tuple[Cell, ...]:
    published = NOTHING if np.isnan(row["published"]) else f"{row['published']:.3f}"
    difference = NOTHING if np.isnan(row["published"]) else f"{row['published_difference']:+.3f}"
    verdict = ": ".join(filter(None, [row["verdict"], row["why"]]))
    source = " ".join(filter(None, [row["source"], f"({row['mark']})" if row["mark"] else ""]))
    ours = _measured_cells(row, "recall_at_1_trained")
    return (ours, *map(Cell, (published, difference, verdict, source, row["setting"])))
