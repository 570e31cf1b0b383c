"""Layer-wise relevance through whole networks: conserved, whatever the family, and where it ends."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sfam_bench.core.errors import UserError
from sfam_bench.explainers.shared.products import before_l2
from sfam_bench.explainers.shared.relevance import Rules, relevance
from sfam_bench.models.backbones import trunk_and_tail
from sfam_bench.models.planted_net import planted_net
from tests.explainers.networks import setting

RULES = [Rules("zplus", epsilon=1e-12), Rules("epsilon", epsilon=1e-12)]


def ones(output):
    return torch.ones_like(output)


FAMILIES = {
    "resnet18": ("torchvision", "resnet18"),
    "resnet18 at layer3": ("torchvision", "resnet18", "layer3"),
    "efficientnet_lite0": ("timm", "tf_efficientnet_lite0"),
    "efficientnet_b0 at its fourth stage": ("timm", "efficientnet_b0", "blocks.3"),
    "mobilenet_v3": ("timm", "mobilenetv3_small_050"),
    "squeezenet": ("torchvision", "squeezenet1_1", None, "features"),
    "inception_v3": ("torchvision", "inception_v3"),  # timm has no BN-Inception
    "convnext": ("timm", "convnext_atto"),
    "planted_net": (),
}
RECTIFIED = {"resnet18", "resnet18 at layer3", "squeezenet", "inception_v3", "planted_net"}


def family(name):
    """A trunk and tail without biases, its convolutions scaled (He) so that no layer fades."""
    torch.manual_seed(0)
    trunk, tail = trunk_and_tail(*FAMILIES[name]) if FAMILIES[name] else (planted_net((8, 8, 8), (2, 2, 1)), None)
    for part in (trunk, *([tail] if tail else [])):
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
            for values in (getattr(layer, "bias", None), getattr(layer, "running_mean", None)):
                if isinstance(values, torch.Tensor):
                    values.data.zero_()
    return trunk, tail


QUICK = ("resnet18", "planted_net")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in FAMILIES]
)
def test_relevance_is_conserved_in_every_family(name):
    trunk, tail = family(name)
    side = 75 if name == "inception_v3" else 64
    model, encoded, _ = setting(lambda: trunk, tail=tail, size=(side, side), count=1)

    def function(images):
        return before_l2(model, model.trunk(images))

    towards = torch.randn_like(encoded.query.embeddings)
    for rule in ("gamma", "zplus"):
        output = []

        def start(embeddings, output=output):
            output.append(embeddings)
            return towards

        found = relevance(Rules(rule, epsilon=1e-10), function, encoded.query.images, start, "box")
        torch.testing.assert_close(output[0], function(encoded.query.images), rtol=1e-9, atol=1e-12)
        expected = output[0] * towards
        # where no contribution is positive, zplus has nobody to give to
        lost = 1e-4 if rule == "gamma" or name in RECTIFIED else 0.05
        assert abs(float(found.sum() - expected.sum())) < lost * float(expected.abs().sum())
        assert found.isfinite().all()
        assert found.shape == encoded.query.images.shape


def test_positive_starts_stay_positive_under_zplus():
    model, encoded, _ = setting(lambda: family("planted_net")[0], size=(33, 20))
    found = relevance(RULES[0], lambda x: before_l2(model, model.trunk(x)), encoded.query.images, ones, "box")
    assert found.min() >= -1e-12
    assert found.max() > 0


def test_at_the_box_an_image_is_measured_from_the_least_it_could_be():
    layer = nn.Conv2d(3, 1, 1, bias=False).double()
    layer.weight.data = torch.tensor([2.0, -1.0, 1.0]).view(1, 3, 1, 1).double()
    image = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64).view(1, 3, 1, 1)

    def network(x):  # reads -0.5, 0, 0.5: bounds -1 and 1
        return layer((x - 0.5) / 0.5).flatten(1)

    # z = -1 - 0 + 0.5 = -0.5; above the least: 2 * 0.5, -1 * -1, 1 * 1.5, together 3.5
    expected = [-0.5 * part / 3.5 for part in (1.0, 1.0, 1.5)]
    assert relevance(RULES[0], network, image, ones, "box").flatten().tolist() == pytest.approx(expected)
    plain = relevance(RULES[1], network, image, ones, "layer").flatten().tolist()
    assert plain == pytest.approx([-1, 0, 0.5])


def test_images_that_are_read_twice_or_never_are_refused():
    one, other = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)
    images = torch.rand(1, 3, 4, 4)
    with pytest.raises(UserError, match="more than one place"):
        relevance(RULES[0], lambda x: (one(x) + other(x - 1)).mean(dim=(2, 3)), images, ones, "layer")
    with pytest.raises(UserError, match="cannot end there"):
        relevance(RULES[0], lambda x: x.mean(dim=(2, 3)), images, ones, "layer")


def test_what_enters_by_way_of_padding_keeps_the_size_of_the_image():
    torch.manual_seed(0)
    padded, own = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3, padding=1)
    own.load_state_dict(padded.state_dict())
    image = torch.rand(1, 3, 5, 4)
    for entry in ("layer", "box"):
        found, expected = (
            relevance(Rules("gamma"), lambda x, read=read: read(x - 0.5).relu().mean(dim=(2, 3)), image, ones, entry)
            for read in (lambda x: padded(F.pad(x, (1, 1, 1, 1))), own)
        )
        assert found.shape == image.shape
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("entry", ["inputs", "layer", "box"])
def test_black_and_constant_images_and_dead_layers_give_finite_relevance(entry):
    dead = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()).eval()
    nn.init.constant_(dead[0].bias, -100.0)
    for network in (dead, nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())):
        for images in (torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5)):
            for rules in (Rules("zplus"), Rules("gamma"), Rules("epsilon")):
                found = relevance(rules, lambda x, network=network: network(x).mean(dim=(2, 3)), images, ones, entry)
                assert found.isfinite().all()
