"""What may be an embedding is asked for, nothing is invented, and what a message advises works as it stands."""

import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from hydra.errors import InstantiationException
from torch import nn

from sfam_bench.app.cli import explain_error
from sfam_bench.app.settings import build as made
from sfam_bench.core.errors import UserError
from sfam_bench.core.similarity import Cosine, unit
from sfam_bench.models.adapters.head import head_of
from sfam_bench.models.adapters.load import checkpoint
from sfam_bench.models.networks import Standardise
from tests.contract import LEAN, composed
from tests.models.weights import randomised

pytestmark = pytest.mark.usefixtures("small_probes")
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
NET = randomised(torchvision.models.resnet18())
BODY = {key: value for key, value in NET.state_dict().items() if not key.startswith("fc.")}
with torch.no_grad():
    POOLED = nn.Sequential(*list(NET.children())[:-2])(Standardise()(IMAGES)).mean(dim=(2, 3))
torch.manual_seed(3)
LINEAR, SMALL = nn.Linear(512, 64), nn.Linear(64, 8)
MLP = nn.Sequential(LINEAR, nn.ReLU(), SMALL)


def under(prefix: str, state: nn.Module | dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    state = state.state_dict() if isinstance(state, nn.Module) else state
    return {f"{prefix}{key}": value for key, value in state.items()}


def saved(content: object, folder: Path) -> Path:
    path = folder / "a.pth"
    torch.save(content, path)
    return path


def embedded(path: Path, *overrides: str) -> torch.Tensor:
    """The embeddings of a file that the command line loads."""
    config = composed("embed", *LEAN, "model=checkpoint", f"model.path={path}", "model.image_size=64", *overrides)
    return made(config.model).encode(IMAGES).embeddings


def advised(message: str) -> list[list[str]]:
    """The alternatives that a message names, each a list of settings as they are given on a command line."""
    setting = r"'model\.\w+=[^']*'|model\.\w+=(?:''|[\w./]+)"
    found = [re.findall(setting, part) for part in re.split(r" or (?=model|')", message)]
    return [[shlex.split(setting)[0] for setting in settings] for settings in found if settings]


def followed(path: Path, *overrides: str, left: int = 3) -> dict[tuple[str, ...], torch.Tensor]:
    """The embeddings of each way that the messages name, followed until the file loads."""
    try:
        return {overrides: embedded(path, *overrides)}
    except InstantiationException as error:
        said, mistake = explain_error(error), isinstance(error.__cause__, UserError)
    ways = advised(said)
    assert mistake, said
    assert ways, said
    assert left, said
    return {key: found for way in ways for key, found in followed(path, *overrides, *way, left=left - 1).items()}


BARE, HEADED, RELU = unit(POOLED), unit(LINEAR(POOLED).detach()), unit(MLP(POOLED).detach())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({**BODY, **under("fc.", LINEAR)}, {"model.head=fc": HEADED, "model.head=none": BARE}),
        (under("net.", {**BODY, **under("fc.", LINEAR)}), {"model.head=fc": HEADED, "model.head=none": BARE}),
        (
            {"state_dict": {**under("backbone.", BODY), **under("head.", LINEAR)}},
            {"model.head=head": HEADED, "model.head=none": BARE},
        ),
        (
            {"model": BODY, "head": LINEAR.state_dict(), "epoch": 3},
            {"model.head=head": HEADED, "model.head=none": BARE},
        ),
        ({**BODY, **under("neck.", LINEAR)}, {"model.head=neck": HEADED, "model.ignore=[neck]": BARE}),
        ({**BODY, "scale.a": torch.ones(2)}, {"model.ignore=[scale]": BARE}),
        (
            {**BODY, **under("embedder.", LINEAR), **under("fc.", nn.Linear(512, 100))},
            {"model.ignore=[fc]": HEADED, "model.head=fc model.ignore=[embedder]": None},
        ),
        (
            {**BODY, **under("fc.", MLP)},
            {"model.head=fc model.head_layers=[relu]": RELU, "model.head=none": BARE},
        ),
        (
            {**under("student.", BODY), **under("teacher.", {k: v * 0.5 for k, v in BODY.items()})},
            {"": None},  # DINO's teacher is what is evaluated, and a line says so
        ),
        (
            {"state_dict": under("module.", NET), "state_dict_ema": {k: v * 0.5 for k, v in BODY.items()}},
            {"model.prefix=state_dict.module.": BARE, "model.prefix=state_dict_ema.": None},
        ),
        (
            {**BODY, **under("ema.", BODY), **under("ema.fc.", LINEAR)},
            {
                "model.prefix=": BARE,
                "model.prefix=ema. model.head=fc": HEADED,
                "model.prefix=ema. model.head=none": BARE,
            },
        ),
        (
            under("online.", {**under("net.", BODY), **under("projector.", LINEAR)}) | under("target.net.", BODY),
            {
                "model.prefix=online.net. model.head=projector": HEADED,
                "model.prefix=online.net. model.ignore=[online.projector]": BARE,
                "model.prefix=target.net.": BARE,
            },
        ),
    ],
)
def test_what_a_message_advises_loads_what_it_says(content, expected, tmp_path):
    found = {" ".join(way): embeddings for way, embeddings in followed(saved(content, tmp_path)).items()}
    assert found.keys() == expected.keys()
    for way, embeddings in expected.items():
        if embeddings is not None:
            torch.testing.assert_close(found[way], embeddings, rtol=1e-4, atol=1e-5)


