"""Completion of sfam-bench in bash and zsh: commands, groups and choices, settings, names of methods and metrics."""

import shlex
from collections.abc import Iterable

from sfam_bench.app.arguments import OPTIONS
from sfam_bench.app.guide import PRESETS, commands, find_groups, find_settings
from sfam_bench.core.conf import conf_folder, read_yaml

SCRIPTS = {
    "bash": """_sfam_bench() {
    mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" --complete "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
}
complete -o default -o nospace -F _sfam_bench sfam-bench""",
    "zsh": """_sfam_bench() {
    local -a found=("${(@f)$("${words[1]}" --complete "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    if [[ -z "$found" ]]; then _default; return; fi
    compset -P '*='
    compadd -Q -S '' -- $found
}
compdef _sfam_bench sfam-bench""",
}
LISTED = {  # groups that `COMMAND ls` lists
    **{"explainers": "explainer", "metrics": "metric", "datasets": "dataset"},
    **{"models": "model", "tasks": "experiment"},
}
VALUES = {"--metrics": "metric", "--model": "model", "--explainers": "explainer"}  # the groups of options
NAMED = ("explainer", "metric")  # whose files hold entries by name


def complete(line: str) -> list[str]:
    """What may follow at the end of a command line, each without the part before its last `=`, which bash keeps."""
    try:
        words = shlex.split(line)
    except ValueError:  # within quotes
        return []
    words = words if line and not line[-1].isspace() else [*words, ""]
    current = words[-1]
    found = [word for word in _candidates(words[1:-1], current) if word.startswith(current)]
    kept = current.rfind("=") + 1
    return sorted({word[kept:] if word.endswith(("=", ",")) else f"{word[kept:]} " for word in found})


def list_names(group: str, entries: bool = False) -> list[str]:
    """The files of a group, or the entries in them by name; none of what is no group."""
    root = conf_folder() / group
    files = sorted(root.glob("**/*.yaml" if group == PRESETS else "*.yaml")) if group and root.is_dir() else []
    if entries:
        return [name for file in files for name in read_yaml(file)]
    return [file.relative_to(root).with_suffix("").as_posix() for file in files]


def _candidates(before: list[str], current: str) -> Iterable[str]:
    known = commands()
    if not before:
        return [*known, "--help", "--version", "--completion"]
    command, *rest = before
    if command in LISTED and rest == ["ls"]:
        return list_names(LISTED[command], LISTED[command] in NAMED)
    if command in LISTED and not rest and command != "metrics":
        return ["ls"]
    if command not in known:
        return []
    options = OPTIONS.get(command, ())
    if rest and rest[-1] in options:
        first = current[: current.rfind(",") + 1]
        return [first + name for name in list_names(VALUES.get(rest[-1], ""), rest[-1] == "--metrics")]
    name, equals, _ = current.partition("=")
    if equals:
        return [f"{name}={choice}" for choice in list_names(name)]
    settings = dict.fromkeys([*find_groups(known[command]), *find_settings(known[command])])
    return [*(["ls"] if command in LISTED else []), *options, *(f"{name}=" for name in settings), "--help"]
