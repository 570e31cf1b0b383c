"""A grid of trainings and evaluations: its cells, what they are called, and the commands that make them."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from sfam_bench.app.overrides import write_value
from sfam_bench.app.stored import list_packages
from sfam_bench.core.errors import UserError
from sfam_bench.core.provenance import config_hash
from sfam_bench.jobs.job import Job
from sfam_bench.jobs.plan import JobList
from sfam_bench.jobs.status import Status
from sfam_bench.report.tables.cells import write_cells

KEYS = ("experiment", "fixed", "train", "evaluate")
STAGES = ("train", "evaluate")
OURS = ("run_dir", "model.name")  # the sweep sets them itself, and resume=true where it is not "anyway"
LONGEST = 64  # characters of a name before its hash


def cell_name(overrides: Sequence[str], axes: Sequence[str] | None = None) -> str:
    """A readable name: a word for each axis or override, and a hash of the overrides that affect results, in any order.

    What a job asks of the cluster is left out.
    """
    values = {key: value for key, value in parse_overrides(overrides).items() if changes_results(key)}
    shown = [format_word(key, values[key]) for key in (values if axes is None else axes) if key in values]
    return "-".join(filter(None, ["-".join(shown)[:LONGEST].strip("-"), config_hash(values)[:8]]))


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """The value of each override by its key; the last one of a key counts, as in Hydra."""
    try:
        found = OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise UserError(f"cannot read the override {error.override}: write KEY=VALUE, as pairs.count=8") from error
    return {override.get_key_element(): override.value() for override in found}


def changes_results(key: str) -> bool:
    """Whether an override affects results."""
    return not key.startswith("cluster.") and key != "resume"


def format_word(key: str, value: Any) -> str:
    """A value in a file name, after the last part of its key unless it is clear alone; no other than [A-Za-z0-9._-]."""
    text = "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    alone = isinstance(value, list) or (isinstance(value, str) and text[:1].isalpha())
    return re.sub(r"[^A-Za-z0-9._]+", "-", text if alone else re.split(r"[./]", key)[-1] + text).strip("-.")


@dataclass(frozen=True)
class Sweep:
    """Overrides of every job, and the axes of training (None: nothing is trained) and further ones of evaluation."""

    name: str
    out: Path
    given: tuple[str, ...]
    train: dict[str, list[Any]] | None
    evaluate: dict[str, list[Any]]

    @classmethod
    def of(cls, name: str, config: Mapping[str, Any], out: Path, more: Sequence[str] = ()) -> "Sweep":
        """Read conf/sweep/NAME.yaml; UserError if it is not a sweep."""
        if left_over := sorted(set(config) - set(KEYS)):
            raise UserError(f"sweep {name} has no key '{left_over[0]}': it has {', '.join(KEYS)}")
        fixed = read_mapping(name, "fixed", config.get("fixed"))
        train, evaluate = (read_mapping(name, stage, config.get(stage)) for stage in STAGES)
        for stage, axes in ((STAGES[0], train), (STAGES[1], evaluate)):
            for key, values in axes.items():
                if not isinstance(values, list) or not values:
                    raise UserError(f"sweep {name}: {stage}.{key} is {values!r}: expected a list of values")
                if len({write_value(value) for value in values}) < len(values):
                    raise UserError(f"sweep {name}: {stage}.{key} names a value twice: {write_value(values)}")
        experiment = {"experiment": config["experiment"]} if config.get("experiment") else {}
        given = (*(f"{key}={write_value(value)}" for key, value in {**experiment, **fixed}.items()), *more)
        keys = [*{**experiment, **fixed}, *(key.lstrip("+") for key in parse_overrides(more)), *train, *evaluate]
        for key in (*OURS, *(("model.checkpoint",) if config.get("train") is not None else ())):
            if key in keys:
                raise UserError(f"sweep {name} sets {key} itself: leave it out")
        if twice := sorted({key for key in {*train, *evaluate} if keys.count(key) > 1}):
            raise UserError(f"sweep {name}: {twice[0]} is an axis and set once more: choose one, or sweep.train=...")
        return cls(name, out.resolve(), given, None if config.get("train") is None else train, evaluate)

    @property
    def stages(self) -> tuple[str, ...]:
        """The commands that it runs."""
        return STAGES if self.train is not None else STAGES[1:]

    @property
    def packages(self) -> list[str]:
        """Packages outside sfam_bench whose objects the command line names; these are admitted."""
        return sorted(
            {name for job in self.jobs(STAGES[1]) for name in list_packages(parse_overrides(job.command[1:]))}
        )

    def axes(self, stage: str) -> dict[str, list[Any]]:
        """The axes of a stage; an evaluation also has the axes of its training."""
        return (self.train or {}) if stage == STAGES[0] else {**(self.train or {}), **self.evaluate}

    def jobs(self, stage: str) -> list[Job]:
        """The cells of a stage."""
        axes = self.axes(stage)
        return [self.job(stage, dict(zip(axes, values, strict=True))) for values in product(*axes.values())]

    def job(self, stage: str, values: Mapping[str, Any]) -> Job:
        """The cell at some values of the axes of a stage."""
        overrides = [*self.given, *(f"{key}={write_value(value)}" for key, value in values.items())]
        name = cell_name(overrides, list(values))
        folder, after = f"{stage}-{name}", list[str]()
        if stage == STAGES[1]:
            overrides.append(f"model.name={write_value(name)}")
            if self.train is not None:
                after = [self.job(STAGES[0], {key: values[key] for key in self.train}).id]
        result = "model.safetensors" if stage == STAGES[0] else "manifest.json"
        return Job(folder, after, [f"{folder}/{result}"], [stage, *overrides], axes=dict(values))

    def plan(self, report: bool = True) -> JobList:
        """All cells as jobs, trainings first; `report`: whether a page is written, too."""
        jobs = [job for stage in self.stages for job in self.jobs(stage)]
        return JobList("sweep", str(Path.cwd()), jobs, facts={"name": self.name, "report": report})


def read_mapping(name: str, key: str, value: Any) -> dict[str, Any]:
    """A part of a sweep; empty where it is absent."""
    if value is not None and not isinstance(value, Mapping):
        raise UserError(f"sweep {name}: {key} is {value!r}: expected setting: value lines")
    return dict(value or {})


def tabulate(out: Path, plan: JobList, now: Status, unchanged: bool) -> None:
    """Write the table of a sweep, and its page unless that shows all; exit with 1 if cells are not done."""
    from sfam_bench.report.writer import write_report  # matplotlib, which jobs do without

    done, cells = write_cells(out, plan, now)
    print(f"table: {out / 'cells.md'}")
    page = out / "report" / "index.html"
    if done and plan.facts["report"] and not (unchanged and page.exists()):
        write_report([out / name for name in done], page.parent)
        print(f"page: {page}")
    if len(done) < len(cells):
        where = f"see {out / 'cells.md'} and {out / 'failures'}, correct the cause, and start the sweep again"
        print(f"error: {len(cells) - len(done)} of {len(cells)} cells are not done: {where}", file=sys.stderr)
        sys.exit(1)
