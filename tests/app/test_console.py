"""The command sfam-bench: what it says of itself is true, and costs no torch."""

import re
import shlex
import subprocess
import sys
from functools import reduce
from importlib.metadata import version

import pytest
from omegaconf import OmegaConf

from sfam_bench.app.commands import explain, track
from sfam_bench.app.console import main
from sfam_bench.app.guide import SETTINGS, command_page, commands, docstring, list_settings
from sfam_bench.core.conf import conf_folder
from tests.contract import composed

COMMANDS = commands()
WITH_SETTINGS = {name: module for name, module in COMMANDS.items() if (conf_folder() / f"{module}.yaml").is_file()}
TO_SETTINGS = {"explain": explain.to_settings, "track": track.to_settings}  # whose arguments are no settings yet
CHOSEN = {"sweep": ["sweep=gamma"], "data": ["download=cub"], "submit": ["verb=plan"]}  # what has no default


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", sys.argv)
    monkeypatch.setattr("sys.path", [*sys.path])


def test_all_commands_are_there() -> None:
    named = "train embed evaluate report paper part-agreement methods metrics intervene sweep tune submit data models"
    assert {*named.split(), "episodes", "explain", "keep", "maps", "track", "work"} == {*COMMANDS}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["evaluate", "--help"], ["models", "ls"], ["--version"]])
def test_help_is_given_without_torch_or_hydra(arguments: list[str]) -> None:
    code = "import sys; from sfam_bench.app.console import main; main(sys.argv[1:]); "
    code += "sys.exit(bool({'torch', 'hydra'} & {*sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sfam-bench {version('sfam-bench')}\n"


def test_a_command_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evalute"]) == 2
    assert capsys.readouterr().err == "error: no command 'evalute': did you mean evaluate?\n"


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_examples_are_three_and_can_be_given(command: str) -> None:
    text = docstring(COMMANDS[command]).partition(SETTINGS)[0]
    examples = [shlex.split(line) for line in re.findall(r"^ {4}(sfam-bench .*)$", text, re.MULTILINE)]
    assert len(examples) == 3
    for _, name, *given in examples:
        if name in WITH_SETTINGS:
            verb = [f"verb={given.pop(0)}"] if name == "submit" else []
            given = TO_SETTINGS[name](given) if name in TO_SETTINGS else given
            composed(WITH_SETTINGS[name], *verb, *given)


@pytest.mark.parametrize("command", WITH_SETTINGS)
def test_the_settings_of_the_help_are_those_of_the_config(command: str) -> None:
    module = WITH_SETTINGS[command]
    cfg = OmegaConf.to_container(composed(module, *CHOSEN.get(command, [])), resolve=False)
    named = list_settings(docstring(module).partition(SETTINGS)[2]) if SETTINGS in docstring(module) else []
    for name in named:
        assert reduce(lambda node, key: node[key], name.split("."), cfg) != {}, name
        shown = re.search(rf"^  {re.escape(name)}=(.*?)(?:   *.*)?$", command_page(command, module), re.MULTILINE)
        assert shown, name
    for line in command_page(command, module).splitlines():
        assert len(line) < 140, line


def test_groups_of_the_help_are_those_of_the_config() -> None:
    text = command_page("evaluate", "evaluate")
    assert "\n  similarity: cosine, dot, negative_euclidean\n" in text
    assert "train/NAME (36)" in text
    assert "\n  loss: " not in text
    assert "\n  loss: " in command_page("train", "train")


def test_a_command_of_the_console_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--cfg", "job", "pairs.count=7"]) == 0
    assert "  count: 7\n" in capsys.readouterr().out
