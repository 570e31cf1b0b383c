"""Modules as strangers write them: the model's embedding is exactly theirs, or they are refused with the reason."""

from collections import namedtuple
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from sfam_bench.api import explain
from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.core.similarity import Dot, NegativeEuclidean, unit
from sfam_bench.explainers.shared.forms import contributions
from sfam_bench.models.build import load, save
from sfam_bench.models.networks import Standardise
from sfam_bench.models.poolings import GAP, GMP, GeM
from sfam_bench.models.similarity_model import SimilarityModel

SIZE = 48
IMAGES = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))


def block(before: int, after: int, inplace: bool = False) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU(inplace))


class Plain(nn.Module):
    """Two blocks, and what a subclass does behind them."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.one, self.two = block(3, 8, inplace), block(8, 16, inplace)
        self.fc = nn.Linear(16, 6)

    def forward(self, x):
        return self.behind(self.two(self.one(x)))

    def behind(self, x):
        return self.fc(x.mean(dim=(2, 3)))


class Tuple(Plain):
    def behind(self, x):
        return self.fc(x.mean(dim=(2, 3))), x


class Logits(Plain):
    def behind(self, x):
        found = self.fc(x.mean(dim=(2, 3)))
        return found[:, :2], found


class Dict(Plain):
    def behind(self, x):
        found = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return {"logits": found[:, :2], "embedding": F.normalize(found, dim=1)}


class Named(Plain):
    def behind(self, x):
        return namedtuple("Out", ["last_hidden_state", "pooler_output"])(x, self.fc(x.mean(dim=(2, 3))))


class Object(Plain):
    def behind(self, x):
        return SimpleNamespace(image_embeds=self.fc(x.amax(dim=(2, 3))))


class Loop(Plain):
    """torch.fx cannot trace a condition on values."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.ModuleList([nn.Conv2d(16, 16, 3, padding=1) for _ in range(2)])

    def forward(self, x):
        x = self.two(self.one(x))
        for layer in self.more:
            if x.abs().max() > 1e-6:
                x = torch.relu(layer(x))
        found = self.fc(x.mean(dim=(2, 3)))
        return found / found.norm(dim=1, keepdim=True)


class InPlace(Plain):
    def __init__(self) -> None:
        super().__init__(inplace=True)

    def behind(self, x):
        return self.fc(x.mul_(2).relu_().mean(dim=(2, 3)))


class Generalised(Plain):
    class Gem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p = nn.Parameter(torch.tensor([2.5]))
            self.eps = 1e-6

        def forward(self, x):
            return F.avg_pool2d(x.clamp(min=self.eps).pow(self.p), x.shape[-2:]).pow(1 / self.p)[:, :, 0, 0]

    def __init__(self) -> None:
        super().__init__()
        self.pool = self.Gem()

    def behind(self, x):
        return self.pool(x)


class Optional(Plain):
    def forward(self, x, mask=None):
        x = self.two(self.one(x))
        return F.max_pool2d(x if mask is None else x * mask, x.shape[-2:]).flatten(1)


