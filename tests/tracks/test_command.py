"""The command track: a stranger's method from code, or its maps, to a row and a table."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from sfam_bench.app.commands.track import to_settings
from sfam_bench.core.files import read_json, write_json
from tests.tracks.conftest import KEY

METHOD = '''"""Channels that are strong in both images."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Both:
    """sum_k min(p_k, q_k) A_k."""

    power: float = 1.0

    def __call__(self, model, encoded, pairs):
        p, q = (side.activations.mean(dim=(2, 3)) for side in (encoded.query, encoded.terms[0].side))
        return torch.einsum("bk,bkij->bij", torch.minimum(p, q) ** self.power, encoded.query.activations)
'''
CARD = {"name": "both", "reads": ["query", "reference", "activations"], "paper": "Nobody, 2026"}
Script = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "own_method_of_a_stranger.py").write_text(METHOD)
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(CARD))
    yield tmp_path
    sys.modules.pop("own_method_of_a_stranger", None)


def test_the_first_two_words_are_settings() -> None:
    given = ["run", "planted-v1", "method=sfam", "--cfg", "job"]
    assert to_settings(given) == ["verb=run", "what=planted-v1", "method=sfam", "--cfg", "job"]


@pytest.mark.slow
def test_a_method_is_entered_as_code_and_as_maps(folder: Path, run_script: Script) -> None:
    def done(*arguments: str) -> str:
        code, out, err = run_script("track", *arguments)
        assert code == 0, err
        return out

    def refused(*arguments: str) -> str:
        code, _, err = run_script("track", *arguments)
        assert code == 2
        return err

    method = "method=own_method_of_a_stranger.py:Both"
    assert "12 pairs, by causal_agreement" in done("ls")
    assert len(done("ls", "tiny-v1").split()) == 24
    done("run", "tiny-v1", method)
    run = "results/track/tiny-v1/both"
    assert "has no card" in refused("score", run)
    assert "give card=" in refused("submit", run)
    done("submit", run, "card=card.yaml")
    assert "give method= (its code, own_method_of_a_stranger.Both)" in refused("score", run)
    assert "recomputed from its code" in done("score", run, method)
    assert "both, with its card" in done("run", "tiny-v1", method)
    kept = (folder / run / "submission.json").read_text()
    (folder / run / "submission.json").write_text("{")
    assert "submission.json" in (err := refused("run", "tiny-v1", method))
    assert "remove it" in err
    (folder / run / "submission.json").write_text(kept)
    assert "row of both" in done("score", run, method)
    by_code = json.loads((folder / "results/leaderboard/tiny-v1/both.json").read_text())
    assert by_code["method"]["settings"]["_target_"] == "own_method_of_a_stranger.Both"
    assert "randomised" in by_code["controls"]

    done("run", "tiny-v1", f"folder={run}/maps", "name=saved")
    (folder / "card.yaml").write_text(yaml.safe_dump({**CARD, "name": "saved", "seconds": 2.0}))
    done("submit", "results/track/tiny-v1/saved", "card=card.yaml")
    assert "recomputed from its maps" in done("score", "results/track/tiny-v1/saved")
    by_maps = json.loads((folder / "results/leaderboard/tiny-v1/saved.json").read_text())
    assert by_maps["values"] == by_code["values"]
    assert by_maps["seconds"] == 2.0
    (folder / "card.yaml").write_text(yaml.safe_dump({**CARD, "name": "both"}))
    done("submit", "results/track/tiny-v1/saved", "card=card.yaml")
    assert "both.json is the row of another method" in refused("score", "results/track/tiny-v1/saved")

    (folder / "card.yaml").write_text(yaml.safe_dump({**CARD, "name": "sfam"}))
    done("submit", "results/track/tiny-v1/saved", "card=card.yaml")
    assert "is a method of this benchmark" in refused("score", "results/track/tiny-v1/saved")

    done("submit", "tiny-v1", "method=[sfam,lafam]", "out=results/ours")
    assert "marked: blind to the reference" in done("score", "results/ours/tiny-v1")
    code, _, err = run_script("paper", "table=[10_leaderboards]", "out=tables")
    assert code == 0, err
    table = (folder / "tables/tables/table_10.md").read_text()
    assert all(f"\n| {name} |" in table for name in ("both", "saved", "sfam", "lafam"))
    assert "(2e+03)" in table


def test_a_hidden_track_accepts_code_that_who_scores_runs(folder: Path, run_script: Script) -> None:
    method = "method=own_method_of_a_stranger.py:Both"
    code, _, err = run_script("track", "run", "tiny-hidden-v1", method)
    assert code == 2
    assert "private to who scores" in err
    code, _, err = run_script("track", "submit", "tiny-hidden-v1", method, "card=card.yaml")
    assert code == 0, err
    run = "results/track/tiny-hidden-v1/both"
    code, out, err = run_script("track", "score", run, method, f"key={KEY}")
    assert code == 0, err
    assert "row of both on tiny-hidden-v1" in out
    assert KEY not in (folder / "results/leaderboard/tiny-hidden-v1/both.json").read_text()
    facts = read_json(folder / run / "submission.json", "")
    write_json(folder / run / "submission.json", {**facts, "method": None})
    code, _, err = run_script("track", "score", run, f"key={KEY}")
    assert code == 2
    assert "tiny-hidden-v1 accepts code alone" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu", "tiny-v1"], "unknown verb 'rnu'"),
        (["run"], "track run needs a track"),
        (["run", "tiny-v2", "method=sfam"], "there is no track 'tiny-v2'"),
        (["run", "tiny-v1"], "give method= .code. or folder="),
        (["run", "tiny-v1", "method=sfma"], "did you mean sfam"),
        (["run", "tiny-v1", "folder=absent"], "no folder of maps"),
        (["run", "tiny-v1", "method=sfam", "name=.."], "give a name of letters"),
        (["run", "tiny-v1", "method=[sfam,lafam]", "name=1"], "name= names one method"),
        (["run", "tiny-v1", "folder=.", "name=nan"], "lacks 24 of the 24 maps"),
        (["run", "tiny-v1", "folder=nan"], "there is no folder of maps nan"),
        (["submit", "tiny-v1"], "give method="),
        (["submit", "absent"], "cannot read absent/submission.json"),
        (["score", "."], "holds no submission.json"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_mistakes_are_one_line(arguments: list[str], message: str, run_script: Script) -> None:
    code, _, err = run_script("track", *arguments)
    assert code == 2
    (line,) = err.strip().splitlines()
    assert re.search(message, line), line
