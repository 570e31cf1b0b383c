"""The peers, called by benchmarks/peers.py, give what our own code gives."""

import os
import sys

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.peers import (
    CausalCurve,
    SimilarityNet,
    captum_maps,
    causal_evaluate,
    grad_cam_maps,
    grad_cam_raw_maps,
    grad_cam_road,
    original_curve,
    original_rise,
    quantus_pixel_flipping,
    torchcam_maps,
    torchcam_score_cam,
)
from sfam_bench.core.baselines import MeanColour, Zeros
from sfam_bench.core.maps import upsample
from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import Similarity
from sfam_bench.explainers.grad_cam import GradCAM
from sfam_bench.metrics.perturbation import Trapezoid, Walk
from sfam_bench.metrics.shared.base import Explained, Scene
from sfam_bench.models.build import build
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import encode_pairs

SIDE = 32
PAIRS = 3


def distinct(seed=0):
    """Maps without ties."""
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randperm(SIDE * SIDE, generator=generator) for _ in range(PAIRS)]
    return torch.stack(maps).view(PAIRS, SIDE, SIDE) / (SIDE * SIDE)


class Setting:
    def __init__(self):
        torch.manual_seed(0)
        self.model = build("small", planted_net((8, 12), (2, 2)), GAP(), Cosine(), nn.Linear(12, 6), image_size=SIDE)
        self.query, self.reference = torch.rand(2, PAIRS, 3, SIDE, SIDE)
        ids = tuple(map(str, range(PAIRS)))
        self.pairs = PairBatch(ids, ids, self.query, self.reference)
        self.encoded = encode_pairs(self.model, Similarity(), self.query, self.reference)
        self.references = self.encoded.terms[0].side.embeddings

    def score(self, pair=slice(None)):
        """The similarity of other images in the queries' place."""
        return lambda images: self.model.similarity(self.model(images), self.references[pair])

    def ours(self, maps, baseline, direction):
        """Our curve at equal steps of one row of pixels."""
        explained = Explained(Scene(self.model, self.encoded, self.pairs), maps)
        return Walk(direction, baseline, Trapezoid(SIDE)).scores(explained, torch.ones(PAIRS, dtype=bool)).numpy()


@pytest.fixture(scope="module")
def setting():
    return Setting()


@pytest.fixture(params=["deletion", "insertion"])
def direction(request):
    return request.param


def close(theirs, ours, tolerance=1e-5):
    """Agreement relative to the largest value."""
    theirs, ours = (torch.as_tensor(value) for value in (theirs, ours))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=tolerance * float(ours.abs().max()))


def test_similarity_net_has_the_pairs_on_its_diagonal(setting):
    net = SimilarityNet(setting.model, setting.references).train()
    assert not SimilarityNet(setting.model, setting.references).training
    torch.testing.assert_close(net.eval()(setting.query).diagonal(), setting.score()(setting.query))
    single = SimilarityNet(setting.model, setting.references[:1])(setting.query)
    assert single.shape == (PAIRS, 1)
    assert single.requires_grad


@pytest.mark.parametrize("baseline", [Zeros(), MeanColour()], ids=lambda b: b.name)
@pytest.mark.parametrize("tied", [False, True])
def test_causal_curve_equals_ours(setting, direction, baseline, tied):
    maps = (distinct() * 5).floor() if tied else distinct()
    expected = setting.ours(maps, baseline, direction)
    batched = causal_evaluate(
        SimilarityNet(setting.model, setting.references),
        setting.query,
        maps.numpy(),
        direction,
        SIDE,
        baseline,
        batch_size=2,
        stable=True,
    )
    np.testing.assert_allclose(batched.T, expected, atol=1e-6, rtol=0)
    for i in range(PAIRS):
        walk = CausalCurve(setting.score(slice(i, i + 1)), direction, SIDE, baseline, stable=True)
        found = walk(setting.query[i : i + 1], maps[i].numpy())
        assert found.shape == (SIDE + 1,)
        np.testing.assert_allclose(found, expected[i], atol=1e-6, rtol=0)