def test_only_a_classifier_of_a_known_data_set_is_left_away_and_that_is_said(tmp_path, caplog):
    path = saved({**BODY, **under("fc.", nn.Linear(512, 1000))}, tmp_path)
    torch.testing.assert_close(embedded(path), BARE)
    assert "fc is ignored as a classifier; use it with model.head=fc" in caplog.text
    assert embedded(path, "model.head=fc").shape == (2, 1000)


def test_an_own_embedder_and_a_leading_dropout_are_taken_and_the_latter_is_said(tmp_path, caplog):
    path = saved({**under("backbone.", BODY), **under("embedder.1.", LINEAR)}, tmp_path)
    torch.testing.assert_close(embedded(path), HEADED)
    assert "has no entries for number 0: read as the identity" in caplog.text
    torch.testing.assert_close(embedded(path, "model.head_layers=[relu]"), HEADED)  # what is pooled is positive


@pytest.mark.parametrize("numbers", [(0, 2), (0, 3), (1, 4)])
def test_no_layer_is_invented(numbers):
    first, last = numbers
    entries = {**under(f"{first}.", nn.Linear(4, 3)), **under(f"{last}.", nn.Linear(3, 2))}
    absent = [number for number in range(last) if number != first]
    with pytest.raises(UserError, match=rf"no entries for numbers? {', '.join(map(str, absent))} of 0 to {last}"):
        head_of(entries, "a.pth")
    with pytest.raises(UserError, match=r"model.head_layers names 0 layers"):
        head_of(entries, "a.pth", [])
    assert len(head_of(entries, "a.pth", ["relu"] * len(absent))) == last + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore": ["neck"]}, r"model.ignore names 'neck', which is not in .*a.pth; it contains bn1, conv1"),
        ({"prefix": "teacher."}, r"contains no known backbone at model.prefix=teacher.: choose one of ''"),
        ({"head_layers": ["relu"], "head": "none"}, "model.head_layers is given, but .* has no known head"),
        ({"ignore": ["conv1"]}, r"do not fit .*: 1 entries missing"),
    ],
)
def test_settings_that_name_nothing_are_refused(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        checkpoint(str(saved(BODY, tmp_path)), Cosine(), image_size=64, **options)


def test_queues_of_momentum_encoders_need_no_word(tmp_path):
    state = {**under("module.encoder_q.", BODY), **under("module.encoder_k.", NET), "module.queue": torch.ones(8, 9)}
    torch.testing.assert_close(embedded(saved(state, tmp_path), "model.prefix=module.encoder_q"), BARE)


@pytest.mark.parametrize(
    "name", ["deit_tiny_distilled_patch16_224", pytest.param("test_maxvit", marks=pytest.mark.slow)]
)
def test_networks_that_are_named_are_found_with_their_own_classifiers(name, tmp_path):
    path = saved({"model": timm.create_model(name, num_classes=10).state_dict()}, tmp_path)
    assert checkpoint(str(path), Cosine(), backbone=f"timm/{name}").name == "a"
