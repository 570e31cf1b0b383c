"""Hydra's entry point, shared by all commands; errors that the user can fix are one line, exit code 2."""

import functools
import os
import re
import shlex
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import NoReturn

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sfam_bench.app.paths import expand_arguments, expand_paths
from sfam_bench.app.schema import CONF, NAMED, check_keys, suggestion
from sfam_bench.app.settings import check_settings
from sfam_bench.core.conf import read_yaml
from sfam_bench.core.errors import UserError
from sfam_bench.core.signals import ignore_closed_pipe

RESUMED = ("evaluate", "part_agreement", "train", "tune")
MISTAKES = (UserError, HydraException, OmegaConfBaseException, OSError)
# Hydra's messages, and what they mean to a user who has mistyped an argument
PLAINER = {
    r"Key '([^']+)' is not in struct": r"no \1 is chosen: name at least one",
    r"Interpolation key '(\w+)\.(\w+)' not found": r"needs \1 '\2', which is not chosen: add it, as in \1=[...,\2]",
    r"Missing mandatory value: (\S+)": r"\1 is not given: add \1=...",
    r"Could not override '(\w+)/(\w+)'\. No match in the defaults list.*": r"\1/\2 needs a choice of \1: add \1=NAME",
    r"^In '\w+': | Available options in .*| Config search path: .*|, set env var HYDRA_FULL_ERROR=1.*": "",
}


def script(config: str, first: str = "") -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Decorate `main(cfg)` with the config `conf/<config>.yaml`; a first argument without `=` is the setting `first`.

    `inspect.unwrap` gives `main` back.
    """

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def task(cfg: DictConfig) -> None:
            try:
                expand_paths(cfg)
                check_keys(cfg)
                check_settings(cfg)
                main(cfg)
            except MISTAKES as error:  # here, before Hydra adds a line of its own
                exit_with_error(error)

        entry = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config)(task)

        @functools.wraps(main)
        def run() -> None:
            # Hydra prints its own errors and exits with 1; this hands them on
            os.environ["HYDRA_FULL_ERROR"] = "1"
            try:
                if first and sys.argv[1:] and "=" not in sys.argv[1] and not sys.argv[1].startswith("-"):
                    sys.argv[1] = f"{first}={sys.argv[1]}"
                if {"-m", "--multirun"} & {*sys.argv[1:]}:
                    raise UserError(
                        "a multirun is a sweep: write conf/sweep/NAME.yaml, then sfam-bench sweep sweep=NAME"
                    )
                sys.argv[1:] = expand_arguments(sys.argv[1:])
                with ignore_closed_pipe():
                    entry()
            except MISTAKES as error:
                exit_with_error(UserError(unknown[0]) if (unknown := describe_unknown(config, str(error))) else error)
            except YAMLError as error:  # of a file of the user's own
                exit_with_error(UserError(f"a config file cannot be read ({error}): correct it"))
            except ValueError as error:
                if "group override must be" not in str(error):  # Hydra's, of loss=null or recipe=7
                    raise
                exit_with_error(UserError("; ".join(describe_wrong_choices(sys.argv[1:]))))
            except KeyboardInterrupt:
                rest = "a run keeps what it has finished, and resume=true continues it"
                print(f"interrupted: {rest if config in RESUMED else 'call the command again'}", file=sys.stderr)
                sys.exit(130)

        return run

    return decorate


def exit_with_error(error: BaseException) -> NoReturn:
    """Print the error on one line and exit with 2."""
    if isinstance(error, BrokenPipeError):  # which `readers_may_leave` looks at
        raise error
    print(f"error: {explain_error(error)}", file=sys.stderr)
    sys.exit(2)


def explain_error(error: BaseException) -> str:
    """The message of a UserError, or of Hydra's error with its first cause, on one line."""
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    if isinstance(cause, UserError):
        return " ".join(str(cause).split())
    if isinstance(error, OSError) and not isinstance(error, HydraException):  # one of Hydra's is both
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; check the path, its permissions and the free space"
    if given := describe_unreadable(error):
        return given
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = " ".join(line for line in lines if not line.startswith(("full_key: ", "object_type=", "reference_type=")))
    keys = [line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")]
    if absent := re.match(r"Error locating target '([^']+)'", message):
        return f"{f'{keys[0]}: ' if keys else ''}there is no {absent[1]} to import: correct its _target_"
    if failed := re.match(r"Error in call to target '([^']+)'", message):
        kind, where = type(cause).__name__, f"{keys[0]}: " if keys else ""
        return f"{where}{failed[1]} failed ({kind}: {' '.join(str(cause).split())[:300]}): check its settings and files"
    for pattern, plain in PLAINER.items():
        message = re.sub(pattern, plain, message)
    message = re.sub(r"^Could not (?:find|load) '([\w/]+)/([^/']+)'\.?", describe_choices, message)
    message = f"{keys[0]}: {message}" if keys and keys[0] not in message else message
    return message[:600] or type(error).__name__


def describe_unreadable(error: BaseException) -> str:
    """The argument that Hydra's grammar cannot read, and how to quote it; empty for other errors."""
    found = re.match(r"Ambiguous value for argument '(.*)'", str(error))
    argument = error.override if isinstance(error, OverrideParseException) else found[1] if found else ""
    name, equals, value = argument.partition("=")
    if argument and not equals:
        return f"'{argument}' is no setting: write it as NAME=VALUE"
    quoted = QuotedString(value, Quote.double).with_quotes()
    why = f"the value of {name}, {value}, has characters that Hydra interprets: quote it"
    return f"{why}: {shlex.quote(f'{name}={quoted}')}" if argument else ""


def describe_unknown(config: str, message: str) -> list[str]:
    """A message for each setting that the command does not have; Hydra's own would advise to add it."""
    found = re.findall(r"Could not override '([^']+)'\.\s+To append to your config", message)
    return [f"no setting '{key}': {suggestion(config, key)} (all settings: --cfg job)" for key in found]


def describe_wrong_choices(arguments: list[str]) -> list[str]:
    """A message for each argument that chooses a number, null or a boolean instead of a file of a group."""
    parser, found = OverridesParser.create(), []
    for override in parser.parse_overrides([text for text in arguments if not text.startswith("-")]):
        group = override.key_or_group
        if (CONF / group).is_dir() and not isinstance(override.value(), str | list):
            found.append(f"{override.input_line} is no choice: choose {', '.join(list_choices(group))}")
    return found or ["a group is chosen by a file name, as in validation=none"]


def list_choices(group: str) -> list[str]:
    """The files of a group of conf/."""
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def describe_choices(absent: re.Match[str]) -> str:
    """The nearest choices of a group of conf/ for a name that it does not have, or all of them."""
    group, name = absent[1], absent[2]
    holding = [file.stem for file in (CONF / group).glob("*.yaml") if group in NAMED and name in read_yaml(file)]
    known = list_choices(group)
    near = holding or get_close_matches(name, known, 3) or known
    if holding:
        return f"{group}s are chosen by file, and {name} is one of those of {near[0]}: choose {group}=[{near[0]}]"
    return f"there is no {group} '{name}': choose {', '.join(near)}"