def test_the_orders_differ_only_among_ties(setting):
    options = ("deletion", SIDE, Zeros())
    walks = [CausalCurve(setting.score(slice(0, 1)), *options, stable=stable) for stable in (False, True)]
    free, tied = distinct()[0].numpy(), torch.zeros(SIDE, SIDE).numpy()
    theirs, ours = (walk(setting.query[:1], free) for walk in walks)
    np.testing.assert_array_equal(theirs, ours)
    theirs, ours = (walk(setting.query[:1], tied) for walk in walks)
    assert np.abs(theirs - ours).max() > 1e-5


def test_causal_curve_costs_one_pass_a_point_and_one_more(setting):
    sizes = []

    def score(images):
        sizes.append(tuple(images.shape))
        return setting.score(slice(0, 1))(images)

    image, before = setting.query[:1], setting.query.clone()
    CausalCurve(score, "deletion", 100, Zeros())(image, distinct()[0].numpy())
    assert sizes == [(1, 3, SIDE, SIDE)] * (1 + 1 + 11)  # 1024 pixels, the last step shorter
    assert torch.equal(setting.query, before)


def test_causal_curve_takes_an_expanded_base(setting):
    def expanded(images):
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images)

    image, maps = setting.query[:1], distinct()[0].numpy()
    found, expected = (
        CausalCurve(setting.score(slice(0, 1)), "insertion", SIDE, base)(image, maps)
        for base in (expanded, MeanColour())
    )
    np.testing.assert_array_equal(found, expected)


def test_original_rise_is_named_when_absent(tmp_path, monkeypatch):
    monkeypatch.delenv("RISE", raising=False)
    assert original_rise()[0] is None
    assert str(tmp_path) in original_rise(tmp_path)[1]
    (tmp_path / "evaluation.py").write_text("from utils import *\nimport no_such_package\n")
    (tmp_path / "utils.py").write_text("answer = 42\n")
    module, reason = original_rise(tmp_path)
    assert module is None
    assert "no_such_package" in reason


def test_original_rise_leaves_other_modules_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "utils", os)
    (tmp_path / "evaluation.py").write_text("from utils import *\n")
    (tmp_path / "utils.py").write_text("answer = 42\n")
    module, reason = original_rise(tmp_path)
    assert module.answer == 42
    assert not reason
    assert sys.modules["utils"] is os
    assert "evaluation" not in sys.modules
    assert str(tmp_path) not in sys.path


def test_the_restatement_equals_the_original(setting, direction):
    rise, reason = original_rise()
    if rise is None:
        pytest.skip(reason)
    walk = CausalCurve(setting.score(slice(0, 1)), direction, SIDE, MeanColour())
    for saliency in (distinct()[0].numpy(), np.zeros((SIDE, SIDE), np.float32)):
        theirs = original_curve(rise, walk, setting.query[:1], saliency)
        np.testing.assert_array_equal(walk(setting.query[:1], saliency), theirs)


def test_grad_cam_package_agrees_with_ours(setting):
    pytest.importorskip("pytorch_grad_cam")
    raw = grad_cam_raw_maps(setting.model, setting.query, setting.references, ["grad_cam"])["grad_cam"]
    close(raw, GradCAM(relu=False)(setting.model, setting.encoded, setting.pairs))
    scaled = grad_cam_maps(setting.model, setting.query, setting.references, ["grad_cam"])["grad_cam"]
    ours = GradCAM()(setting.model, setting.encoded, setting.pairs)
    ours = upsample(ours - ours.amin(dim=(1, 2), keepdim=True), (SIDE, SIDE))
    ours = ours - ours.amin(dim=(1, 2), keepdim=True)
    close(scaled, ours / ours.amax(dim=(1, 2), keepdim=True), 1e-4)


def test_torchcam_agrees_with_ours(setting):
    pytest.importorskip("torchcam")
    options = (setting.model, setting.query, setting.references, ["grad_cam"])
    ours = GradCAM()(setting.model, setting.encoded, setting.pairs)
    close(torchcam_maps(*options, normalized=False)["grad_cam"], ours)
    assert float(torchcam_maps(*options)["grad_cam"].max()) == pytest.approx(1, abs=1e-3)


