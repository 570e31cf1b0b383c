"""Do a cell of a sweep: one training or one evaluation, in a folder of its own below the sweep."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from inspect import unwrap
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from sfam_bench.app.overrides import write_value
from sfam_bench.app.parts import use_allotted_threads
from sfam_bench.app.paths import expand_paths
from sfam_bench.app.schema import CONF, check_keys
from sfam_bench.app.settings import check_settings, resolve
from sfam_bench.app.stored import admit_config
from sfam_bench.app.sweeping import STAGES
from sfam_bench.app.work import Perform, Signals
from sfam_bench.core.errors import UserError
from sfam_bench.core.provenance import run_facts
from sfam_bench.core.signals import Interrupted
from sfam_bench.jobs.job import Job
from sfam_bench.jobs.plan import FILE, JobList


@contextmanager
def cell_worker(root: Path, plan: JobList, first: Job, allow: Sequence[str]) -> Iterator[Perform]:
    """A worker for the cells of a sweep."""
    use_allotted_threads()

    def perform(job: Job, stop_at: Signals) -> dict[str, Any]:
        try:
            run_command(root, job, allow)
        except SystemExit as stop:
            if isinstance(stop.code, int) and stop.code > 128:  # of a training, which has saved its state
                raise Interrupted(stop.code - 128, "a step") from None
            raise UserError(f"it ended with exit code {stop.code}") from stop
        return {"code": run_facts()["git"]}

    yield perform


def run_command(root: Path, job: Job, allow: Sequence[str]) -> None:
    """Run or continue the command of a cell in its folder; UserError if it names objects that are not admitted."""
    script, *overrides = job.command
    if script not in STAGES:
        raise UserError(f"{root / FILE}: {job.id} would run '{script}': cells run {' or '.join(STAGES)}")
    overrides.append(f"run_dir={write_value(str(root / job.id))}")
    overrides += [f"model.checkpoint={write_value(str(root / name / 'model.safetensors'))}" for name in job.after]
    with compose_command(script, overrides) as cfg:
        cfg.resume = cfg.resume or True
        expand_paths(cfg)
        check_keys(cfg)
        check_settings(cfg)
        admitted = admit_config(resolve(cfg), root / FILE, allow)
        unwrap(import_module(f"sfam_bench.app.commands.{script}").main)(admitted)


@contextmanager
def compose_command(script: str, overrides: Sequence[str]) -> Iterator[DictConfig]:
    """The config of a command, as Hydra composes it for a new process."""
    before, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose(script, list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        yield cfg
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = before, config
