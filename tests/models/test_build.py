"""Assembling, saving and loading models."""

import hashlib
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import read_json, write_json
from sfam_bench.core.similarity import Cosine
from sfam_bench.engine.modes import evaluating
from sfam_bench.models.build import build, load, origin_of, save, weights_hash
from sfam_bench.models.checkpoint import read_state
from sfam_bench.models.heads import linear, mlp, neck
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP, GAPGMP, GMP, GeM


def small(head=None, seed=0, **options):
    torch.manual_seed(seed)
    return build("small", planted_net((4, 6), (2, 2)), GAP(), Cosine(), head, image_size=32, **options)


def test_poolings_by_hand():
    activations = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    assert GAP()(activations).item() == 3
    assert GMP()(activations).item() == 6
    assert GAPGMP()(activations).item() == 9
    assert GeM(p=3.0)(activations).item() == pytest.approx(((1 + 8 + 27 + 216) / 4) ** (1 / 3))


def test_gem_runs_from_mean_to_maximum():
    activations = torch.rand(2, 3, 4, 5) + 0.1
    torch.testing.assert_close(GeM(p=1.0)(activations), GAP()(activations))
    torch.testing.assert_close(GeM(p=200.0)(activations), GMP()(activations), rtol=0.02, atol=0)


def test_gmp_gives_its_gradient_to_one_of_equal_maxima():
    activations = torch.ones(1, 1, 2, 2, requires_grad=True)
    GMP()(activations).sum().backward()
    assert activations.grad.flatten().tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("head", "dims"), [(None, 6), (neck(), 6), (linear(5), 5), (linear(5, neck=True), 5), (mlp(5, 7), 5)]
)
def test_heads_find_their_own_size_and_l2_holds(head, dims):
    model = small(head)
    embeddings = model(torch.rand(2, 3, 32, 32))
    assert embeddings.shape == (2, dims)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))


class Noisy(nn.Module):
    def forward(self, embeddings):
        return nn.functional.dropout(embeddings, 0.3)


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (Noisy(), "small returns another embedding of the same images each time"),
        (nn.BatchNorm1d(6, track_running_stats=False), "small cannot embed one image alone: Expected more than 1"),
    ],
)
def test_an_embedding_is_of_its_image_alone(head, why):
    with pytest.raises(UserError, match=why):
        small(head)


def test_encoding_leaves_modes_as_they_were():
    model = small()
    model.train()
    model.trunk.layers[1].eval()
    before = [module.training for module in model.modules()]
    side = model.encode(torch.rand(2, 3, 32, 32))
    assert [module.training for module in model.modules()] == before
    assert not side.activations.requires_grad
    with pytest.raises(RuntimeError), evaluating(model):
        raise RuntimeError
    assert [module.training for module in model.modules()] == before


def test_a_saved_model_comes_back(tmp_path):
    model, other = small(linear(5)), small(linear(5), seed=1)
    save(model, tmp_path / "model.safetensors", {"chosen": "last epoch"})
    load(other, tmp_path / "model.safetensors")
    assert weights_hash(model) == weights_hash(other)
    assert read_json(tmp_path / "model.json", "")["chosen"] == "last epoch"
    origin = origin_of(tmp_path / "model.safetensors")
    assert (origin["source"], origin["chosen"], origin["random"]) == ("sfam_bench", "last epoch", [])
    digest = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()[:12]
    assert origin["weights"] == f"trained here, model.safetensors (sha256 {digest})"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_weights_hash_sees_one_weight():
    model = small()
    before = weights_hash(model)
    next(model.parameters()).data[0, 0, 0, 0] += 1e-3
    assert weights_hash(model) != before


