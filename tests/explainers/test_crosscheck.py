"""Against independent implementations: captum and torchcam, on a ResNet-18 wrapped to return the similarity."""

import pytest
import torch
from torch import nn

from sfam_bench.explainers.grad_cam import GradCAM
from sfam_bench.models.backbones import trunk_and_tail
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from sfam_bench.records import PairBatch
from sfam_bench.similarity import Cosine, Dot, NegativeEuclidean
from sfam_bench.targets import Similarity


class ScoreOf(nn.Module):
    """The wrapper that peers need: image -> one 'class' per reference."""

    def __init__(self, model, references):
        super().__init__()
        self.model, self.references = model, references

    def forward(self, images):
        return self.model.similarity(self.model(images), self.references)[:, None]


@pytest.fixture(params=[None, "layer3"], ids=["last", "layer3"])
def layer(request):
    return request.param


@pytest.fixture(params=[Cosine(), Dot(), NegativeEuclidean()], ids=lambda s: s.name)
def similarity(request):
    return request.param


@pytest.fixture
def setting(layer, similarity):
    torch.manual_seed(0)
    trunk, tail = trunk_and_tail("torchvision", "resnet18", layer)
    torch.manual_seed(1)
    model = SimilarityModel(trunk, Embedder(GAP(), nn.Linear(512, 16), tail, True), similarity).eval()
    images = torch.rand(2, 3, 3, 96, 64)
    pairs = PairBatch(("a", "b", "c"), ("d", "e", "f"), *images)
    return model, pairs, encode_pairs(model, Similarity(), *images)


def test_grad_cam_equals_captums_layer_grad_cam(setting):
    captum = pytest.importorskip("captum.attr")
    model, pairs, encoded = setting
    wrapped = ScoreOf(model, encoded.terms[0].side.embeddings)
    theirs = captum.LayerGradCam(wrapped, model.trunk[1]).attribute(pairs.query, target=0)[:, 0].detach()
    ours = GradCAM(relu=False)(model, encoded, pairs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_grad_cam_equals_torchcams(setting):
    torchcam = pytest.importorskip("torchcam.methods")
    model, pairs, encoded = setting
    wrapped = ScoreOf(model, encoded.terms[0].side.embeddings)
    with torchcam.GradCAM(wrapped, target_layer=model.trunk[1]) as extractor:
        scores = wrapped(pairs.query)
        (theirs,) = extractor([0] * 3, scores, normalized=False)
    ours = GradCAM()(model, encoded, pairs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max() + 1e-12))
