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

from sfam_bench.app.listing import describe_choice, format_lines, list_files, print_entries
from sfam_bench.app.presets import format_table, read_presets
from sfam_bench.core.errors import UserError
from sfam_bench.core.signals import ignore_closed_pipe


def main() -> None:
    """Print the models and the table of presets, a card, or with --json all fields of presets; or check networks."""
    command, *rest = sys.argv[1:] or ["ls"]
    try:
        if command == "check":
            check(rest)
        elif command == "ls" and len(rest) < 2 and (rest == ["--json"] or not "".join(rest).startswith("-")):
            list_models(rest)
        else:
            raise UserError(f"models accepts ls [NAME], ls --json and check, not {' '.join([command, *rest])!r}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def list_models(options: list[str]) -> None:
    """Print the models (model=NAME) and the presets (experiment=train/NAME), one of them, or all presets as JSON."""
    models, presets = list_files("model"), {preset.name: preset for preset in read_presets()}
    with ignore_closed_pipe():
        if options == ["--json"]:
            print(json.dumps([asdict(preset) for preset in presets.values()], indent=2))
        elif options and options[0] in presets:
            print("\n".join(f"{name}: {value}" for name, value in asdict(presets[options[0]]).items()))
        elif options:
            print_entries({**models, **dict.fromkeys(presets, "")}, describe, "model", options)
        else:
            print(format_lines(models))
            title = "Training presets (experiment=train/NAME), with published recall@1:"
            print(f"\n{title}\n{format_table([*presets.values()])}")


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
