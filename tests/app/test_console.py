"""The command sfam-bench: what it says of itself is true, and costs no torch."""

import re
import shlex
import shutil
import subprocess
import sys
from functools import partial, reduce
from importlib.metadata import version

import pytest
from omegaconf import OmegaConf

from sfam_bench.app.arguments import OPTIONS, to_settings
from sfam_bench.app.commands import track
from sfam_bench.app.completion import complete
from sfam_bench.app.console import main
from sfam_bench.app.guide import SETTINGS, command_page, commands, docstring, list_settings
from sfam_bench.core.conf import conf_folder
from tests.contract import composed

COMMANDS = commands()
WITH_SETTINGS = {name: module for name, module in COMMANDS.items() if (conf_folder() / f"{module}.yaml").is_file()}
TO_SETTINGS = {"track": track.to_settings} | {name: partial(to_settings, name) for name in OPTIONS}
CHOSEN = {"sweep": ["sweep=gamma"], "data": ["download=cub"], "submit": ["verb=plan"]}  # what has no default


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", sys.argv)
    monkeypatch.setattr("sys.path", [*sys.path])


def test_all_commands_are_there() -> None:
    named = "train embed evaluate report paper part-agreement methods metrics intervene sweep tune submit data models"
    named += " episodes explain score explainers datasets tasks keep maps track work"
    assert {*named.split()} == {*COMMANDS}


@pytest.mark.parametrize(
    "arguments",
    [[], ["--help"], ["evaluate", "--help"], ["models", "ls"], ["explainers", "ls"], ["--completion"], ["--version"]],
)
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
        if name in WITH_SETTINGS and given[:1] != ["ls"]:
            verb = [f"verb={given.pop(0)}"] if name == "submit" else []
            given = TO_SETTINGS[name](given) if name in TO_SETTINGS else given
            composed(WITH_SETTINGS[name], *verb, *given)


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sfam-bench explaine", ["explainers "]),
        ("sfam-bench explainers ", ["ls "]),
        ("sfam-bench explainers ls grad_cam", ["grad_cam ", "grad_cam_pp "]),
        ("sfam-bench metrics ls deletion_mean_colour_a", ["deletion_mean_colour_area_error "]),
        ("sfam-bench evaluate model=planted", ["planted_net "]),
        ("sfam-bench evaluate experiment=few_shot/planted_p", ["few_shot/planted_protonet "]),
        ("sfam-bench evaluate similarit", ["similarity="]),
        ("sfam-bench explain a.jpg b.jpg --explainers sfam,lay", ["sfam,layer_cam "]),
        ("sfam-bench score --metr", ["--metrics "]),
        ("sfam-bench score --metrics gini,deletion_bl", ["gini,deletion_blur ", "gini,deletion_blur_area_error "]),
        ("sfam-bench explain 'a b", []),
        ("sfam-bench nothing x", []),
    ],
)
def test_what_may_follow(line: str, expected: list[str]) -> None:
    assert complete(line) == expected


def test_bash_completes() -> None:
    """The printed function in a real bash, which splits words at `=`."""
    script = f"""
sfam-bench() {{ {sys.executable} -m sfam_bench "$@"; }}
source <(sfam-bench --completion)
complete -p sfam-bench
COMP_LINE="sfam-bench evaluate model=planted_n" COMP_POINT=35 COMP_WORDS=(sfam-bench evaluate model = planted_n)
_sfam_bench
printf '<%s>' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "complete -o default -o nospace -F _sfam_bench sfam-bench\n<planted_net >"


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is missing")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sfam-bench evaluate model=planted_n", "<-P><*=>|<-Q><-S><><--><planted_net >"),
        ("sfam-bench score --metrics x", "default"),
    ],
)
def test_zsh_completes(words: str, expected: str) -> None:
    """The printed function in a real zsh, with what its completion system calls replaced by printing."""
    script = f"""
compdef() {{ }}
compset() {{ printf '<%s>' "$@"; printf '|' }}
compadd() {{ printf '<%s>' "$@" }}
_default() {{ printf default }}
sfam-bench() {{ {sys.executable} -m sfam_bench "$@" }}
source <(sfam-bench --completion zsh)
words=({words}) CURRENT={len(words.split())}
_sfam_bench
"""
    assert subprocess.run(["zsh", "-fc", script], capture_output=True, text=True, check=True).stdout == expected


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--completion", "fish"]) == 2
    assert capsys.readouterr().err == "error: no completion for fish: choose bash or zsh\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["explainers", "ls"], "sfam  sum_k CIS_k A_k"),
        (["explainers", "ls", "grad_cam"], "Selvaraju et al., ICCV 2017"),
        (["metrics", "ls"], "gini  Gini index: "),
        (["metrics", "ls", "pointing_game"], "needs: masks or boxes"),
        (["datasets", "ls"], "folder  images of your own"),
        (["datasets", "ls", "sop"], "Settings (dataset=sop):"),
        (["tasks", "ls"], "planted_methods  The planted set for tables of many methods"),
        (["tasks", "ls", "few_shot/cub"], "Settings (experiment=few_shot/cub):"),
        (["models", "ls"], "lite0  EfficientNet-Lite0"),
        (["models", "ls", "conv4"], "Settings (model=conv4):"),
        (["models", "ls", "cub_arcface_resnet50"], "licence: BSD-3-Clause"),
    ],
)
def test_what_there_is(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main(arguments) == 0
    assert said in re.sub(r" {2,}", "  ", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["explainers", "ls", "sfan"], "there is no explainer 'sfan': did you mean sfam?"),
        (["metrics", "ls", "ginni"], "there is no metric 'ginni': did you mean gini?"),
        (["datasets", "ls", "qqq"], "there is no data set 'qqq': ls lists them"),
        (
            ["tasks", "ls", "planted_method"],
            "there is no task 'planted_method': did you mean planted_methods",
        ),
        (["models", "ls", "lite1"], "there is no model 'lite1': did you mean lite0?"),
        (["explainers", "show"], "explainers accepts ls [NAME], not 'show'"),
        (["models", "ls", "--yaml"], "models accepts ls [NAME], ls --json and check, not 'ls --yaml'"),
    ],
)
def test_what_there_is_not(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")
