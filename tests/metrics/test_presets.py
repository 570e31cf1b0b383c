"""Each protocol of conf/metric/protocols.yaml against plain loops that restate it, and torchcam's own metrics."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from benchmarks.peers import SimilarityNet
from sfam_bench.core.maps import normalise, upsample
from sfam_bench.core.targets import Similarity
from sfam_bench.engine.modes import evaluating
from sfam_bench.metrics.shared.base import Explained, Scene
from sfam_bench.models.similarity_model import encode_pairs
from tests.contract import SIZE, build_entries, pairs, tiny

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
PIXELS = SIZE[0] * SIZE[1]
COUNT = 3


class Standardised(nn.Module):
    """The model as the peers see it: images standardised by ImageNet, one class a pair."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return self.net(images * STD + MEAN)


class Setting:
    def __init__(self):
        model, batch = tiny("cosine", "gap", "none"), pairs()
        self.scene = Scene(model, encode_pairs(model, Similarity(), batch.query, batch.reference), batch)
        raw = torch.rand(COUNT, 7, 9, generator=torch.Generator().manual_seed(5)) + 0.1
        self.raw = raw * torch.tensor([1.0, 0.2, 7.0]).view(-1, 1, 1)
        self.maps = upsample(normalise(self.raw), SIZE)
        self.seen = Explained(self.scene, self.maps, "made", self.raw)
        self.net = Standardised(SimilarityNet(model, self.scene.encoded.terms[0].side.embeddings))
        self.images = (batch.query - MEAN) / STD
        self.metrics = build_entries("metric", "protocols")

    def score(self, images, pair):
        with torch.no_grad(), evaluating(self.scene.model):
            return self.net(images[None])[0, pair].item()

    def order(self, pair):
        return np.argsort(-self.maps[pair].flatten().numpy(), kind="stable")

    def walk(self, start, finish, counts, pair):
        """The score at each count of pixels, most relevant first, one image at a time."""
        scores = []
        for count in counts:
            image = start.clone().flatten(1)
            for pixel in self.order(pair)[:count]:
                image[:, pixel] = finish.flatten(1)[:, pixel]
            scores.append(self.score(image.view(3, *SIZE), pair))
        return np.array(scores)

    def found(self, name):
        return self.metrics[name](self.seen).values.numpy()


@pytest.fixture(scope="module")
def setting():
    return Setting()


def rise_blur(image):
    """Its utils.py: gkern(11, 5) and a convolution with zero padding, of a standardised image."""
    delta = np.zeros((11, 11))
    delta[5, 5] = 1
    kernel, padded = gaussian_filter(delta, 5), np.pad(image.numpy(), ((0, 0), (5, 5), (5, 5)))
    blurred = np.zeros(image.shape)
    for row in range(11):
        for col in range(11):
            blurred += kernel[row, col] * padded[:, row : row + SIZE[0], col : col + SIZE[1]]
    return torch.from_numpy(blurred).float()


@pytest.mark.parametrize("direction", ["deletion", "insertion"])
def test_rise(setting, direction):
    """Its evaluation.py: 224 px a step, the area of arr: (arr.sum() - arr[0] / 2 - arr[-1] / 2) / (len(arr) - 1)."""
    expected = []
    for pair, image in enumerate(setting.images):
        steps = (PIXELS + 224 - 1) // 224
        counts = [min(224 * step, PIXELS) for step in range(steps + 1)]
        ends = (image, torch.zeros_like(image)) if direction == "deletion" else (rise_blur(image), image)
        scores = setting.walk(*ends, counts, pair)
        expected.append((scores.sum() - scores[0] / 2 - scores[-1] / 2) / steps)
    np.testing.assert_allclose(setting.found(f"rise_{direction}"), expected, atol=1e-5)


def scaled_area(setting, pair, direction, colour):
    """101 points from the image to a colour or back, from their least to their greatest value, and the area below."""
    image, counts = setting.images[pair], [round(PIXELS * step / 100) for step in range(101)]
    plain = ((colour - MEAN) / STD).expand_as(image)
    scores = setting.walk(*((image, plain) if direction == "deletion" else (plain, image)), counts, pair)
    return np.trapezoid((scores - scores.min()) / (scores.max() - scores.min()), np.array(counts) / PIXELS)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["deletion", "insertion"])
