"""Files in the layouts of other code bases: what is found in them, what must be given, and what is refused."""

import argparse
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from pytorch_metric_learning.utils.common_functions import modelpath_creator, save_dict_of_models, save_model
from safetensors.torch import save_file
from torch import nn

from sfam_bench.app.settings import build as made
from sfam_bench.core.errors import UserError
from sfam_bench.core.protocol import Evaluated, Protocol
from sfam_bench.core.similarity import Cosine, unit
from sfam_bench.models.adapters.codebases import read_codebase
from sfam_bench.models.adapters.head import head_of
from sfam_bench.models.adapters.leftover import wrappers
from sfam_bench.models.adapters.load import checkpoint
from sfam_bench.models.bn_inception import BNInception
from sfam_bench.models.build import backbone
from sfam_bench.models.checkpoint import read, read_state
from sfam_bench.models.networks import Standardise, network
from sfam_bench.models.poolings import GAP, GAPGMP
from tests.contract import LEAN, composed
from tests.models.weights import randomised

pytestmark = pytest.mark.usefixtures("small_probes")
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def resnet() -> torchvision.models.ResNet:
    return randomised(torchvision.models.resnet18())


def maps(net: torchvision.models.ResNet) -> torch.Tensor:
    """The last feature maps of a torchvision ResNet, pixels standardised for ImageNet."""
    with torch.no_grad():
        return nn.Sequential(*list(net.children())[:-2])(Standardise()(IMAGES))


def linear(dims: int = 8, width: int = 512) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(width, dims)


def under(prefix: str, module: nn.Module) -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": value for key, value in module.state_dict().items()}


def loaded(path: Path, **options):
    return checkpoint(str(path), Cosine(), image_size=64, **options)


def saved(content, path: Path) -> Path:
    torch.save(content, path)
    return path


# pytorch-metric-learning, by its own saving code


@pytest.mark.slow
@pytest.mark.parametrize(("role", "suffix"), [("trunk", "12"), ("embedder", "best12")])
def test_trunk_and_embedder_of_pytorch_metric_learning_are_one_model(resnet, role, suffix, tmp_path):
    trunk, embedder = torchvision.models.resnet18(), nn.Sequential(linear(), nn.ReLU(), linear(6, 8))
    trunk.load_state_dict(resnet.state_dict())
    trunk.fc = nn.Identity()
    save_dict_of_models({"trunk": trunk, "embedder": embedder}, suffix, str(tmp_path))
    model = loaded(tmp_path / f"{role}_{suffix}.pth", head_layers=["relu"])
    expected = embedder(maps(resnet).mean(dim=(2, 3)))
    torch.testing.assert_close(model(IMAGES), unit(expected), rtol=1e-5, atol=1e-5)
    assert model.origin.items() >= {"source": "pytorch-metric-learning", "chosen": "unknown"}.items()


@pytest.mark.slow
def test_a_trunk_without_its_embedder_and_an_embedder_without_its_trunk(resnet, tmp_path):
    save_model(nn.DataParallel(resnet), modelpath_creator(str(tmp_path), "trunk", "1"))
    torch.testing.assert_close(loaded(tmp_path / "trunk_1.pth")(IMAGES), unit(maps(resnet).mean(dim=(2, 3))))
    save_model(linear(), modelpath_creator(str(tmp_path), "embedder", "2"))
    with pytest.raises(UserError, match=r"no weights at .*trunk_2.pth"):
        loaded(tmp_path / "embedder_2.pth")


# Layouts of the others, made of torchvision's and our networks; their own code is tried in test_peer_checkpoints.py


def test_proxy_anchor_pools_twice_and_was_chosen_on_the_test_classes(resnet, tmp_path):
    head = linear()
    state = {**under("module.model.", resnet), **under("module.model.embedding.", head)}
    model = loaded(saved({"model_state_dict": state}, tmp_path / "cub_resnet18_best.pth"))
    expected = head(GAPGMP()(maps(resnet)))
    torch.testing.assert_close(model(IMAGES), unit(expected), rtol=1e-5, atol=1e-5)
    assert model.origin.items() >= {"source": "proxy-anchor", "chosen": "test"}.items()
    evaluated = Evaluated("cub", "hash", frozenset({1}), closed=False)
    with pytest.raises(UserError, match="it was chosen on the test classes"):
        Protocol().admit("cub_resnet18_best", model.origin, evaluated)


