"""A track of a dozen small pairs, and its hidden twin."""

from pathlib import Path

import pytest
import torch
import yaml

from benchmarks.tracks import freeze
from sfam_bench.app.tracks import open_track
from sfam_bench.core.similarity import Cosine
from sfam_bench.datasets.planted.hidden import commitment
from sfam_bench.models.build import build, save
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP
from sfam_bench.tracks.track import FROZEN, Track

KEY = "k" * 32


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tracks tiny-v1 and tiny-hidden-v1."""
    root = tmp_path_factory.mktemp("frozen")
    torch.manual_seed(0)
    kept = ("git", "code", "versions", "chosen", "split", "loss", "miner", "recipe", "retrieval")
    save(build("tiny", planted_net(), GAP(), Cosine()), root / "model.safetensors", {**dict.fromkeys(kept, "unknown")})
    for name, of in (("tiny-v1", "planted-v1"), ("tiny-hidden-v1", "planted-hidden-v2")):
        spec = yaml.safe_load((FROZEN / of / "track.yaml").read_text())
        spec = {key: value for key, value in spec.items() if key not in ("weights", "images")} | {"classes": 6}
        spec["dataset"] |= {"size": 48, "test_per_class": 4, "train_per_class": 1}
        spec["model"]["image_size"] = 48
        spec["metrics"] = {key: spec["metrics"][key] for key in ("causal_agreement", "selectivity_energy")}
        spec["metrics"]["causal_agreement"]["repeats"] = 2
        if "commitment" in spec:
            spec["commitment"] = commitment(KEY)
        (root / name).mkdir()
        (root / name / "track.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
        freeze(name, root / "model.safetensors", None, KEY if "hidden" in name else None, root)
    (root / "model.safetensors").unlink()
    (root / "model.json").unlink()
    return root


@pytest.fixture(autouse=True)
def _frozen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that use the tiny tracks have no others."""
    if "tiny" in request.fixturenames:
        monkeypatch.setattr("sfam_bench.tracks.track.FROZEN", request.getfixturevalue("tiny"))


@pytest.fixture(scope="session")
def opened(tiny: Path) -> Track:
    """The track tiny-v1."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sfam_bench.tracks.track.FROZEN", tiny)
        return open_track("tiny-v1")
