"""Derivatives of the target at the pixels of images in [0, 1]."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfam_bench.core.records import Encoded
from sfam_bench.core.targets import score
from sfam_bench.core.types import Images
from sfam_bench.explainers.shared.forms import derivative, differentiating
from sfam_bench.models.similarity_model import SimilarityModel

PIXELS = 2**19  # of images differentiated at once: the graph of a ResNet-50 takes some 200 MB for an image of 224 x 224


def chunks(count: int, images: Images) -> Iterator[Int[Tensor, " some"]]:
    """The numbers below `count`, split into the numbers of images that are differentiated at once."""
    return iter(torch.arange(count, device=images.device).split(max(1, PIXELS // images[0, 0].numel())))


def image_gradient(model: SimilarityModel, encoded: Encoded, images: Images, pairs: Int[Tensor, " batch"]) -> Images:
    """Derivative of the target by changed queries; image i belongs to pair `pairs[i]`."""
    with differentiating(model):
        return derivative(lambda x: score(model.similarity, model(x), encoded.terms, pairs), images)


def mean_gradient(
    model: SimilarityModel,
    encoded: Encoded,
    weights: Float[Tensor, " count"],
    copies: Callable[[Tensor, Tensor], Images],
) -> Images:
    """Weighted sum of the target's derivatives at changed queries: `copies(pair, number)`, for vectors of both."""
    images, count = encoded.query.images, len(weights)
    total = torch.zeros_like(images)
    for chunk in chunks(len(images) * count, images):
        pair, number = chunk // count, chunk % count
        gradient = image_gradient(model, encoded, copies(pair, number), pair)
        total.index_add_(0, pair, gradient * weights[number][:, None, None, None])
    return total
