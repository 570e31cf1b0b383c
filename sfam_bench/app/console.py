"""The command line `sfam-bench COMMAND`, followed by Hydra overrides."""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version

from sfam_bench.app import completion
from sfam_bench.app.guide import command_page, commands, overview
from sfam_bench.core.imports import importing
from sfam_bench.core.signals import ignore_closed_pipe

HELP = {"-h", "--help", "help"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; 0, or 2 where the user can correct what is wrong.

    Modules of the current folder can be imported, so that settings may name objects of one's own.
    """
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    known = commands()
    if command == "--version":
        print(f"sfam-bench {version('sfam-bench')}")
        return 0
    if command == "--complete":
        print("\n".join(completion.complete(rest[0])))
        return 0
    if command == "--completion":
        shell = rest[0] if rest else "bash"
        if shell not in completion.SCRIPTS:
            print(f"error: no completion for {shell}: choose {' or '.join(completion.SCRIPTS)}", file=sys.stderr)
            return 2
        print(completion.SCRIPTS[shell])
        return 0
    with ignore_closed_pipe():
        if command in HELP:
            print(overview(known))
            return 0
        if command not in known:
            near = get_close_matches(command, known, 2)
            meant = f"did you mean {' or '.join(near)}?" if near else f"choose {', '.join(known)}"
            print(f"error: no command '{command}': {meant}", file=sys.stderr)
            return 2
        if HELP & {*rest}:
            print(command_page(command, known[command]))
            return 0
    sys.path.append(os.getcwd())  # noqa: PTH109  # last, so that no file of it shadows a library
    sys.argv = [f"sfam-bench {command}", *rest]
    with importing():
        module = import_module(f"sfam_bench.app.commands.{known[command]}")
    module.main()
    return 0
