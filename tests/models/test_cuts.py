"""A checkpoint of a model cut at one place, in models cut elsewhere; where a checkpoint of ours comes from."""

import json

import pytest
import torch
from safetensors.torch import save_file

from sfam_bench.core.errors import UserError
from sfam_bench.core.protocol import describe_damage
from sfam_bench.core.similarity import Cosine
from sfam_bench.models.backbones import trunk_and_tail
from sfam_bench.models.build import build, load, origin_of, save, uncut_names, weights_hash
from sfam_bench.models.heads import linear
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP
from tests.models.weights import randomised

VIT = ("timm", "vit_tiny_patch16_224")


def cut_at(layer, token="patch", backbone=("timm", "resnet10t"), seed=0):
    torch.manual_seed(seed)
    made = build("m", trunk_and_tail(*backbone, layer, token=token), GAP(), Cosine(), linear(5), image_size=64)
    return randomised(made, seed)


@pytest.mark.parametrize(("trained", "used"), [(None, "layer3"), ("layer3", "layer2"), ("layer2", None)])
def test_a_checkpoint_fits_every_cut_of_its_network(trained, used, tmp_path):
    model, other = cut_at(trained), cut_at(used, seed=1)
    images = torch.rand(2, 3, 64, 64)
    save(model, tmp_path / "a.safetensors", {})
    before = other(images)
    load(other, tmp_path / "a.safetensors")
    with torch.no_grad():
        assert not torch.allclose(other(images), before)
        torch.testing.assert_close(other(images), model(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("trained", "used", "token"),
    [
        (None, "blocks.5", "patch"),
        ("blocks.5", "blocks.9", "patch"),
        (None, "blocks.8", "class"),
        ("blocks.8", None, "class"),
    ],
)
def test_so_do_the_cuts_of_a_vision_transformer(trained, used, token, tmp_path):
    model, other = cut_at(trained, token, VIT), cut_at(used, token, VIT, seed=1)
    save(model, tmp_path / "a.safetensors", {})
    load(other, tmp_path / "a.safetensors")
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(other(images), model(images), rtol=1e-4, atol=1e-5)


def test_class_and_patch_tokens_share_their_weights(tmp_path):
    save(cut_at(None, "class", VIT), tmp_path / "a.safetensors", {})
    load(model := cut_at("blocks.9", "patch", VIT, seed=1), tmp_path / "a.safetensors")
    assert model.embedder.tail.token == "patch"


def test_another_network_is_still_refused(tmp_path):
    save(cut_at("layer3"), tmp_path / "a.safetensors", {})
    with pytest.raises(UserError, match=r"does not fit the model: \d+ entries missing, \d+ unexpected"):
        load(cut_at("layer2", backbone=("timm", "resnet14t")), tmp_path / "a.safetensors")


def test_layers_by_hand():
    assert uncut_names(
        ["trunk.1.a.weight", "embedder.tail.b.weight", "embedder.projection.0.weight", "trunk.layers.0.bias"]
    ) == {
        "trunk.1.a.weight": "a.weight",
        "embedder.tail.b.weight": "b.weight",
        "embedder.projection.0.weight": "embedder.projection.0.weight",
        "trunk.layers.0.bias": "trunk.layers.0.bias",
    }
    both = ["trunk.1.a.weight", "embedder.tail.a.weight"]  # which of the two a third cut would mean cannot be told
    assert uncut_names(both) == {key: key for key in both}


SPLIT = {"dataset": "cub", "name": "zero_shot", "hash": "abc", "train_classes": [1, 2]}


@pytest.mark.parametrize("chosen", ["last epoch", "validation"])
def test_a_checkpoint_of_ours_says_where_it_comes_from(chosen, tmp_path):
    torch.manual_seed(0)
    model = build("m", planted_net((4,), (2,)), GAP(), Cosine(), image_size=32)
    assert model.origin == {"weights": "random", "random": ["trunk"]}
    save(model, tmp_path / "a.safetensors", {"chosen": chosen, "split": SPLIT, "config": {}})
    path = str(tmp_path / "a.safetensors")
    again = build("m", planted_net((4,), (2,)), GAP(), Cosine(), checkpoint=path, image_size=32)
    assert weights_hash(again) == weights_hash(model)
    assert again.origin.items() >= {"source": "sfam_bench", "chosen": chosen, "split": SPLIT}.items()
    assert not describe_damage(again.origin)


def test_facts_that_are_absent_or_damaged(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert origin_of(tmp_path / "a.safetensors").items() >= {"source": "sfam_bench", "chosen": "unknown"}.items()
    for broken in ("{", "[]", '"text"'):
        (tmp_path / "a.json").write_text(broken)
        with pytest.raises(UserError, match=r"a.json"):
            origin_of(tmp_path / "a.safetensors")
    (tmp_path / "a.json").write_text(json.dumps({"chosen": "best", "split": None}))
    assert "'chosen' is 'best'" in describe_damage(origin_of(tmp_path / "a.safetensors"))
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises(UserError, match=r"cannot read the weights .*a\.safetensors"):
        origin_of(tmp_path / "a.safetensors")
