"""Paths in settings: a leading ~ is the home folder, however the setting is given."""

import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from sfam_bench.app.overrides import write_value
from sfam_bench.core.errors import UserError

HOME = re.compile(r"~[\w.-]*(/|$)")
OF_HYDRA = re.compile(r"""\A(hydra\.[\w.]+=)(["']?)(~.*)\2\Z""", re.DOTALL)


def expand_paths(cfg: DictConfig | ListConfig) -> None:
    """Expand every string of a config that begins with ~, in place."""
    for key in range(len(cfg)) if isinstance(cfg, ListConfig) else [*cfg]:
        if OmegaConf.is_interpolation(cfg, key) or OmegaConf.is_missing(cfg, key):
            continue
        value = cfg[key]
        if isinstance(value, DictConfig | ListConfig):
            expand_paths(value)
        elif isinstance(value, str) and HOME.match(value):
            cfg[key] = expand_home(value)


def expand_arguments(arguments: Sequence[str]) -> list[str]:
    """Expand ~ in Hydra's own settings: Hydra makes its folders before the command starts."""
    return [OF_HYDRA.sub(lambda found: f"{found[1]}{write_value(expand_home(found[3]))}", text) for text in arguments]


def expand_home(path: str) -> str:
    """A path with ~ expanded; UserError for an unknown user."""
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise UserError(f"{path}: there is no such user here; write the path in full") from error
