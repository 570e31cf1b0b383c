"""~ is the home folder in every setting; folders that cannot be written are refused before anything is computed."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from sfam_bench.app.paths import expand_arguments, expand_paths
from sfam_bench.core.errors import UserError
from sfam_bench.core.files import check_writable
from tests.app.test_bad_input import TINY
from tests.scripts import Run, mistake, says


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "my home"))
    (tmp_path / "my home").mkdir()
    return tmp_path / "my home"


def test_every_text_of_a_config(home: Path) -> None:
    cfg = OmegaConf.create(
        {
            "run_dir": "~/x",
            "runs": ["~/a", "b", "~"],
            "explainer": {"a.b": {"folder": "~/maps", "sigma": 3}},
            "model": {"checkpoint": None, "path": "???", "name": "~not a path", "same": "${run_dir}"},
        }
    )
    expand_paths(cfg)
    assert OmegaConf.to_container(cfg, resolve=False) == {
        "run_dir": f"{home}/x",
        "runs": [f"{home}/a", "b", str(home)],
        "explainer": {"a.b": {"folder": f"{home}/maps", "sigma": 3}},
        "model": {"checkpoint": None, "path": "???", "name": "~not a path", "same": "${run_dir}"},
    }


def test_an_unknown_user() -> None:
    with pytest.raises(UserError, match="no such user here"):
        expand_paths(OmegaConf.create({"out": "~nobody.here/x"}))


def test_folders_that_hydra_makes(home: Path) -> None:
    given = ["hydra.run.dir='~/x'", "hydra.sweep.dir=~/y", "hydra.job.name=a", "run_dir=~/z", "--multirun"]
    assert expand_arguments(given) == [
        f"hydra.run.dir='{home}/x'",
        f"hydra.sweep.dir='{home}/y'",
        *given[2:],  # the others are expanded in the config
    ]


def test_probing_leaves_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "a/b")
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/x", Path("/proc/x/run")):
        with pytest.raises(UserError, match="cannot write into"):
            check_writable(place)


@pytest.mark.parametrize("script", ["evaluate", "train", "intervene"])
def test_an_unwritable_run_folder_is_refused_at_once(
    run_script: Run, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfam_bench.app.parts.build", lambda config: pytest.fail("something was built"))
    says(mistake(run_script(script, *TINY, "run_dir=/proc/x/run")), "cannot write into /proc/x/run")


@pytest.mark.parametrize(
    ("overrides", "says_"),
    [
        (["dataset.test_per_class=1"], "no pair of kind random_positive"),
        (["target=margin"], "pairs.kinds=[triplet]"),
        (["explainer=[lafam,attention_rollout]"], "attention_rollout: "),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_embedded(
    run_script: Run, tmp_path: Path, overrides: list[str], says_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfam_bench.app.evaluation.embed", lambda *args: pytest.fail("images were embedded"))
    says(mistake(run_script("evaluate", *TINY, f"run_dir={tmp_path / 'run'}", *overrides)), says_)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_below_the_home_folder(
    run_script: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_script("evaluate", *TINY, "run_dir='~/x'", "passes.cache=null", "passes.mode=eager")[0] == 0
    assert (home / "x/manifest.json").is_file()
    assert not (tmp_path / "~").exists()