@pytest.mark.slow
def test_bn_inception_of_proxy_anchor_takes_blue_green_red(tmp_path):
    net, head = randomised(BNInception()), linear(width=1024)
    state = {**under("model.", net), **under("model.last_linear.", linear(9)), **under("model.embedding.", head)}
    model = loaded(saved({"model_state_dict": state}, tmp_path / "cub_bn_inception_best.pth"))
    mean = torch.tensor([104.0, 117.0, 128.0]).view(1, 3, 1, 1)
    expected = head(GAPGMP()(net(IMAGES.flip(1) * 255 - mean)))
    torch.testing.assert_close(model(IMAGES), unit(expected), rtol=1e-5, atol=1e-5)


class Progress:
    """A history as the other code base pickles it."""

    def __init__(self) -> None:
        self.groups = {"e_recall": {"e_recall@1": {"content": [np.float64(0.5)], "saved_idx": 0}}}


Progress.__module__, Progress.__qualname__ = "utilities.logger", "Progress_Saver"


def revisiting(state, path: Path, monkeypatch, **opt) -> Path:
    module = type(argparse)("utilities.logger")
    module.Progress_Saver = Progress
    monkeypatch.setitem(__import__("sys").modules, "utilities", type(argparse)("utilities"))
    monkeypatch.setitem(__import__("sys").modules, "utilities.logger", module)
    content = {"state_dict": state, "opt": argparse.Namespace(**opt), "progress": {"Test": Progress()}, "aux": None}
    return saved(content, path)


@pytest.mark.parametrize(("on", "chosen"), [("Test", "test"), ("Val", "validation"), ("Train", "unknown")])
def test_revisiting_dml_says_by_its_name_on_what_it_was_chosen(resnet, on, chosen, tmp_path, monkeypatch):
    head = linear()
    blocks = nn.ModuleList([resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4])
    body = {key: value for key, value in under("model.", resnet).items() if ".fc." not in key}
    state = {**body, **under("model.last_linear.", head), **under("layer_blocks.", blocks)}
    path = tmp_path / f"checkpoint_{on}_discriminative_e_recall@1.pth.tar"
    file = revisiting(state, path, monkeypatch, arch="resnet18_frozen", embed_dim=8)
    assert read_codebase(file).origin == {"source": "revisiting-dml", "chosen": chosen}
    if on != "Test":
        return  # their weights are alike
    model = loaded(file)
    expected = head(maps(resnet).mean(dim=(2, 3)))  # no "normalize" in arch: no L2
    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-5, atol=1e-5)
    assert model.origin["chosen"] == "test"


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "pooling"), [("bninception_double", GAPGMP), ("bninception_normalize", GAP)])
def test_revisiting_dml_reads_its_settings(arch, pooling, tmp_path, monkeypatch):
    state = {**under("model.", BNInception()), **under("model.last_linear.", linear(width=1024))}
    found = read_codebase(revisiting(state, tmp_path / "a.pth.tar", monkeypatch, arch=arch))
    assert isinstance(found.pooling, pooling)
    assert found.normalise == ("normalize" in arch)
    assert found.standardise is not None
    assert found.standardise(torch.tensor([0.502, 0.4588, 0.4078]).view(1, 3, 1, 1)).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("projection", [None, nn.Sequential(linear(), nn.ReLU(), nn.Dropout(), linear(6, 8))])
