"""Against independent implementations, captum, torchcam and pytorch-grad-cam, on a ResNet-18, before they normalise."""

import pytest
import torch
from torch import nn

from sfam_bench.explainers.ablation_cam import AblationCAM
from sfam_bench.explainers.grad_cam import GradCAM
from sfam_bench.explainers.grad_cam_pp import GradCAMPlusPlus
from sfam_bench.explainers.hirescam import HiResCAM
from sfam_bench.explainers.layer_cam import LayerCAM
from sfam_bench.explainers.score_cam import ScoreCAM
from sfam_bench.explainers.xgrad_cam import XGradCAM
from sfam_bench.models.backbones import trunk_and_tail
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from sfam_bench.records import PairBatch
from sfam_bench.similarity import Cosine, Dot, NegativeEuclidean
from sfam_bench.targets import Similarity


class ScoreOf(nn.Module):
    """The wrapper that peers need: image -> one 'class' per reference."""

    def __init__(self, model, similarity, references):
        super().__init__()
        self.model, self.similarity, self.references = model, similarity, references

    def forward(self, images):
        return self.similarity(self.model(images), self.references.expand(len(images), -1))[:, None]


def raw_map(method, network, layer, images, similarity, references):
    """A map of pytorch-grad-cam before its ReLU and its scale, `network` being one that ends in embeddings."""

    class Keeping(method):
        def get_cam_image(self, *args):
            self.raw = super().get_cam_image(*args)
            return self.raw

    with Keeping(network, [layer]) as extractor:
        extractor.batch_size = 512
        extractor(images, [lambda e, r=r: similarity(e[None], r[None])[0] for r in references])
    return torch.as_tensor(extractor.raw)


def close(ours, theirs, to=1e-5):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=to * float(theirs.abs().max()))


@pytest.fixture(scope="module", params=[None, "layer3"], ids=["last", "layer3"])
def layer(request):
    return request.param


@pytest.fixture(scope="module", params=[Cosine(), Dot(), NegativeEuclidean()], ids=lambda s: s.name)
def similarity(request):
    return request.param


@pytest.fixture(scope="module")
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
    wrapped = ScoreOf(model, model.similarity, encoded.terms[0].side.embeddings)
    theirs = captum.LayerGradCam(wrapped, model.trunk[1]).attribute(pairs.query, target=0)[:, 0].detach()
    ours = GradCAM(relu=False)(model, encoded, pairs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_grad_cam_equals_torchcams(setting):
    torchcam = pytest.importorskip("torchcam.methods")
    model, pairs, encoded = setting
    wrapped = ScoreOf(model, model.similarity, encoded.terms[0].side.embeddings)
    with torchcam.GradCAM(wrapped, target_layer=model.trunk[1]) as extractor:
        scores = wrapped(pairs.query)
        (theirs,) = extractor([0] * 3, scores, normalized=False)
    ours = GradCAM()(model, encoded, pairs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max() + 1e-12))


@pytest.mark.parametrize(("name", "ours"), [("XGradCAM", XGradCAM()), ("LayerCAM", LayerCAM())])
def test_gradient_methods_equal_torchcams(name, ours, setting):
    torchcam = pytest.importorskip("torchcam.methods")
    model, pairs, encoded = setting
    wrapped = ScoreOf(model, model.similarity, encoded.terms[0].side.embeddings)
    with getattr(torchcam, name)(wrapped, target_layer=model.trunk[1]) as extractor:
        (theirs,) = extractor([0] * 3, wrapped(pairs.query), normalized=False)
    close(ours(model, encoded, pairs), theirs)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("GradCAM", GradCAM(relu=False)),
        ("HiResCAM", HiResCAM()),
        ("XGradCAM", XGradCAM(relu=False)),
        ("LayerCAM", LayerCAM(relu=False)),
        ("GradCAMPlusPlus", GradCAMPlusPlus(epsilon=1e-6, relu=False)),
    ],
)
def test_gradient_methods_equal_pytorch_grad_cams(name, ours, setting):
    peers = pytest.importorskip("pytorch_grad_cam")
    model, pairs, encoded = setting
    references = encoded.terms[0].side.embeddings
    theirs = raw_map(getattr(peers, name), model, model.trunk[1], pairs.query, model.similarity, references)
    close(ours(model, encoded, pairs), theirs)


@pytest.fixture(scope="module")
def behind_the_cut(setting):
    """One pair, and the embedder as a network of its own: a peer that masks its images then masks the activations."""
    model, pairs, _ = setting
    encoded = encode_pairs(model, Similarity(), pairs.query[:1], pairs.reference[:1])
    return model, pairs, encoded, nn.Sequential(nn.Identity(), model.embedder)


def test_ablation_cam_equals_pytorch_grad_cams(behind_the_cut):
    peers = pytest.importorskip("pytorch_grad_cam")
    model, pairs, encoded, network = behind_the_cut
    references, activations = encoded.terms[0].side.embeddings, encoded.query.activations
    assert activations.amin() == 0  # elsewhere theirs takes -1e7 for the ablated value
    theirs = raw_map(peers.AblationCAM, network, network[0], activations, model.similarity, references)
    sign = model.similarity(encoded.query.embeddings, references).sign()
    # theirs subtracts scores in float32
    close(AblationCAM(relu=False)(model, encoded, pairs), theirs * sign, to=2e-4)


def test_score_cam_equals_pytorch_grad_cams_and_torchcams(behind_the_cut):
    peers, torchcam = pytest.importorskip("pytorch_grad_cam"), pytest.importorskip("torchcam.methods")
    model, pairs, encoded, network = behind_the_cut
    references, activations = encoded.terms[0].side.embeddings, encoded.query.activations
    ours = ScoreCAM()(model, encoded, pairs)
    close(ours, raw_map(peers.ScoreCAM, network, network[0], activations, model.similarity, references))
    wrapped = ScoreOf(network, model.similarity, references)
    with torchcam.ScoreCAM(wrapped, target_layer=network[0], batch_size=512) as extractor:
        wrapped(activations)
        (theirs,) = extractor(0, normalized=False)
    close(ours, theirs)