def test_sane(setting, direction):
    """Towards white or from it, area times 100."""
    expected = [100 * scaled_area(setting, pair, direction, 1.0) for pair in range(COUNT)]
    np.testing.assert_allclose(setting.found(f"sane_{direction}"), expected, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["deletion", "insertion"])
def test_c3a(setting, direction):
    """calculate_iAUC and calculate_dAAC of its episodic_xai.py, towards the zero of standardised images or from it."""
    areas = [scaled_area(setting, pair, direction, MEAN) for pair in range(COUNT)]
    expected = [1 - area if direction == "deletion" else area for area in areas]
    np.testing.assert_allclose(setting.found(f"c3a_{direction}"), expected, atol=2e-5)


@pytest.mark.parametrize("direction", ["deletion", "insertion"])
def test_torchcam_curves(setting, direction):
    expected = []
    for pair, image in enumerate(setting.images):
        step = -(-PIXELS // 20)
        counts = [*range(0, PIXELS, step), PIXELS]
        black = torch.zeros_like(image)
        scores = setting.walk(*((image, black) if direction == "deletion" else (black, image)), counts, pair)
        expected.append(np.trapezoid(scores, np.array(counts) / PIXELS))
    np.testing.assert_allclose(setting.found(f"torchcam_{direction}"), expected, atol=1e-5)


def test_torchcam_average_drop_and_increase(setting):
    drops, increases = [], []
    for pair, image in enumerate(setting.images):
        raw = setting.raw[pair]
        cells = (raw - raw.min()) / (raw - raw.min()).max()
        shown = nn.functional.interpolate(cells[None, None], SIZE, mode="bilinear", align_corners=False)[0]
        before, after = setting.score(image, pair), setting.score(shown * image, pair)
        drops.append(max(0, before - after) / before)
        increases.append(float(after > before))
    np.testing.assert_allclose(setting.found("torchcam_average_drop"), drops, atol=1e-5)
    np.testing.assert_array_equal(setting.found("torchcam_average_increase"), increases)


class Given:
    """torchcam's extractor, for maps that are there already."""

    def __init__(self, model, maps):
        self.model, self.maps = model, maps

    def __call__(self, class_idx=None, scores=None, normalized=True, **kwargs):
        low = self.maps - self.maps.amin(dim=(1, 2), keepdim=True)
        return [low / low.amax(dim=(1, 2), keepdim=True)]

    def fuse_cams(self, cams):
        return cams[0]

    def _hooks_off(self):
        return nullcontext()


def test_torchcams_own_metrics(setting):
    metrics = pytest.importorskip("torchcam.metrics")
    extractor = Given(setting.net, setting.raw)
    classes = list(range(COUNT))
    kept, curves = metrics.ClassificationMetric(extractor), metrics.DeletionInsertionMetric(extractor)
    for metric in (kept, curves):
        metric.update(setting.images, classes)
    expected = {**kept.summary(), **curves.summary()}
    names = {
        **{"avg_drop": "torchcam_average_drop", "conf_increase": "torchcam_average_increase"},
        **{"deletion_auc": "torchcam_deletion", "insertion_auc": "torchcam_insertion"},
    }
    for theirs, ours in names.items():
        assert setting.found(ours).mean() == pytest.approx(expected[theirs], abs=1e-5), ours


def test_the_protocols_are_all_of_them(setting):
    others = {f"{who}_{way}" for who in ("rise", "sane", "c3a", "torchcam") for way in ("deletion", "insertion")}
    assert set(setting.metrics) == others | {"torchcam_average_drop", "torchcam_average_increase"}
    assert {name: setting.metrics[name].higher_is_better for name in setting.metrics} == {
        name: name == "c3a_deletion" or not name.endswith(("deletion", "drop")) for name in setting.metrics
    }
