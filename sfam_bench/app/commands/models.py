"""List the training presets, with published figures and the licence of the weights; or check networks by name.

`check` builds a network with random weights, compares the cut model with the network's own forward pass, and prints
what the exact decomposition leaves over; `check --all` does so for a member of each family, in minutes.

Examples:

    sfam-bench models ls --json
    sfam-bench models check resnet18 torchvision/vit_b_32
    sfam-bench train experiment=train/cub_arcface_resnet50 dataset.root=CUB_200_2011
"""

import json
import sys
from dataclasses import asdict

from sfam_bench.app.presets import format_table, read_presets
from sfam_bench.core.errors import UserError
from sfam_bench.core.signals import ignore_closed_pipe


def main() -> None:
    """Print the table of presets, with --json all fields and the published setting; or check networks."""
    command, *rest = sys.argv[1:] or ["ls"]
    try:
        if command == "check":
            check(rest)
        else:
            list_presets(rest if command == "ls" else [command, *rest])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def list_presets(options: list[str]) -> None:
    """Print the presets."""
    if wrong := [text for text in options if text != "--json"]:
        raise UserError(f"models accepts --json, not {wrong[0]!r}")
    listed = read_presets()
    with ignore_closed_pipe():
        print(json.dumps([asdict(preset) for preset in listed], indent=2) if options else format_table(listed))


def check(names: list[str]) -> None:
    """Print the comparison of networks with their own forward pass; exit code 1 if one is refused."""
    from sfam_bench.evaluation import equality  # imports torch, which the list does not need

    if not names or any(name.startswith("-") and name != "--all" for name in names):
        raise UserError("models check accepts names of networks, as timm/NAME or torchvision/NAME, or --all")
    chosen = equality.NETWORKS if "--all" in names else [n if "/" in n else f"timm/{n}" for n in names]
    refused = False
    with ignore_closed_pipe():
        print(*([equality.INTRODUCTION] if "--all" in names else []), equality.HEAD, sep="\n")
        for row in equality.compare_all(chosen):
            print(equality.format_row(row), flush=True)
            refused |= bool(row.refused)
    if refused and "--all" not in names:
        sys.exit(1)
