"""What a map leaves over of the score, by hand and as the table of methods measures it."""

import pytest
import torch

from sfam_bench.core.baselines import MeanColour, Zeros
from sfam_bench.core.maps import normalise, upsample
from sfam_bench.core.targets import Margin, Similarity
from sfam_bench.evaluation.properties import residuals
from sfam_bench.explainers.integrated_gradients import IntegratedGradients
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.explainers.similarity_decomposition import SimilarityDecomposition
from sfam_bench.metrics.completeness import Completeness
from sfam_bench.metrics.shared.base import Explained
from sfam_bench.metrics.shared.scene import Scene
from sfam_bench.models.similarity_model import encode_pairs
from tests.contract import SIZE, pairs, tiny

ROWS, COLS = 20, 30


def by_hand(explained, total: float, score: float, raw: torch.Tensor | None = None) -> Explained:
    """A query whose score is its red, and a raw map on another grid that adds up to `total`."""
    image = torch.zeros(1, 3, ROWS, COLS)
    image[:, 0] = score
    image[:, 0, :, ::2] += 0.1  # not the mean of itself
    image[:, 0, :, 1::2] -= 0.1
    seen = explained(image, torch.rand(1, ROWS, COLS))
    raw = torch.full((1, 2, 3), total / 6) if raw is None else raw
    return Explained(seen.scene, seen.maps, "made_up", raw)


def test_the_rest_by_hand(explained):
    assert Completeness()(by_hand(explained, 0.5, 0.5)).values.item() == pytest.approx(0, abs=1e-6)
    assert Completeness()(by_hand(explained, 0.3, 0.5)).values.item() == pytest.approx(0.4)
    assert Completeness()(by_hand(explained, -0.5, 0.5)).values.item() == pytest.approx(2)
    assert Completeness(Zeros())(by_hand(explained, 0.3, 0.5)).values.item() == pytest.approx(0.4)  # black scores 0
    assert Completeness(MeanColour())(by_hand(explained, 0.0, 0.5)).values.item() == pytest.approx(
        0, abs=1e-6
    )  # scores as much
    assert Completeness(MeanColour())(by_hand(explained, 0.3, 0.5)).values.item() == pytest.approx(0.6)


def test_no_map_an_unsound_one_and_no_score_have_reasons(explained):
    seen = by_hand(explained, 0.3, 0.5)
    without = Explained(seen.scene, seen.maps)
    assert Completeness()(without).values.isnan().all()
    assert Completeness()(without).reasons["no_raw_map"].all()
    unsound = by_hand(explained, 0.3, 0.5, torch.full((1, 2, 2), torch.inf))
    assert Completeness()(unsound).values.isnan().all()
    assert Completeness()(unsound).reasons["nonfinite_map"].all()
    nothing = by_hand(explained, 0.3, 0.04)
    assert Completeness()(nothing).values.isnan().all()
    assert Completeness()(nothing).reasons["zero_score"].all()
    assert Completeness(min_score=0.01)(nothing).values.isfinite().all()


@pytest.mark.parametrize(
    ("explainer", "metric"),
    [
        (SimilarityDecomposition(), Completeness()),
        (IntegratedGradients(steps=4), Completeness(Zeros())),
        (IntegratedGradients(steps=4, baseline="mean_colour"), Completeness(MeanColour())),
    ],
)
@pytest.mark.parametrize("setup", [("cosine", "gap", "none"), ("dot", "gem", "mlp")])
def test_it_is_what_the_table_of_methods_measures(setup, explainer, metric):
    model, batch = tiny(*setup), pairs()
    encoded = encode_pairs(model, Similarity(), batch.query, batch.reference)
    raw = explainer(model, encoded, batch).detach()
    seen = Explained(Scene(model, encoded, batch), upsample(normalise(raw), SIZE), "x", raw)
    expected = residuals(explainer, model, encoded, raw)
    torch.testing.assert_close(metric(seen).values, expected, rtol=1e-4, atol=1e-5)


def test_the_exact_split_leaves_nothing_and_sfam_does():
    model, batch = tiny("cosine", "gap", "none"), pairs()
    for target, negative in ((Similarity(), None), (Margin(), batch.query.flip(0))):
        encoded = encode_pairs(model, target, batch.query, batch.reference, negative)
        for explainer, exact in ((SimilarityDecomposition(), True), (SFAM(), False)):
            raw = explainer(model, encoded, batch).detach()
            found = Completeness(min_score=0.0)(Explained(Scene(model, encoded, batch), raw, "x", raw)).values
            assert ((found < 1e-3) == exact).all()
            halved = Explained(Scene(model, encoded, batch), raw, "x", raw / 2)
            assert not exact or Completeness(min_score=0.0)(halved).values.tolist() == pytest.approx(
                [0.5] * 3, abs=1e-3
            )