def test_captum_agrees_with_ours(setting):
    pytest.importorskip("captum")
    theirs = captum_maps(setting.model, setting.query, setting.references)
    close(theirs["grad_cam"], GradCAM(relu=False)(setting.model, setting.encoded, setting.pairs))
    integrated = captum_maps(setting.model, setting.query, setting.references, ["integrated_gradients"])
    change = setting.score()(setting.query) - setting.score()(torch.zeros_like(setting.query))
    torch.testing.assert_close(integrated["integrated_gradients"].sum(dim=(1, 2)), change, rtol=0.02, atol=1e-4)


def test_peers_agree_with_each_other(setting):
    pytest.importorskip("pytorch_grad_cam")
    pytest.importorskip("torchcam")
    pytest.importorskip("captum")
    options = (setting.model, setting.query, setting.references)
    raw, torchcam = grad_cam_raw_maps(*options), torchcam_maps(*options, normalized=False)
    close(raw["hirescam"], captum_maps(*options)["gradient_x_activation"])
    for name in ("xgrad_cam", "layer_cam"):
        close(np.maximum(raw[name], 0), torchcam[name], 1e-3)  # their epsilons differ


def test_ablation_cam_takes_a_share_of_the_channels(setting):
    pytest.importorskip("pytorch_grad_cam")
    model, activations = setting.model, setting.encoded.query.activations
    options = (model, setting.query, setting.references, ["ablation_cam"])
    with torch.no_grad():
        before = setting.score()(setting.query)
        drops = []
        for k in range(activations.shape[1]):
            ablated = activations.clone()
            ablated[:, k] = 0
            drops.append((before - model.similarity(model.embedder(ablated), setting.references)) / before)
    weights = torch.stack(drops, dim=1)
    for share, count in ((1.0, 12), (0.5, 6)):
        maps = grad_cam_raw_maps(*options, channels_ablated=share)["ablation_cam"]
        close(maps, torch.einsum("bk,bkij->bij", weights[:, :count], activations[:, :count]), 1e-3)
    behind = grad_cam_maps(*options, layer=model.trunk.layers[-1])["ablation_cam"]  # the same output, one level down
    np.testing.assert_allclose(behind, grad_cam_maps(*options)["ablation_cam"], atol=1e-3)


def test_score_cam_takes_a_pass_a_channel(setting):
    pytest.importorskip("torchcam")
    passes = []
    handle = setting.model.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    options = (setting.model, setting.query, setting.references)
    maps = torchcam_score_cam(*options, channels=0.5, batch_size=4)
    handle.remove()
    assert maps.shape == (PAIRS, SIDE // 4, SIDE // 4)
    assert sum(passes) == PAIRS * (6 + 2)


def test_quantus_walks_three_times_as_many_steps_on_our_curve(setting):
    pytest.importorskip("quantus")
    maps = distinct()
    theirs = quantus_pixel_flipping(setting.model, setting.query, setting.references, maps, features=SIDE)
    assert theirs.shape == (PAIRS, 3 * SIDE)
    expected = setting.ours(maps, Zeros(), "deletion")
    np.testing.assert_allclose(theirs[:, 2::3], expected[:, 1:], atol=1e-6, rtol=0)


def test_quantus_mean_is_another_baseline(setting):
    pytest.importorskip("quantus")
    maps = distinct()
    theirs = quantus_pixel_flipping(setting.model, setting.query, setting.references, maps, SIDE, "mean")
    assert np.abs(theirs[:, 2::3] - setting.ours(maps, MeanColour(), "deletion")[:, 1:]).max() > 1e-5


def test_road_changes_more_with_more_pixels(setting):
    pytest.importorskip("pytorch_grad_cam")
    torch.manual_seed(0)  # its imputer adds noise
    options = (setting.model, setting.query, setting.references, distinct())
    few, many = (np.abs(grad_cam_road(*options, percentile=percentile)) for percentile in (99, 20))
    assert few.shape == (PAIRS,)
    assert few.max() < many.max()