def test_open_metric_learning_of_lightning(resnet, projection, tmp_path):
    outer = "model.extractor.model." if projection else "model.model."
    state = {key: value for key, value in under(outer, resnet).items() if ".fc." not in key}
    state |= {**(under("model.projection.", projection) if projection else {}), "criterion.weight": torch.rand(3, 8)}
    callbacks = {"ModelCheckpoint{'monitor': 'OVERALL/cmc/1'}": {"best_model_score": torch.tensor(0.9)}}
    content = {"epoch": 3, "pytorch-lightning_version": "2.4.0", "state_dict": state, "callbacks": callbacks}
    model = loaded(saved(content, tmp_path / "best.ckpt"), normalise=False)
    pooled = maps(resnet).mean(dim=(2, 3))
    expected = projection.eval()(pooled) if projection else pooled
    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-5, atol=1e-5)
    assert model.origin.items() >= {"source": "open-metric-learning", "chosen": "unknown"}.items()


def test_the_zoos_birds_are_closed_set(tmp_path, resnet):
    origin = read_codebase(saved({"state_dict": under("model.", resnet)}, tmp_path / "vits16_cub.ckpt")).origin
    with pytest.raises(UserError, match=r"chosen on the test classes; it was trained on 1 of the 1 classes"):
        Protocol().admit("vits16_cub", origin, Evaluated("cub", "hash", frozenset({150}), closed=False))


# Vision transformers


@pytest.mark.slow
def test_a_vision_transformer_is_read_at_its_class_token(tmp_path):
    net = randomised(timm.create_model("vit_tiny_patch16_224", num_classes=5))
    path = saved({"state_dict": under("backbone.", net)}, tmp_path / "vit.pth")
    model = checkpoint(str(path), Cosine(), head="none")
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = net.forward_features((images - 0.5) / 0.5)[:, 0]
    torch.testing.assert_close(model(images), unit(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_keys_that_do_not_tell_the_pixels_are_not_guessed(tmp_path):
    net = timm.create_model("vit_small_patch16_224", num_classes=0)
    path = saved(net.state_dict(), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"fit .*16_224.dino and .*16_224.augreg_in21k, which differ in standard"):
        loaded(path)
    given = "timm/vit_small_patch16_224.dino"
    assert loaded(path, backbone=given).trunk[0].mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.slow
def test_registers_are_not_left_out_in_silence(tmp_path):
    net = timm.create_model("vit_small_patch14_dinov2", num_classes=0)
    registers = {"mask_token": torch.zeros(1, 384), "register_tokens": torch.rand(1, 4, 384)}
    path = saved({**net.state_dict(), **registers}, tmp_path / "a.pth")
    model = checkpoint(str(path), Cosine(), image_size=56)
    assert torch.equal(model.trunk[1].transformer.reg_token, registers["register_tokens"])
    for load in (
        lambda: checkpoint(str(path), Cosine(), backbone="vit_small_patch14_dinov2"),
        lambda: backbone("vit_small_patch14_dinov2", weights=str(path)),
    ):
        with pytest.raises(UserError, match=r"do not fit .*vit_small_patch14_dinov2: \d+"):
            load()


# Plain files


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [
        ("encoder.net.", ".pt"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("", ".pth"), ("module.", ".safetensors"), ("_orig_mod.module.", ".pth"))
        ),
    ],
)
def test_a_plain_state_dict_under_any_prefix(resnet, prefix, suffix, tmp_path, caplog):
    path = tmp_path / f"a{suffix}"
    state = under(prefix, resnet)
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    with caplog.at_level("INFO"):
        model = loaded(path)
    torch.testing.assert_close(model(IMAGES), unit(maps(resnet).mean(dim=(2, 3))))
    assert f"torchvision/resnet18 under '{prefix}', head: none, ignored: {prefix}fc" in caplog.text


@pytest.mark.slow
def test_halves_and_averaged_weights_are_read(resnet, tmp_path):
    other = {key: torch.zeros_like(value) for key, value in resnet.state_dict().items()}
    half = {key: v.half() if v.is_floating_point() else v for key, v in resnet.state_dict().items()}
    path = saved({"state_dict": other, "state_dict_ema": half}, tmp_path / "last.pth.tar")
    model = loaded(path, prefix="state_dict_ema.")
    assert next(model.parameters()).dtype == torch.float32
    torch.testing.assert_close(model(IMAGES), unit(maps(resnet).mean(dim=(2, 3))), rtol=0.05, atol=5e-3)