class Flat(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Linear(16 * 12 * 12, 6)

    def behind(self, x):
        return self.flat(x.flatten(1))


class Last(Plain):
    """Channels last, and a norm behind the pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.arrange, self.norm = Arrange(), nn.LayerNorm(16)

    def behind(self, x):
        return self.norm(self.arrange(x).mean(dim=(1, 2)))


class Arrange(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1) * 2 if x.mean() > -9 else x


class Tokens(nn.Module):
    """A transformer with a class and a register token, which returns the class token."""

    def __init__(self, pooled: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.prefix = nn.Parameter(torch.randn(1, 2, 16))
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True) for _ in range(2)])
        self.pooled = pooled

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1)
        for layer in self.blocks:
            x = layer(x)
        return x[:, 2:].mean(dim=1) if self.pooled else x[:, 0]


class Around(Loop):
    def forward(self, x):
        x = self.one(x)
        if x.abs().max() > 1e-6:
            return torch.cat([x.mean(dim=(2, 3)), self.fc(self.two(x).mean(dim=(2, 3)))], dim=1)
        return None


class TracedAround(Plain):
    def forward(self, x):
        x = self.one(x)
        return torch.cat([x.mean(dim=(2, 3)), self.fc(self.two(x).mean(dim=(2, 3)))], dim=1)


def drawn(made: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for name, weights in made.named_parameters():
        if weights.ndim > 1:
            nn.init.normal_(weights, std=weights[0].numel() ** -0.5 if "prefix" not in name else 1)
    return made.eval()


def wrapped(made: nn.Module, **settings) -> SimilarityModel:
    return SimilarityModel.wrap(made, **{"standardise": nn.Identity(), "image_size": SIZE, **settings})


def vector(output):
    for name in ("embedding", "pooler_output", "image_embeds"):
        output = output[name] if isinstance(output, dict) and name in output else getattr(output, name, output)
    return output[0] if isinstance(output, tuple) else output


CASES = {
    "plain": (Plain, {}, GAP, 0.0),
    "tuple": (Tuple, {}, GAP, 0.0),
    "the first of two vectors": (Logits, {}, GAP, None),
    "dict": (Dict, {}, GAP, 0.0),
    "named tuple": (Named, {}, GAP, 0.0),
    "object": (Object, {}, GMP, 0.0),
    "python loop": (Loop, {"layer": "two"}, GAP, None),
    "in place": (InPlace, {}, GAP, 0.0),
    "generalised mean": (Generalised, {}, GeM, 0.0),
    "second input": (Optional, {}, GMP, 0.0),
    "flattened": (Flat, {}, GAP, 0.0),
    "early layer": (Plain, {"layer": "one"}, GAP, None),
    "channels last": (Last, {}, GAP, None),
    "class token": (Tokens, {}, GAP, None),
    "mean of tokens": (lambda: Tokens(pooled=True), {}, GAP, 0.0),
    "path around, cut before it": (Around, {}, GAP, None),
}


@pytest.mark.parametrize("name", CASES)
def test_the_embedding_is_the_modules_own(name):
    made, settings, pooling, residual = CASES[name]
    module = drawn(made())
    before = deepcopy(module.state_dict())
    model = wrapped(module, **settings)
    with torch.no_grad():
        own = unit(vector(module(IMAGES.clone())))
        torch.testing.assert_close(model(IMAGES), own, rtol=1e-4, atol=1e-5)
        side = model.encode(IMAGES[:2])
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert model.embedding == "own"
    assert type(model.embedder.pooling) is pooling
    assert side.activations.shape[2] * side.activations.shape[3] > 1
    direction = model.similarity.direction(side.embeddings, side.embeddings.flip(0))
    shares = contributions(model, side, direction).sum(dim=(1, 2, 3))
    if residual is not None:
        zero = getattr(module, "flat", module.fc if hasattr(module, "fc") else None)
        bias = (zero.bias if zero is not None and own.shape[1] == 6 else torch.zeros(())) * direction
        length = vector(module(IMAGES[:2])).norm(dim=1)
        if not isinstance(module, Dict):  # whose own length is one already
            score = (side.embeddings * direction).sum(dim=1) - bias.sum(dim=1).div(length)
            torch.testing.assert_close(shares, score, rtol=1e-3, atol=1e-4)
    found = explain(model, IMAGES[0], IMAGES[1])
    assert not found.flags
    assert all(maps.abs().max() > 0.5 for maps in found.query_maps.values())


GENERALISED_MEANS = {
    "clamp": lambda x, p: x.clamp(min=1e-6).pow(p).mean((-2, -1)).pow(1.0 / p),
    "adaptive": lambda x, p: F.adaptive_avg_pool2d(x.clamp(min=1e-6).pow(p), 1).pow(1 / p).flatten(1),
    "no clamp": lambda x, p: torch.mean(x**p, dim=(2, 3)) ** (1 / p),
    "constant": lambda x, p: x.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3),
}


class Inlined(Plain):
    def __init__(self, pool) -> None:
        super().__init__()
        self.p, self.pool = nn.Parameter(torch.tensor([2.5])), pool

    def behind(self, x):
        return self.fc(self.pool(x, self.p))


@pytest.mark.parametrize("pool", GENERALISED_MEANS.values(), ids=GENERALISED_MEANS)
def test_a_generalised_mean_is_cut_before_its_powers(pool):
    module = drawn(Inlined(pool))
    model = wrapped(module)
    assert model.layer == "two.2"
    assert type(model.embedder.pooling) is GeM
    assert model.embedder.projection.affine
    torch.testing.assert_close(model.encode(IMAGES).activations, module.two(module.one(IMAGES)))
    torch.testing.assert_close(model(IMAGES), unit(module(IMAGES)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1)])
def test_a_learned_power_is_the_modules_own(shape):
    module = drawn(Inlined(lambda x, p: x.clamp(min=1e-6).pow(p).mean((2, 3), keepdim=True).pow(1 / p).flatten(1)))
    module.p = nn.Parameter(torch.full(shape, 2.5))
    model = wrapped(module)
    assert model.embedder.pooling.p is module.p
    module.p.data.fill_(5)
    torch.testing.assert_close(model(IMAGES), unit(module(IMAGES)), rtol=1e-4, atol=1e-5)


def l2_of_proxy_anchor(x):
    length = torch.sqrt(torch.sum(torch.pow(x, 2), 1).add_(1e-12))
    return torch.div(x, length.view(-1, 1).expand_as(x)).view(x.size())


L2 = {
    "normalize": F.normalize,
    "norm": lambda x: x / (x.norm(dim=1, keepdim=True) + 1e-8),
    "proxy-anchor": l2_of_proxy_anchor,
    "root": lambda x: x / (x**2).sum(1, keepdim=True).sqrt(),
    "inverse root": lambda x: x * torch.rsqrt(x.square().sum(1, keepdim=True)),
    "inverse root first": lambda x: torch.rsqrt(x.square().sum(1, keepdim=True)) * x,
    "in place": lambda x: x.div_(x.square().sum(1, keepdim=True).sqrt()),
}


class Ending(Plain):
    def __init__(self, end) -> None:
        super().__init__()
        self.end = end

    def behind(self, x):
        return self.end(self.fc(x.mean(dim=(2, 3))))


@pytest.mark.parametrize("end", L2.values(), ids=L2)
def test_an_l2_at_the_end_is_left_to_the_embedder(end, caplog):
    plain, model = wrapped(drawn(Plain())), wrapped(drawn(Ending(end)))
    sides = [made.encode(IMAGES[:2]) for made in (plain, model)]
    shares = [
        contributions(made, side, made.similarity.direction(side.embeddings, side.embeddings.flip(0)))
        for made, side in zip((plain, model), sides, strict=True)
    ]
    torch.testing.assert_close(shares[1], shares[0])
    assert "L2" not in caplog.text


@pytest.mark.parametrize("end", [nn.Identity(), *L2.values(), lambda x: 16 * F.normalize(x)])
def test_without_normalise_embeddings_keep_their_length(end):
    module = drawn(Ending(end))
    model = wrapped(module, normalise=False, similarity=Dot())
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), module(IMAGES), rtol=1e-4, atol=1e-5)
    assert model.embedding == "own"


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_reads_the_embedding_behind_the_modules_l2(bias):
    module, head = drawn(Ending(F.normalize)), nn.Linear(6, 3, bias=bias)
    model = wrapped(module, head=head)
    torch.testing.assert_close(model(IMAGES), unit(head(module(IMAGES))))


def test_what_becomes_of_lengths_is_logged(caplog):
    wrapped(drawn(Plain()), normalise=False, similarity=Dot())
    wrapped(drawn(Ending(F.normalize)), similarity=NegativeEuclidean())
    wrapped(drawn(Plain()))
    assert "length" not in caplog.text
    wrapped(drawn(Ending(lambda x: 16 * F.normalize(x))), normalise=False, similarity=Dot())
    assert "Ending: every embedding has length 16, so that maps of linear methods are nearly zero" in caplog.text


def test_an_unknown_l2_is_named(caplog):
    wrapped(drawn(Ending(lambda x: (x.T / x.square().sum(1).sqrt()).T)))
    assert "Ending returns unit vectors by an L2 that is not recognised, so that maps of linear" in caplog.text


def test_explain_takes_a_module(caplog):
    found = explain(drawn(Plain()), torch.rand(3, 224, 224), torch.rand(3, 224, 224))
    assert not found.flags
    assert "Plain is cut at 'two.2', a grid of 56 x 56; choose another by layer=" in caplog.text
    assert "Plain: pixels are standardised with ImageNet's mean and std; give standardise= for others" in caplog.text
    assert "Plain: pictures are resized to 256 (bilinear), cropped to 224 x 224 px, which is assumed" in caplog.text


def test_a_geometry_is_logged_where_it_is_assumed(caplog):
    wrapped(drawn(Plain()), standardise=nn.Sequential(Standardise(geometry=Geometry(50, SIZE))))
    assert "assumed" not in caplog.text
    model = wrapped(drawn(Plain()))
    assert model.geometry == Geometry(55, 48)
    assert "Plain: pictures are resized to 55 (bilinear), cropped to 48 x 48 px, which is assumed" in caplog.text


REFUSED = {
    "a path around": (Around, {"layer": "two"}, "cannot be cut at 'two': its embedding also depends on paths around"),
    "a traced path around": (
        TracedAround,
        {"layer": "two"},
        "cannot be cut at 'two.2': its embedding also depends on ear",
    ),
    "no such layer": (Plain, {"layer": "three"}, "Plain runs no layer 'three'; its top layers: one, two, fc"),
    "no grid": (Plain, {"layer": "fc"}, "the layer 'fc' of Plain returns .* no grid and no tokens"),
    "one position": (
        lambda: nn.Sequential(block(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        {"layer": "1"},
        r"the layer '1' of Sequential returns \(2, 8, 1, 1\), a grid of 1 x 1 without positions to show: choose a",
    ),
    "another size": (Flat, {"image_size": 64}, r"Flat cannot read images \(2, 3, 64, 64\): .* give image_size="),
    "no vector": (lambda: nn.Sequential(block(3, 4)), {}, "returns .*not one vector for each image"),
    "no such key": (Dict, {"read": "features"}, "Dict returns dict, without 'features': correct read="),
    "constant": (lambda: Constant(), {}, "Constant returns the same embedding for two different images"),
    "not a number": (lambda: Constant(float("nan")), {}, "returns zeros, NaN or infinity"),
    "pooled": (Last, {"pooling": GAP()}, "differs from the network's own embedding by .* it leaves out norm"),
}


class Constant(Plain):
    def __init__(self, value: float = 1.0) -> None:
        super().__init__()
        self.value = value

    def behind(self, x):
        return self.fc(x.mean(dim=(2, 3))) * 0 + self.value


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_another_embedding_is_refused(name):
    made, settings, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        wrapped(drawn(made()), **settings)


def test_another_embedding_is_named_where_it_was_chosen():
    pooled = wrapped(drawn(Plain()), embedding="pooled")
    headed = wrapped(drawn(Plain()), head=nn.Linear(6, 3))
    assert "embedding=pooled last grid" in repr(pooled)
    assert pooled(IMAGES).shape == (3, 16)
    assert headed.embedding == "own, with a head"
    assert headed(IMAGES).shape == (3, 3)


def test_layers_before_the_cut_are_skipped_behind_it():
    module = drawn(Around())
    model = wrapped(module, layer="one")
    side, calls = model.encode(IMAGES), []
    module.one[0].register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        torch.testing.assert_close(model.embedder(side.activations), side.embeddings)
    assert not calls


def test_a_scale_near_zero_hides_no_path():
    """A path that an untrained network does not use yet counts as one."""
    module = drawn(Around())
    module.fc.weight.data.mul_(1e-7)
    module.fc.bias.data.zero_()
    with pytest.raises(UserError, match="also depends on paths around"):
        wrapped(module, layer="two")
    assert module.fc.weight.abs().max() < 1e-5


@pytest.mark.parametrize("made", [Plain, Loop, lambda: Tokens(pooled=True)])
def test_networks_that_resize_are_judged_by_the_size_of_the_image(made):
    module = drawn(Resizing(made()))
    for layer in (None, "inner.blocks.1" if type(module.inner) is Tokens else "inner.two"):
        model = wrapped(module, layer=layer)
        with torch.no_grad():
            assert max(model.encode(IMAGES).activations.shape[2:]) <= 8
            torch.testing.assert_close(model(IMAGES), unit(module(IMAGES)), rtol=1e-4, atol=1e-5)


class Resizing(nn.Module):
    def __init__(self, inner) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(F.interpolate(x, (32, 32), mode="bilinear"))


def test_tokens_in_another_order_are_not_taken_for_a_grid():
    class Shuffled(Tokens):
        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = x[:, torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(0))]
            for layer in self.blocks:
                x = layer(x)
            return x.mean(dim=1)

    model = wrapped(drawn(Shuffled()))
    assert model.trunk[1].place.layer == "patches"


def test_a_wrapped_module_is_saved_and_loaded(tmp_path):
    one, other = wrapped(drawn(Loop()), layer="two"), wrapped(drawn(Loop()), layer="two")
    save(one, tmp_path / "a.safetensors", {})
    for weights in other.parameters():
        weights.data.add_(0.1)
    load(other, tmp_path / "a.safetensors")
    torch.testing.assert_close(other(IMAGES), one(IMAGES))


def test_without_l2_the_embeddings_are_exactly_those_of_the_module(caplog):
    for function in (F.normalize, lambda e: 16 * F.normalize(e)):
        module = drawn(Ending(function))
        torch.testing.assert_close(wrapped(module, normalise=False, similarity=Dot())(IMAGES), module(IMAGES))
        assert "scaled to 1" not in caplog.text
        wrapped(module, similarity=Dot())
    assert caplog.text.count("Ending: embeddings of length 16 are scaled to 1; normalise=False keeps them") == 1


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda e: e + 0.5 * (e - e.mean(dim=0)), "embeds an image otherwise when it is alone"),
        (nn.BatchNorm1d(6, track_running_stats=False), "beside another one.*: Expected more than 1 value"),
        (lambda e: F.dropout(e, 0.2), "another embedding of the same images each time"),
    ],
)
def test_an_embedding_is_of_its_image_alone(function, why):
    with pytest.raises(UserError, match=why):
        wrapped(drawn(Ending(function)))


@pytest.mark.parametrize("wrapper", [nn.DataParallel, torch.compile])
def test_a_wrapped_model_is_used_as_it_is(wrapper):
    made = wrapped(drawn(Plain()))
    with pytest.raises(UserError, match="Plain is a SimilarityModel already"):
        SimilarityModel.wrap(wrapper(made))
    images = [Image.fromarray((255 * image.permute(1, 2, 0)).byte().numpy()) for image in IMAGES[:2]]
    one, other = (explain(each, *images, "sfam") for each in (made, wrapper(made)))
    assert one.score == other.score


def test_a_module_that_is_being_trained_goes_on_in_train_mode():
    module = drawn(Plain()).train()
    module.two.eval()
    images = [Image.fromarray((255 * image.permute(1, 2, 0)).byte().numpy()) for image in IMAGES[:2]]
    before = {name: child.training for name, child in module.named_modules()}
    running = module.one[1].running_mean.clone()
    explain(module, *images, "sfam")
    assert {name: child.training for name, child in module.named_modules()} == before
    assert torch.equal(module.one[1].running_mean, running)


@pytest.mark.parametrize("wrapper", [nn.DataParallel, torch.compile])
def test_wrappers_are_taken_off(wrapper):
    module = drawn(Plain())
    torch.testing.assert_close(wrapped(wrapper(module))(IMAGES), unit(module(IMAGES)))


def test_double_precision_is_kept_and_half_is_refused():
    assert wrapped(drawn(Plain()).double())(IMAGES.double()).dtype == torch.float64
    with pytest.raises(UserError, match=r"weights of Plain are float16: call .float\(\)"):
        wrapped(drawn(Plain()).half())
