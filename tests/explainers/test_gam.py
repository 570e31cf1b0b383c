"""GAM: which layers it finds, and what it makes of them."""

import pytest
import torch
from torch import nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.maps import normalise, upsample
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean
from sfam_bench.core.targets import Margin, Similarity, score
from sfam_bench.explainers import gam
from sfam_bench.explainers.gam import GAM, earlier_layers, fits
from sfam_bench.explainers.layer_cam import LayerCAM
from sfam_bench.models.backbones import trunk_and_tail
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP, GMP, GeM
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from tests.parts import explain

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


class Residual(nn.Module):
    """A branch beside a skip connection, one activation function used twice."""

    def __init__(self, channels, in_place):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm, self.relu = nn.BatchNorm2d(channels), nn.ReLU(inplace=in_place)

    def forward(self, x):
        return self.relu(self.second(self.relu(self.norm(self.first(x)))) + x)


class Stages(nn.Module):
    """Three resolutions; the last block of each is the last but for the branch of the next."""

    def __init__(self, in_place=False):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.one = Residual(4, in_place)
        self.down = nn.Conv2d(4, 5, 2, stride=2)
        self.two = Residual(5, in_place)
        self.side, self.narrow, self.main = nn.Conv2d(5, 6, 1, stride=2), nn.Conv2d(5, 5, 1), nn.Conv2d(5, 6, 1, 2)
        self.three = Residual(6, in_place)

    def forward(self, images):
        two = self.two(self.down(self.one(self.stem(images - 0.5))))
        return self.three(self.side(two) + self.main(self.narrow(two).relu()))

    def by_hand(self, images):
        one = self.one(self.stem(images - 0.5))
        two = self.two(self.down(one))
        return one, two, self.three(self.side(two) + self.main(self.narrow(two).relu()))


def setting(trunk=None, pooling=GAP, similarity=None, target=None, size=(19, 26), channels=6):
    torch.manual_seed(0)
    trunk = Stages() if trunk is None else trunk
    model = SimilarityModel(trunk, Embedder(pooling(), nn.Linear(channels, 5)), similarity or Dot()).double().eval()
    images = torch.rand(3, 2, 3, *size, dtype=torch.float64)
    return model, encode_pairs(model, target or Similarity(), *images)


def names(model, image):
    known = {module: name for name, module in model.trunk.named_modules()}
    return [known[module] for module in earlier_layers(model, image)[0]]


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("similarity", [Cosine(), Dot(), NegativeEuclidean()], ids=lambda s: s.name)
@pytest.mark.parametrize("target", [Similarity(), Margin()], ids=lambda t: t.name)
@pytest.mark.parametrize("pooling", [GAP, GMP, GeM])
def test_with_one_layer_it_is_layer_cam(pooling, target, similarity, relu):
    model, encoded = setting(pooling=pooling, similarity=similarity, target=target)
    found = explain(GAM(layers=1, scale="none", relu=relu), model, encoded)
    torch.testing.assert_close(found, explain(LayerCAM(relu), model, encoded), **CLOSE)
    scaled = explain(GAM(layers=1, relu=relu), model, encoded)
    torch.testing.assert_close(scaled, normalise(found), **CLOSE)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("target", [Similarity(), Margin()], ids=lambda t: t.name)
@pytest.mark.parametrize("scale", ["none", "max"])
def test_layers_by_hand(scale, target, in_place):
    model, encoded = setting(Stages(in_place), target=target, similarity=Cosine())
    for layers in (2, 3, 7):
        used = model.trunk.by_hand(encoded.query.images.clone().requires_grad_())[-min(layers, 3) :]
        whole = score(model.similarity, model.embedder(used[-1]), encoded.terms).sum()
        maps = []
        for grid, gradient in zip(used, torch.autograd.grad(whole, used), strict=True):
            one = (gradient.clamp(min=0) * grid.detach()).sum(dim=1)
            one = one / one.amax(dim=(1, 2), keepdim=True) if scale == "max" else one
            maps.append(upsample(one, used[0].shape[-2:]))
        found = explain(GAM(layers, scale), model, encoded)
        torch.testing.assert_close(found, sum(maps) / len(maps), **CLOSE)


@pytest.mark.parametrize("in_place", [False, True])
def test_no_layer_is_a_branch_beside_a_skip_connection(in_place):
    model, encoded = setting(Stages(in_place))
    ends = [name.split(".")[0] for name in names(model, encoded.query.images[:1])]
    assert ends == ["two", "one"]


def test_the_layers_of_real_trunks():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64)
    net = SimilarityModel(planted_net(), Embedder(GAP()), Cosine()).eval()
    assert names(net, image) == ["layers.8", "layers.2"]
    trunk, _ = trunk_and_tail("torchvision", "resnet18")
    traced = SimilarityModel(trunk, Embedder(GAP()), Cosine()).eval()
    assert names(traced, image)[:2] == ["1.layer3.1.relu", "1.layer2.1.relu"]


class Step(nn.Module):
    """A convolution that gives its channels first or last, with no module inside to be seen instead."""

    def __init__(self, before, after, stride, takes_last=False, gives_last=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, stride, stride))
        self.stride, self.takes_last, self.gives_last = stride, takes_last, gives_last

    def forward(self, x):
        x = x.permute(0, 3, 1, 2) if self.takes_last else x
        x = nn.functional.conv2d(x, self.weight, stride=self.stride).relu()
        return x.permute(0, 2, 3, 1) if self.gives_last else x


def test_channels_may_come_last():
    found = []
    for last in (False, True):
        torch.manual_seed(1)
        trunk = nn.Sequential(Step(3, 48, 4, gives_last=last), Step(48, 6, 2, takes_last=last))
        model, encoded = setting(trunk, size=(33, 40))
        assert names(model, encoded.query.images[:1]) == ["0"]
        found.append(explain(GAM(), model, encoded))
    assert found[0].shape == (2, 8, 10)
    torch.testing.assert_close(*found, **CLOSE)


def test_a_stride_leads_from_pixels_to_cells():
    assert fits((7, 7), (224, 224))
    assert fits((19, 26), (37, 51))
    assert fits((147, 99), (299, 203))  # convolutions without padding
    assert fits((1, 1), (5, 3))
    assert not fits((56, 96), (224, 224))
    assert not fits((448, 448), (224, 224))


def test_a_trunk_of_one_resolution_leaves_the_cut():
    model, encoded = setting(nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.Softplus()))
    assert names(model, encoded.query.images[:1]) == []
    expected = explain(GAM(layers=1), model, encoded)
    torch.testing.assert_close(explain(GAM(layers=3), model, encoded), expected, **CLOSE)


def test_pairs_are_taken_in_chunks_and_leave_nothing_behind(monkeypatch):
    model, encoded = setting(target=Margin())
    model.requires_grad_(False)
    expected = explain(GAM(), model, encoded)
    monkeypatch.setattr(gam, "MEMORY", 1)
    sizes = []
    handle = model.trunk.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    torch.testing.assert_close(explain(GAM(), model, encoded), expected, **CLOSE)
    handle.remove()
    assert sizes == [1, 1, 1]  # one to find the layers, and one a pair
    assert not any(module._forward_hooks for module in model.modules())


def test_less_than_one_layer_is_refused():
    with pytest.raises(UserError, match="at least 1"):
        GAM(layers=0)
