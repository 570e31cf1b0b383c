"""List the models and the training presets; with a name, print one; or check networks by name.

`check` builds a network with random weights, compares the cut model with the network's own forward pass, and prints
what the exact decomposition leaves over; `check --all` does so for a member of each family, in minutes.

Examples:

    sfam-bench models ls
    sfam-bench models check resnet18 torchvision/vit_b_32
    sfam-bench train experiment=train/cub_arcface_resnet50 dataset.root=CUB_200_2011
"""

import json
import sys
from dataclasses import asdict

from sfam_bench.app.listing import describe_choice, list_files, print_entries
from sfam_bench.app.presets import format_table, read_presets
from sfam_bench.core.errors import UserError
from sfam_bench.core.signals import ignore_closed_pipe


def main() -> None:
    """Print the models and the table of presets, a card, or with --json all fields of presets; or check networks."""
    command, *rest = sys.argv[1:] or ["ls"]
    try:
        if command == "check":
            check(rest)
        else:
            list_models(rest if command == "ls" else [command, *rest])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def list_models(options: list[str]) -> None:
    """Print the models (model=NAME) and the presets (experiment=train/NAME), or one of them."""
    listed, models = read_presets(), list_files("model")
    presets = {preset.name: preset for preset in listed}
    if options == ["--json"]:
        with ignore_closed_pipe():
            print(json.dumps([asdict(preset) for preset in listed], indent=2))
    elif options and (len(options) > 1 or options[0].startswith("-")):
        raise UserError(f"models accepts ls [NAME], ls --json and check, not {' '.join(options)!r}")
    elif options and options[0] in presets:
        print("\n".join(f"{name}: {value}" for name, value in asdict(presets[options[0]]).items()))
    else:
        print_entries({**models, **dict.fromkeys(presets, "")} if options else models, describe, "model", options)
        if not options:
            with ignore_closed_pipe():
                print(f"\nTraining presets (experiment=train/NAME), with published recall@1:\n{format_table(listed)}")


def describe(name: str) -> str:
    """The card of a model."""
    return describe_choice("model", name)


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
