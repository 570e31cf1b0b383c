"""References that are no single image: what is no table of vectors is refused."""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from sfam_bench.core.errors import UserError
from sfam_bench.core.references import Vectors


@pytest.mark.parametrize("given", [torch.rand(8), torch.rand(1, 2, 3), np.ones((2, 3)), None])
def test_vectors_are_a_table(given: object) -> None:
    with pytest.raises((UserError, TypeCheckError), match=r"a tensor \(batch, dims\)|embeddings"):
        Vectors(given)  # the latter where shapes are checked


def test_the_weights_of_a_layer_are_taken_without_their_gradient() -> None:
    layer = torch.nn.Linear(3, 2)
    assert not Vectors(layer.weight).embeddings.requires_grad
    assert layer.weight.requires_grad