class Bomb:
    """A pickle that would create a file when loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def broken_file(kind: str, folder: Path) -> Path:
    path = folder / ("model.safetensors" if kind != "bomb" else "model.pth")
    if kind == "bomb":
        path.write_bytes(pickle.dumps(Bomb(folder / "exploded")))
    elif kind == "truncated":
        save_file({"a": torch.rand(100)}, path)
        path.write_bytes(path.read_bytes()[:60])
    elif kind == "other":
        save_file({"a": torch.rand(3)}, path)
    elif kind == "nan":
        state = small().state_dict()
        state["trunk.layers.0.weight"] = state["trunk.layers.0.weight"] * torch.nan
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"no weights at .*model.safetensors: give the path"),
        ("truncated", r"cannot read weights from .*model.safetensors: .* damaged"),
        ("other", r"checkpoint .* does not fit the model: \d+ entries missing, 1 unexpected"),
        ("nan", r"holds NaN or infinity in 'trunk.layers.0.weight'"),
        ("bomb", r"refused to read .*model.pth"),
    ],
)
def test_a_checkpoint_that_does_not_do_says_why(kind, message, tmp_path):
    with pytest.raises(UserError, match=message):
        load(small(), broken_file(kind, tmp_path))
    assert not (tmp_path / "exploded").exists()


def test_a_file_of_something_else_is_no_state_dict(tmp_path):
    torch.save({"epoch": 3, "weights": [1, 2]}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="holds no plain state dict"):
        read_state(tmp_path / "a.pth")


def test_an_archive_with_a_damaged_or_doubled_member_is_refused(tmp_path):
    torch.save({"a": torch.arange(1000.0)}, path := tmp_path / "a.pth")
    whole = path.read_bytes()
    at = whole.index(torch.arange(1000.0).numpy().tobytes()[400:440])
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(UserError, match=r"a\.pth: the checksum of a/data/0 differs.*damaged"):
        read_state(path)
    path.write_bytes(whole)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("a/data/0", torch.zeros(1000).numpy().tobytes())
    with pytest.raises(UserError, match="it holds a/data/0 twice"):
        read_state(path)


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.bool])
def test_weights_that_would_be_rounded_are_refused(tmp_path, dtype):
    state = {key: value.contiguous() for key, value in small().state_dict().items()}
    key = next(key for key, value in state.items() if value.is_floating_point())
    save_file(state | {key: state[key].to(dtype)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=rf"checkpoint .*: '{re.escape(key)}' is {dtype} instead of torch.float32"):
        load(small(), tmp_path / "a.safetensors")
    save_file(state | {key: state[key].double()}, tmp_path / "a.safetensors")
    load(small(), tmp_path / "a.safetensors")


def test_frozen_batchnorm_keeps_its_statistics():
    from sfam_bench.training.loop import set_train_mode

    model = small()
    set_train_mode(model, freeze_batchnorm=True)
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert layers
    assert not any(layer.training for layer in layers)
    set_train_mode(model, freeze_batchnorm=False)
    assert all(layer.training for layer in layers)


class Tied(nn.Module):
    """A network whose stages stand under two names, as in Revisiting DML, and a part of a larger tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = planted_net((4, 6), (2, 2))
        self.layer_blocks = nn.ModuleList([self.body.layers[0], self.body.layers[3]])
        self.register_buffer("part", torch.arange(6.0).reshape(2, 3)[:, 1])

    def forward(self, images):
        return self.body(images)


def test_tied_weights_are_saved_and_come_back(tmp_path):
    def tied(seed):
        torch.manual_seed(seed)
        return build("tied", Tied(), GAP(), Cosine(), image_size=32)

    model, other = tied(0), tied(1)
    save(model, tmp_path / "model.safetensors", {})
    load(other, tmp_path / "model.safetensors")
    assert weights_hash(model) == weights_hash(other)
    assert other.trunk.layer_blocks[0].weight is other.trunk.body.layers[0].weight


def test_a_model_that_cannot_be_saved_says_so(tmp_path):
    class Odd(GAP):
        def get_extra_state(self):
            return "text"

    model = build("odd", planted_net((4, 6), (2, 2)), Odd(), Cosine(), image_size=32)
    with pytest.raises(UserError, match=r"its entry 'embedder.pooling._extra_state' is no tensor"):
        save(model, tmp_path / "model.safetensors", {})


def test_facts_of_other_weights_and_edited_facts_are_refused(tmp_path, caplog):
    for number in (0, 1):
        save(small(seed=number), tmp_path / f"{number}.safetensors", {"chosen": "last epoch"})
    (tmp_path / "1.json").write_bytes((tmp_path / "0.json").read_bytes())
    with pytest.raises(UserError, match=r"1.json belongs to other weights than .*1.safetensors"):
        origin_of(tmp_path / "1.safetensors")
    (tmp_path / "0.json").write_text((tmp_path / "0.json").read_text().replace("last epoch", "validation"))
    with pytest.raises(UserError, match=r"0.json is damaged or was edited"):
        origin_of(tmp_path / "0.safetensors")
    assert not caplog.text
    save_file({key: value.contiguous() for key, value in small().state_dict().items()}, tmp_path / "old.safetensors")
    load(small(seed=1), tmp_path / "old.safetensors")
    assert "old.safetensors has no digest" in caplog.text
    write_json(tmp_path / "old.json", {"chosen": "validation"})
    assert origin_of(tmp_path / "old.safetensors")["chosen"] == "validation"


class ChannelsLast(nn.Module):
    """A trunk whose grid is channels last."""

    def __init__(self, channels: int):
        super().__init__()
        self.layer = nn.Conv2d(3, channels, 8, stride=8)

    def forward(self, images):
        return self.layer(images).permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("trunk", "says"),
    [
        (ChannelsLast(6), r"returns \(1, 4, 4, 6\) for one image, with its channels last"),
        (ChannelsLast(4), "channels last"),  # as many channels as rows and columns
        (nn.Sequential(nn.Conv2d(3, 6, 8, stride=8), nn.Flatten(2)), r"returns \(1, 6, 16\)"),
    ],
)
def test_a_trunk_without_a_grid_of_channels_is_refused(trunk, says):
    with pytest.raises(UserError, match=says):
        build("odd", trunk, GAP(), Cosine(), image_size=32)


def test_as_many_channels_as_rows_and_columns_are_fine():
    build("small", nn.Conv2d(3, 4, 8, stride=8), GAP(), Cosine(), image_size=32)
