"""What every script shares: Hydra's entry, and one-line errors with exit code 2 for what the user can mend."""

import fcntl
import functools
import logging
import os
import re
import shlex
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sfam_bench.app.paths import expand, expanded
from sfam_bench.app.schema import CONF, check_keys, suggestion
from sfam_bench.app.settings import check_settings
from sfam_bench.app.sweeping import cell, own_overrides, shares
from sfam_bench.core.errors import UserError
from sfam_bench.core.provenance import run_facts
from sfam_bench.core.signals import readers_may_leave
from sfam_bench.jobs.job import Job

MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError)
# What Hydra says, and what it means to somebody who has mistyped an argument
PLAINER = {
    r"Key '([^']+)' is not in struct": r"no \1 is chosen: name at least one",
    r"Interpolation key '(\w+)\.(\w+)' not found": r"needs \1 '\2', which is not chosen: add it, as in \1=[...,\2]",
    r"Missing mandatory value: (\S+)": r"\1 is not given: add \1=...",
    r"^In '\w+': | Available options in .*| Config search path: .*|, set env var HYDRA_FULL_ERROR=1.*": "",
}

log = logging.getLogger(__name__)
# here, since the processes of joblib and submitit import this file before they read a config
OmegaConf.register_new_resolver("cell", cell, replace=True)
OmegaConf.register_new_resolver("shares", shares, replace=True)
# that it is checked by the launcher's own schema is welcome
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/joblib' is validated against ConfigStore schema")


def script(config: str, first: str = "") -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Decorate `main(cfg)` with the config `conf/<config>.yaml`; a word in the first place is the setting `first`."""

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def task(cfg: DictConfig) -> None:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                once(main, cfg)
                return
            try:
                expand(cfg)
                check_keys(cfg)
                check_settings(cfg)
                main(cfg)
            except MISTAKES as error:  # here, before Hydra adds a line of its own
                fail(error)

        entry = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config)(task)

        def run() -> None:
            # Hydra prints its own errors and exits with 1; this hands them on
            os.environ["HYDRA_FULL_ERROR"] = "1"
            try:
                if first and sys.argv[1:] and "=" not in sys.argv[1] and not sys.argv[1].startswith("-"):
                    sys.argv[1] = f"{first}={sys.argv[1]}"
                sys.argv[1:] = expanded(sys.argv[1:])
                with readers_may_leave():
                    entry()
            except MISTAKES as error:
                fail(UserError(unknown[0]) if (unknown := no_setting(config, str(error))) else error)
            except YAMLError as error:  # of a file of the user's own
                fail(UserError(f"a config file cannot be read ({error}): correct it"))
            except ValueError as error:
                if "group override must be" not in str(error):  # Hydra's, of loss=null or recipe=7
                    raise
                fail(UserError("; ".join(no_choices(sys.argv[1:]))))
            except KeyboardInterrupt:
                print("interrupted: what was finished is kept; continue with resume=true", file=sys.stderr)
                sys.exit(130)

        return run

    return decorate


def once(main: Callable[[DictConfig], None], cfg: DictConfig) -> None:
    """Do a job of a multirun in its own folder unless it is done there; an unfinished one is continued.

    Leaves done.json, or failures/ID.json with the traceback, which launchers lose, and raises what they can carry.
    """
    hydras, start = HydraConfig.get(), time.perf_counter()
    folder = Path(hydras.runtime.output_dir)
    job = Job(folder.name, folder.parent)
    facts = {"overrides": own_overrides(), "host": socket.gethostname(), "pid": os.getpid()}
    with locked(folder), (folder / "job.log").open("a") as printed, redirect_stdout(printed):
        if job.done:
            log.info("%s: done already", job.id)
            return
        try:
            for name, value in {"run_dir": str(folder), "resume": cfg.get("resume") or True}.items():
                if name in cfg:
                    cfg[name] = value
            spread()
            expand(cfg)
            check_keys(cfg)
            check_settings(cfg)
            trained(cfg)
            main(cfg)
        except SystemExit as stop:
            hand_on(stop)
            raise
        except Exception as error:
            log.exception("%s failed", job.id)
            why = one_line(error) or type(error).__name__
            at = datetime.now(UTC).isoformat(timespec="seconds")
            job.failed({**facts, "at": at, "error": why, "traceback": traceback.format_exc()})
            raise UserError(f"{job.id}: {why} (traceback: {job.failure})") from None  # others may not be picklable
        job.finished({**facts, "seconds": time.perf_counter() - start, "code": run_facts()["git"]})


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, whoever else wants it waits: a job that was started twice is done once."""
    with (folder / ".lock").open("w") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def spread() -> None:
    """Take as many threads as SLURM gave, which may let a job see all cores of its node."""
    if (cpus := os.environ.get("SLURM_CPUS_PER_TASK")) and (torch := sys.modules.get("torch")):
        torch.set_num_threads(int(cpus))


