"""The command sfam-bench: what needs neither torch nor a config."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from sfam_bench.app.presets import presets, table
from sfam_bench.core.errors import UserError
from sfam_bench.core.signals import readers_may_leave


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; 0, or 2 where the user can mend what is wrong."""
    parser = argparse.ArgumentParser(prog="sfam-bench", description="A benchmark of explanations for metric learning.")
    models = parser.add_subparsers(required=True, metavar="models").add_parser("models", help="trainings ready-made")
    listing = models.add_subparsers(required=True, metavar="ls").add_parser(
        "ls", help="list them, with what was published, and the licence of the weights from which they start"
    )
    listing.add_argument("--json", action="store_true", help="all fields, with the setting that was published")
    chosen = parser.parse_args(arguments)
    try:
        listed = presets()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with readers_may_leave():
        print(json.dumps([asdict(preset) for preset in listed], indent=2) if chosen.json else table(listed))
    return 0
