"""List the training presets, with published figures and the licence of the weights.

Examples:

    sfam-bench models
    sfam-bench models ls --json
    sfam-bench train experiment=train/cub_arcface_resnet50 dataset.root=CUB_200_2011
"""

import json
import sys
from dataclasses import asdict

from sfam_bench.app.presets import format_table, read_presets
from sfam_bench.core.errors import UserError
from sfam_bench.core.signals import ignore_closed_pipe


def main() -> None:
    """Print the table; with --json all fields, and the published setting."""
    options = [text for text in sys.argv[1:] if text != "ls"]
    try:
        if wrong := [text for text in options if text != "--json"]:
            raise UserError(f"models accepts --json, not {wrong[0]!r}")
        listed = read_presets()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    with ignore_closed_pipe():
        print(json.dumps([asdict(preset) for preset in listed], indent=2) if options else format_table(listed))
