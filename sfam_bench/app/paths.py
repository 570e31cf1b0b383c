"""Paths in settings: ~ at their beginning is the home folder, wherever they are given."""

import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from sfam_bench.app.sweeping import write_value
from sfam_bench.core.errors import UserError

HOME = re.compile(r"~[\w.-]*(/|$)")
OF_HYDRA = re.compile(r"""(hydra\.[\w.]+=)(["']?)(~.*)\2""", re.DOTALL)


def expand(cfg: DictConfig | ListConfig) -> None:
    """Expand every text of a config that begins with ~, in place."""
    for key in range(len(cfg)) if isinstance(cfg, ListConfig) else [*cfg]:
        if OmegaConf.is_interpolation(cfg, key) or OmegaConf.is_missing(cfg, key):
            continue
        value = cfg[key]
        if isinstance(value, DictConfig | ListConfig):
            expand(value)
        elif isinstance(value, str) and HOME.match(value):
            cfg[key] = home(value)


def expand_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, ~ expanded in settings of Hydra, which makes its folders before a script begins."""
    found = [OF_HYDRA.fullmatch(text) for text in arguments]
    return [f"{own[1]}{write_value(home(own[3]))}" if own else text for text, own in zip(arguments, found, strict=True)]


def home(path: str) -> str:
    """A path with ~ expanded; UserError for a user that this machine does not know."""
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise UserError(f"{path}: there is no such user here; write the path in full") from error
