"""State dicts as trainings leave them: prefixes, copies, half precision, classifiers, self-supervised networks."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.similarity import Cosine, unit
from sfam_bench.models.adapters.load import checkpoint
from sfam_bench.models.build import backbone, build
from sfam_bench.models.networks import Standardise
from sfam_bench.models.poolings import GAP

pytestmark = pytest.mark.usefixtures("small_probes")
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
State = Mapping[str, Any]


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18().eval()


def under(prefix: str, entries: nn.Module | State) -> dict[str, Tensor]:
    named = entries.state_dict() if isinstance(entries, nn.Module) else entries
    return {prefix + key: value for key, value in named.items()}


def bare(resnet: nn.Module) -> dict[str, Tensor]:
    """Without the classifier."""
    return {key: value for key, value in resnet.state_dict().items() if not key.startswith("fc.")}


def other(state: State) -> dict[str, Tensor]:
    return {key: torch.zeros_like(value) for key, value in state.items()}


def embedded(resnet: nn.Module) -> Tensor:
    """The network's own embedding."""
    layers = nn.Sequential(*[*resnet.children()][:-1], nn.Flatten()).eval()
    with torch.no_grad():
        return unit(layers(Standardise()(IMAGES)))


def loaded(path: Path) -> Tensor:
    """The embedding with these weights, as `model.trunk.weights`."""
    cut = backbone("resnet18", "torchvision", weights=str(path))
    with torch.no_grad():
        return build("m", cut, GAP(), Cosine(), image_size=64)(IMAGES)


PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder_q.", "_orig_mod.module.model.")


@pytest.mark.parametrize(
    "prefix", [*(pytest.param(each, marks=pytest.mark.slow) for each in PREFIXES[:-1]), PREFIXES[-1]]
)
def test_prefixes_are_removed_and_said(
    resnet: nn.Module, prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {**under(prefix, resnet), "loss.proxies": torch.rand(3, 4)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.pth")
    torch.testing.assert_close(loaded(tmp_path / "a.pth"), embedded(resnet))
    assert f"read under '{prefix}'; ignored: loss.proxies" in caplog.text


@pytest.mark.slow
def test_a_half_precision_and_a_classifier_are_said(
    resnet: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    halves = {key: v.bfloat16() if v.is_floating_point() else v for key, v in resnet.state_dict().items()}
    torch.save(halves, tmp_path / "a.pth")
    torch.testing.assert_close(loaded(tmp_path / "a.pth"), embedded(resnet), rtol=0.05, atol=5e-3)
    assert "weights in bfloat16 are read as float32" in caplog.text
    assert "ignored: fc" in caplog.text
    caplog.clear()
    checkpoint(str(tmp_path / "a.pth"), Cosine(), image_size=64)
    assert "weights in bfloat16 are read as float32" in caplog.text


def test_averaged_copies_are_not_chosen_in_silence(resnet: nn.Module, tmp_path: Path) -> None:
    state = bare(resnet)
    torch.save({"state_dict": state, "state_dict_ema": other(state)}, tmp_path / "two.pth")
    torch.save({**under("online.", state), **under("ema.", other(state))}, tmp_path / "one.pth")
    with pytest.raises(UserError, match=r"holds several state dicts \(state_dict, state_dict_ema\).*model\.prefix"):
        loaded(tmp_path / "two.pth")
    with pytest.raises(UserError, match=r"hold several networks \(ema\., online\.\).*model\.prefix"):
        loaded(tmp_path / "one.pth")


def layers(*widths: int) -> nn.Module:
    """A projection, as self-supervised networks have it."""
    linear = [nn.Linear(before, width) for before, width in pairwise(widths)]
    return nn.Sequential(*[part for layer in linear for part in (layer, nn.ReLU())][:-1])


def moco(resnet: nn.Module, query: str = "encoder_q", key: str = "encoder_k") -> dict[str, Any]:
    state = bare(resnet)
    sides = {**under(f"module.{query}.", state), **under(f"module.{key}.", other(state))}
    heads = {**under(f"module.{query}.fc.", layers(512, 512, 128)), **under(f"module.{key}.fc.", layers(512, 512, 128))}
    return {"arch": "resnet18", "state_dict": {**sides, **heads, "module.queue": torch.rand(128, 10)}}


def simsiam(resnet: nn.Module) -> dict[str, Any]:
    own = {**under("module.encoder.", bare(resnet)), **under("module.encoder.fc.", layers(512, 512, 2048))}
    return {"arch": "resnet18", "state_dict": {**own, **under("module.predictor.", layers(2048, 512, 2048))}}


FILES = {
    "MoCo": moco,
    "MoCo v3": lambda net: moco(net, "base_encoder", "momentum_encoder"),
    "SimSiam": simsiam,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "made",
    [pytest.param(made, id=name) for name, made in FILES.items()],
)
def test_self_supervised_networks_are_read_without_their_projection(
    made: Any, resnet: nn.Module, tmp_path: Path
) -> None:
    torch.save(made(resnet), tmp_path / "a.pth")
    model = checkpoint(str(tmp_path / "a.pth"), Cosine(), image_size=64)
    assert model.origin["source"] == "self-supervised"
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), embedded(resnet))
    torch.testing.assert_close(loaded(tmp_path / "a.pth"), embedded(resnet))


@pytest.mark.slow
def test_the_teacher_of_dino_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = timm.create_model("vit_small_patch16_224.dino", num_classes=0).eval()
    head = under("head.", layers(384, 8, 5))
    teacher, student = (
        {**under("backbone.", net), **head},
        {**under("module.backbone.", other(net.state_dict())), **head},
    )
    torch.save({"student": student, "teacher": teacher, "epoch": 3}, tmp_path / "checkpoint.pth")
    model = checkpoint(str(tmp_path / "checkpoint.pth"), Cosine())
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model(images), unit(net(Standardise()(images))), rtol=1e-4, atol=1e-5)
