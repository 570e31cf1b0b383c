"""What every script shares: Hydra's entry, and one-line errors with exit code 2 for what the user can mend."""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import hydra
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from sfam_bench.errors import UserError

MISTAKES = (UserError, HydraException, OmegaConfBaseException)


def script(config: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Decorate `main(cfg)` with the config `conf/<config>.yaml`."""

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def task(cfg: DictConfig) -> None:
            try:
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
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith(("full_key: ", "object_type=", "reference_type=")))[
        :600
    ]


def build(config: Any, **fields: Any) -> Any:
    """Instantiate one node; plain dicts and lists inside, so that frozen dataclasses stay what they are."""
    return instantiate(config, _convert_="all", **fields)
