"""Values in Hydra's command-line syntax."""

import json
import re
from collections.abc import Mapping
from typing import Any

PLAIN = re.compile(
    r"(?!(?i:true|false|null|nan|inf)$)[A-Za-z_/][A-Za-z0-9_./+-]*"
)  # strings that need no quotes in Hydra


def write_value(value: Any) -> str:
    """A YAML value in Hydra's command-line syntax."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {write_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(write_value, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    if PLAIN.fullmatch(value):
        return value
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)$", r"\1\1", value)) + "'"