def trained(cfg: DictConfig) -> None:
    """Raise UserError where a job needs the model of another job of its sweep that is not done."""
    checkpoint = Path(OmegaConf.select(cfg, "model.checkpoint") or "")
    training = Job(checkpoint.parent.name, checkpoint.parent.parent)
    if training.id.startswith("train-") and training.root == Path(cfg.run_dir).parent and not training.done:
        raise UserError(f"its training {training.id} is {training.state}: {training.why or 'start the sweep again'}")


def hand_on(stop: SystemExit) -> None:
    """Send a signal that ended a job once more, to whoever listened before: submitit, which has SLURM start it anew."""
    number = stop.code - 128 if isinstance(stop.code, int) else 0
    if number in set(signal.Signals) and callable(signal.getsignal(number)):
        signal.raise_signal(number)


def fail(error: BaseException) -> NoReturn:
    """Say what is wrong on one line and exit with 2."""
    if isinstance(error, BrokenPipeError):  # which `readers_may_leave` looks at
        raise error
    print(f"error: {one_line(error)}", file=sys.stderr)
    sys.exit(2)


def one_line(error: BaseException) -> str:
    """The message of the user's own mistake, or of Hydra's error with its first cause, on one line."""
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    if isinstance(cause, UserError):
        return " ".join(str(cause).split())
    if isinstance(error, OSError) and not isinstance(error, HydraException):  # one of Hydra's is both
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; check the path, its permissions and the free space"
    if given := unreadable(error):
        return given
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = " ".join(line for line in lines if not line.startswith(("full_key: ", "object_type=", "reference_type=")))
    keys = [line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")]
    if absent := re.match(r"Error locating target '([^']+)'", message):
        return f"{f'{keys[0]}: ' if keys else ''}there is no {absent[1]} to import: correct its _target_"
    if failed := re.match(r"Error in call to target '([^']+)'", message):
        kind, where = type(cause).__name__, f"{keys[0]}: " if keys else ""
        return f"{where}{failed[1]} failed ({kind}: {' '.join(str(cause).split())[:300]}): check its settings and files"
    for pattern, plain in PLAINER.items():
        message = re.sub(pattern, plain, message)
    message = re.sub(r"^Could not (?:find|load) '([\w/]+)/([^/']+)'\.?", options, message)
    return f"{keys[0]}: {message}"[:600] if keys and keys[0] not in message else message[:600]


def unreadable(error: BaseException) -> str:
    """Which argument Hydra's grammar cannot read, and how it is quoted; nothing for other errors."""
    found = re.match(r"Ambiguous value for argument '(.*)'", str(error))
    argument = error.override if isinstance(error, OverrideParseException) else found[1] if found else ""
    name, equals, value = argument.partition("=")
    if argument and not equals:
        return f"'{argument}' is no setting: write it as NAME=VALUE"
    quoted = QuotedString(value, Quote.double).with_quotes()
    why = f"the value of {name}, {value}, has characters with a meaning of their own: quote it"
    return f"{why}: {shlex.quote(f'{name}={quoted}')}" if argument else ""


def no_setting(config: str, message: str) -> list[str]:
    """What to say where Hydra found that a script has no such setting; it would advise to add it."""
    found = re.findall(r"Could not override '([^']+)'\.\s+To append to your config", message)
    return [f"no setting '{key}': {suggestion(config, key)} (all settings: --cfg job)" for key in found]


def no_choices(arguments: list[str]) -> list[str]:
    """What to say of each argument that chooses a number, null or a truth value instead of a file of a group."""
    parser, found = OverridesParser.create(), []
    for override in parser.parse_overrides([text for text in arguments if not text.startswith("-")]):
        group = override.key_or_group
        if (CONF / group).is_dir() and not isinstance(override.value(), str | list):
            found.append(f"{override.input_line} is no choice: choose {', '.join(choices(group))}")
    return found or ["a group is chosen by the name of its file, as in validation=none"]


def choices(group: str) -> list[str]:
    """The files of a group of conf/."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def options(absent: re.Match[str]) -> str:
    """What can be chosen instead of a file that a group of conf/ does not have."""
    return f"there is no {absent[1]} '{absent[2]}': choose {', '.join(choices(absent[1]))}"
