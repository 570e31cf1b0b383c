"""Our metrics beside those of Quantus, where the definitions coincide; Quantus comes with the extra `bench` alone."""

import numpy as np
import pytest
import torch
from torch import nn

from sfam_bench.core.baselines import Zeros
from sfam_bench.core.records import PairBatch
from sfam_bench.core.targets import Similarity
from sfam_bench.metrics.complexity import Entropy, Gini
from sfam_bench.metrics.shared.base import Explained, Scene
from sfam_bench.metrics.shared.steps import Stride
from sfam_bench.metrics.shared.walks import Walk
from sfam_bench.models.similarity_model import encode_pairs
from tests.contract import SETUPS, tiny

quantus = pytest.importorskip("quantus", reason="needs the extra bench: it brings an OpenCV of its own")

SIZE, PATCH = 32, 4
PLAIN = {"normalise": False, "abs": False, "disable_warnings": True, "return_aggregate": False}


class Score(nn.Module):
    """The target of one pair as the only class of a classifier."""

    def __init__(self, scene: Scene):
        super().__init__()
        self.scene, self.model = scene, scene.model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scene.read(self.model(images), 0)[:, None]


@pytest.fixture(scope="module")
def explained() -> Explained:
    """A pair, and a map of patches that all differ."""
    draw, model = torch.Generator().manual_seed(0), tiny(*SETUPS[0]).eval()
    query, reference = torch.rand(2, 1, 3, SIZE, SIZE, generator=draw)
    pairs = PairBatch(("q",), ("r",), query, reference)
    patches = torch.randperm((SIZE // PATCH) ** 2, generator=draw).view(1, SIZE // PATCH, SIZE // PATCH) + 1.0
    maps = patches.repeat_interleave(PATCH, dim=1).repeat_interleave(PATCH, dim=2)
    return Explained(Scene(model, encode_pairs(model, Similarity(), query, reference), pairs), maps / maps.max())


def scores(metric, explained: Explained) -> np.ndarray:
    images, maps = explained.scene.pairs.query.numpy(), explained.maps[:, None].numpy()
    model = Score(explained.scene).eval()
    found = metric(model=model, x_batch=images, y_batch=np.zeros(1, int), a_batch=maps, softmax=False, device="cpu")
    return np.asarray(found, dtype=float).squeeze()


@pytest.mark.parametrize("order", ["most", "least"])
def test_region_perturbation_is_the_fall_along_deletion(explained: Explained, order: str) -> None:
    walk = Walk("deletion", Zeros(), Stride(PATCH**2), order)
    curve = walk.scores(explained, torch.tensor([True]))[0].numpy()
    theirs = {"most": "morf", "least": "lerf"}[order]
    kind = {"patch_size": PATCH, "order": theirs, "regions_evaluation": (SIZE // PATCH) ** 2}
    found = scores(quantus.RegionPerturbation(**kind, perturb_baseline="black", **PLAIN), explained)
    np.testing.assert_allclose(found, curve[0] - curve[1:], atol=1e-5)


def test_selectivity_is_the_curve_of_deletion(explained: Explained) -> None:
    curve = Walk("deletion", Zeros(), Stride(PATCH**2)).scores(explained, torch.tensor([True]))[0].numpy()
    found = scores(quantus.Selectivity(patch_size=PATCH, perturb_baseline="black", **PLAIN), explained)
    np.testing.assert_allclose(found, curve[1:], atol=1e-5)


def test_sparseness_is_the_gini_index_and_complexity_the_entropy(explained: Explained) -> None:
    plain = {**PLAIN, "abs": True}
    assert Gini()(explained).values.item() == pytest.approx(
        float(scores(quantus.Sparseness(**plain), explained)), abs=1e-4
    )
    assert Entropy()(explained).values.item() == pytest.approx(
        float(scores(quantus.Complexity(**plain), explained)), abs=1e-4
    )
