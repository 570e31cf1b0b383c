"""Cutting backbones: the two pieces make the whole, wherever the cut."""

import pytest
import torch
from torch import nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.similarity import Cosine
from sfam_bench.models.backbones import load_backbone, trunk_and_tail
from sfam_bench.models.build import backbone, build, save
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP

SMALL_SWIN = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 3, 4)}  # shifted windows, and all stages


def built(*arguments):
    torch.manual_seed(0)
    trunk, tail = trunk_and_tail(*arguments)
    return trunk.eval(), (tail or nn.Identity()).eval()


@pytest.mark.parametrize(
    ("source", "name", "layer", "features"),
    [
        ("timm", "resnet10t", "layer3", None),
        ("torchvision", "squeezenet1_1", "features.7", "features"),
        pytest.param("timm", "tf_efficientnet_lite0", "blocks.4", None, marks=pytest.mark.slow),
        pytest.param("torchvision", "resnet18", "layer2", None, marks=pytest.mark.slow),
    ],
)
def test_trunk_and_tail_make_the_whole(source, name, layer, features):
    images = torch.rand(2, 3, 64, 96)
    whole, _ = built(source, name, None, features)
    trunk, tail = built(source, name, layer, features)
    with torch.no_grad():
        activations = trunk(images)
        assert activations.shape[-1] > whole(images).shape[-1] or name == "squeezenet1_1"
        kept = activations.clone()
        torch.testing.assert_close(tail(activations), whole(images))
        assert torch.equal(activations, kept)  # an in-place ReLU behind the cut would have changed them


def test_the_last_feature_map_of_torchvision_is_what_its_classifier_pools():
    import torchvision

    torch.manual_seed(0)
    trunk, _ = trunk_and_tail("torchvision", "resnet18")
    torch.manual_seed(0)
    whole = torchvision.models.resnet18().eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        pooled = trunk.eval()(images).mean(dim=(2, 3))
        torch.testing.assert_close(whole.fc(pooled), whole((images - trunk[0].mean) / trunk[0].std))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {}),
        pytest.param("swin_tiny_patch4_window7_224", SMALL_SWIN, marks=pytest.mark.slow),
    ],
)
def test_transformers_give_a_grid(name, options):
    trunk, _ = trunk_and_tail("timm", name, options=options)
    with torch.no_grad():
        assert trunk(torch.rand(1, 3, 224, 224)).ndim == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("timm", "resnet1888"), "timm has no model 'resnet1888'; similar names: resnet"),
        (("torchvision", "resnet19"), "torchvision has no model 'resnet19'; similar names: resnet1"),
        (("hub", "resnet18"), "unknown source of models 'hub': use timm, torchvision"),
        (("timm", "resnet10t", "layer9"), "runs no layer 'layer9'; its top layers: .*layer4"),
        (
            ("timm", "resnet10t", "layer3.0.conv1"),
            "cannot be cut at 'layer3.0.conv1': its embedding also depends on earlier outputs",
        ),
    ],
)
def test_what_cannot_be_built_says_why(arguments, message):
    with pytest.raises(UserError, match=message):
        trunk_and_tail(*arguments)


SMALL = {"embed_dim": 12, "depth": 2, "num_heads": 3}


def test_options_change_a_network():
    trunk, _ = trunk_and_tail("timm", "vit_tiny_patch16_224", embedding="pooled", options={**SMALL, "patch_size": 8})
    assert trunk(torch.rand(1, 3, 32, 48)).shape == (1, 12, 4, 6)
    trunk, _ = trunk_and_tail("torchvision", "resnet18", options={"replace_stride_with_dilation": [False] * 3})
    assert trunk(torch.rand(1, 3, 64, 64)).shape == (1, 512, 2, 2)


@pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "torchvision/resnet18", "sfam_bench/conv_stem_vit"])
def test_unknown_options_are_refused(name):
    source, name = name.split("/")
    with pytest.raises(UserError, match=rf"{name} cannot be built with deep \(.*deep.*\): change model.trunk.options"):
        trunk_and_tail(source, name, options={"deep": 3})


def test_a_stem_of_convolutions_embeds_patches_of_8_px():
    cut = trunk_and_tail("sfam_bench", "conv_stem_vit", options=SMALL)
    trunk, tail = cut
    with torch.no_grad():
        activations = trunk(torch.rand(2, 3, 32, 48))
        assert activations.shape == (2, 36, 4, 6)  # patches, and the class token before and after the norm
        assert tail(activations).shape == (2, 12, 1, 1)
    assert cut.embedding == "own"


def test_a_stem_begins_with_a_trained_network(tmp_path):
    torch.manual_seed(1)
    trained = build("net", planted_net(), GAP(), Cosine())
    save(trained, tmp_path / "model.safetensors", {"chosen": "last epoch"})
    cut = backbone("conv_stem_vit", "sfam_bench", options={**SMALL, "embed_dim": 128, "num_heads": 4})
    (_, tokens), _ = begun = backbone(
        "conv_stem_vit",
        "sfam_bench",
        options={"embed_dim": 128, "depth": 2, "num_heads": 4, "stem": str(tmp_path / "model.safetensors")},
    )
    stem, images = tokens.transformer.patch_embed.proj, torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(stem.eval()(images), trained.encode(images).activations)
    assert begun.trunk.origin["weights"].startswith("stem trained here, model.safetensors")
    assert begun.trunk.origin["random"] == ["blocks"]
    assert cut.trunk.origin["weights"] == "random"


def test_weights_of_another_architecture_are_refused():
    with pytest.raises(UserError, match=r"the weights do not fit tiny: 2 of 2 entries missing"):
        load_backbone(nn.Linear(2, 3), {"other": torch.zeros(1)}, "tiny")
