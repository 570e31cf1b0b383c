"""Read the files of conf/ without Hydra."""

from pathlib import Path
from typing import Any

import yaml

from sfam_bench.core.errors import UserError, first_line

PACKAGE = Path(__file__).parents[1]
WHERE = (PACKAGE / "conf", PACKAGE.parent / "conf")  # in an installed package; in a checkout


def conf_folder() -> Path:
    """The folder conf/, in a checkout and in an installed package."""
    return next((path for path in WHERE if path.is_dir()), WHERE[0])


def read_yaml(file: Path) -> dict[str, Any]:
    """Read one file of conf/; raises UserError if it cannot be read."""
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {file} ({first_line(error)}): restore it, or install again") from error
