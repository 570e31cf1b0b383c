"""What every script shares: Hydra's entry, and one-line errors with exit code 2 for what the user can mend."""

import functools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from experiments.settings import check_settings
from sfam_bench.errors import UserError

MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError)
# What Hydra says, and what it means to somebody who has mistyped an argument
PLAINER = {
    r"Could not override '([^']+)'\. To append to your config use (\S+)": r"no setting '\1': check its name, or add it "
    r"with \2 (all settings: --cfg job)",
    r"Key '([^']+)' is not in struct": r"no \1 is chosen: name at least one",
    r"Missing mandatory value: (\S+)": r"\1 is not given: add \1=...",
    r"^In '\w+': | Available options in .*| Config search path: .*|, set env var HYDRA_FULL_ERROR=1.*": "",
}


def script(config: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Decorate `main(cfg)` with the config `conf/<config>.yaml`."""

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def task(cfg: DictConfig) -> None:
            try:
                check_settings(cfg)
                main(cfg)
            except MISTAKES as error:  # here, before Hydra adds a line of its own
                fail(error)

        entry = hydra.main(version_base="1.3", config_path="../conf", config_name=config)(task)

        def run() -> None:
            # Hydra prints its own errors and exits with 1; this hands them on
            os.environ["HYDRA_FULL_ERROR"] = "1"
            try:
                entry()
            except MISTAKES as error:
                fail(error)
            except ValueError as error:
                if "group override must be" not in str(error):  # Hydra's, of loss=null
                    raise
                fail(UserError("a group is chosen by the name of its file, as in validation=none, not by null"))
            except KeyboardInterrupt:
                print("interrupted: what was finished is kept; continue with resume=true", file=sys.stderr)
                sys.exit(130)

        return run

    return decorate


def fail(error: BaseException) -> NoReturn:
    """Say what is wrong on one line and exit with 2."""
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
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = " ".join(line for line in lines if not line.startswith(("full_key: ", "object_type=", "reference_type=")))
    for pattern, plain in PLAINER.items():
        message = re.sub(pattern, plain, message)
    message = re.sub(r"^Could not (?:find|load) '([\w/]+)/([^/']+)'\.?", options, message)
    keys = [line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")]
    return f"{keys[0]}: {message}"[:600] if keys and keys[0] not in message else message[:600]


def options(absent: re.Match[str]) -> str:
    """What can be chosen instead of a file that a group of conf/ does not have."""
    files = (Path(__file__).parents[1] / "conf" / absent[1]).glob("*.yaml")
    return f"there is no {absent[1]} '{absent[2]}': choose {', '.join(sorted(file.stem for file in files))}"