@pytest.mark.slow
def test_a_backbone_that_is_named(tmp_path):
    net = timm.create_model("resnet10t", num_classes=0)
    path = saved(under("trunk.", net), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"do not fit torchvision/\w+ or its relatives: .*; name their backbone as"):
        loaded(path)
    with pytest.raises(UserError, match=r"do not fit timm/resnet18: \d+ entries missing"):
        loaded(path, backbone="resnet18")
    assert loaded(path, backbone="resnet10t", layer="layer3").embedder.pools_the_cut is False


@pytest.mark.slow
def test_the_config_loads_a_file(resnet, tmp_path):
    path = saved({**under("a.", resnet), **under("embedder.", linear())}, tmp_path / "birds.pth")
    model = made(composed("embed", *LEAN, "model=checkpoint", f"model.path={path}", "model.image_size=64").model)
    assert model.name == "birds"
    assert model(IMAGES).shape == (2, 8)
    headless = loaded(path, head="none", pooling=GAPGMP(), normalise=False)
    torch.testing.assert_close(headless(IMAGES), GAPGMP()(maps(resnet)))


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (
            lambda s: {**s, "neck.weight": torch.ones(2)},
            {},
            r"has 1 entries that do not belong to resnet18 \(first: neck.weight",
        ),
        (
            lambda s: {k: v for k, v in s.items() if k != "bn1.bias"},
            {"backbone": "torchvision/resnet18"},
            "first: bn1.bias",
        ),
        (lambda s: {"a.weight": torch.ones(2)}, {}, r"contains no known backbone \(first key: a.weight\)"),
        (lambda s: {"trunk.1.conv1.weight": torch.ones(2)}, {}, "is a checkpoint of this project"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (lambda s: {**s, "bn1.bias": s["bn1.bias"] * torch.nan}, {}, "holds NaN or infinity in 'bn1.bias'"),
                (lambda s: {**s, **under("embedder.", linear(width=7))}, {}, "does not fit behind resnet18 and its"),
                (lambda s: {**s, **{f"teacher.{k}": v for k, v in s.items()}}, {}, "choose one as model.prefix='' or"),
                (lambda s: s, {"head": "projector"}, "has no head 'projector'"),
                (lambda s: s, {"backbone": "torchvision/resnet19"}, "torchvision has no model 'resnet19'"),
                (lambda s: {**s, "embedder.a.scale": torch.ones(2)}, {}, "a layer of scale, which is not a known"),
            )
        ),
    ],
)
def test_what_does_not_fit_says_what_to_give(resnet, spoil, options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        loaded(saved(spoil(resnet.state_dict()), tmp_path / "a.pth"), **options)


# Heads


@pytest.mark.parametrize(
    ("head", "plain"),
    [
        (nn.Linear(4, 3), None),
        (nn.Linear(4, 3, bias=False), None),
        (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)), None),
        (nn.Sequential(nn.Dropout(), nn.Linear(4, 3), nn.Linear(3, 2)), None),
        (nn.Sequential(nn.ReLU(), nn.Linear(4, 3)), ["relu"]),
        (nn.Sequential(nn.Linear(4, 3), nn.Tanh()), ["tanh"]),
        (
            nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Dropout(), nn.Linear(3, 2), nn.LayerNorm(2)),
            ["gelu", "dropout"],
        ),
    ],
)
@pytest.mark.parametrize("wrapped", ["", "net.", "module.net."])
def test_a_head_is_rebuilt_of_its_entries(head, plain, wrapped):
    randomised(head.eval())
    rebuilt = head_of(under(wrapped, head), "a.pth", plain).eval()
    features = torch.randn(5, 4)
    torch.testing.assert_close(rebuilt(features), head(features))


def test_wrappers_by_hand():
    assert wrappers("a.b.") == ["a.b.", "a.", ""]
    assert wrappers("") == [""]


# Code in files


