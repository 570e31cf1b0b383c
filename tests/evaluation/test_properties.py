"""What a method costs and leaves over, by hand."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from sfam_bench.core.method_card import Card
from sfam_bench.core.targets import Similarity, score
from sfam_bench.evaluation.properties import properties
from sfam_bench.explainers.shared.forms import derivative, differentiating
from sfam_bench.explainers.similarity_decomposition import SimilarityDecomposition
from tests.contract import pairs, tiny


@dataclass(frozen=True)
class Slope:
    """Gradient times input at the image, which claims to sum to the change from black; made up."""

    card: ClassVar[Card] = Card(total="change")
    baseline: str = "zeros"

    def __call__(self, model: Any, encoded: Any, pairs: Any) -> torch.Tensor:
        images = encoded.query.images
        with differentiating(model):
            found = derivative(lambda x: score(model.similarity, model(x), encoded.terms), images)
        return (found * images).sum(dim=1)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny("cosine", "gap", "none")


def test_a_method_at_the_cut_takes_no_passes_and_an_exact_one_leaves_nothing(model: Any) -> None:
    found = properties(SimilarityDecomposition(), model, Similarity(), pairs())
    assert (found.forwards, found.backwards) == (0, 0)
    assert found.milliseconds > 0
    assert found.residual is not None
    assert found.residual < 1e-5


def test_a_gradient_at_the_image_is_a_pass_forth_and_back(model: Any) -> None:
    found = properties(Slope(), model, Similarity(), pairs())
    assert (found.forwards, found.backwards) == (1, 1)
    assert found.residual is not None
    assert found.residual > 0.01  # a network is not linear


def test_without_a_claim_there_is_no_residual(model: Any) -> None:
    def flat(model: Any, encoded: Any, pairs: Any) -> torch.Tensor:
        return encoded.query.activations.mean(dim=1)

    assert properties(flat, model, Similarity(), pairs()).residual is None