class Bomb:
    """A pickle that would create a file when loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("trunk_best3.pth", lambda state, bomb: {**state, "bomb": bomb}),
        ("embedder_best3.pth", lambda state, bomb: bomb),
        ("cub_resnet18_best.pth", lambda state, bomb: {"model_state_dict": state, "epoch": bomb}),
        (
            "checkpoint_Test.pth.tar",
            lambda s, bomb: {"state_dict": s, "opt": argparse.Namespace(arch=bomb), "progress": {}},
        ),
        ("best.ckpt", lambda state, bomb: {"state_dict": state, "hyper_parameters": {"model": bomb}}),
        ("vits16_cub.ckpt", lambda state, bomb: bomb),
        ("model_best.pth.tar", lambda state, bomb: {"state_dict": state, "args": bomb}),
        ("resnet18.pt", lambda state, bomb: bomb),
    ],
)
@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_bomb_is_refused_in_every_format_and_harms_nothing(name, wrap, how, tmp_path):
    mark, path = tmp_path / "exploded", tmp_path / name
    content = wrap({"model.embedding.weight": torch.ones(2, 2)}, Bomb(mark))
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"^refused to read [^\n]*$"):
        loaded(path)
    assert not mark.exists()
    assert path.read_bytes() == before


def test_a_bomb_called_safetensors_and_one_that_was_cut_off(tmp_path):
    mark = tmp_path / "exploded"
    for name, size in (("a.safetensors", None), ("a.pth", 40)):
        path = saved({"a": Bomb(mark)}, tmp_path / name)
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(UserError, match="cannot read weights from"):
            loaded(path)
    assert not mark.exists()


def test_a_whole_module_and_torchscript_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"refused to read .*a.pth: it holds more than tensors.*Linear"):
        read(saved(nn.Linear(2, 3), tmp_path / "a.pth"))
    torch.jit.script(nn.Linear(2, 3)).save(tmp_path / "b.pt")
    with pytest.raises(UserError, match=r"refused to read .*b.pt: TorchScript holds code"):
        read(tmp_path / "b.pt")


def test_histories_are_read_past_and_settings_are_kept(tmp_path, monkeypatch):
    before = torch.serialization.get_safe_globals()
    content = read(
        revisiting({"a": torch.ones(1)}, tmp_path / "a.pth", monkeypatch, arch="resnet50", lr=np.float64(0.1))
    )
    assert content["opt"].arch == "resnet50"
    assert type(content["opt"].lr).__name__ == type(content["progress"]["Test"]).__name__ == "Inert"
    assert not vars(content["progress"]["Test"])
    assert read_state(tmp_path / "a.pth").keys() == {"a"}
    assert set(torch.serialization.get_safe_globals()) == set(before)


# Downloads


@pytest.mark.parametrize(("source", "name"), [("timm", "resnet10t.c3_in1k"), ("torchvision", "resnet18")])
def test_weights_that_cannot_be_downloaded_say_what_to_do(source, name, monkeypatch):
    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    monkeypatch.setattr("timm.models._builder.load_pretrained", no_network)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", no_network)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    with pytest.raises(
        UserError, match=r"cannot download the weights of .* \(no network\): give a file as model.trunk"
    ):
        network(source, name, pretrained=True)


def test_names_without_weights_and_random_weights_are_said():
    with pytest.raises(UserError, match=r"timm has no model 'resnet10t\.nonsense'; similar names: resnet10t"):
        network("timm", "resnet10t.nonsense", pretrained=True)
    with pytest.raises(UserError, match="no weights of bn_inception can be downloaded"):
        network("sfam_bench", "bn_inception", pretrained=True)
    trunk, _ = backbone("bn_inception", "sfam_bench")
    assert trunk.origin == {"weights": "random", "random": ["trunk"]}


def test_a_file_wins_over_the_download(resnet, tmp_path):
    path = saved(resnet.state_dict(), tmp_path / "a.pth")
    trunk, _ = backbone("resnet18", "torchvision", weights=str(path), pretrained=True)
    assert torch.equal(trunk[1].state_dict()["conv1.weight"], resnet.conv1.weight)
