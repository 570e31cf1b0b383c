"""What methods share that differentiate down to the pixels, which are images in [0, 1]."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfam_bench.core.records import Encoded
from sfam_bench.core.targets import score
from sfam_bench.core.types import Images
from sfam_bench.explainers.shared.forms import derivative, differentiating
from sfam_bench.models.similarity_model import SimilarityModel

PIXELS = 2**19  # of the images whose graphs are kept at once: a ResNet-50 keeps some 200 MB an image of 224 x 224


def at_once(images: Images) -> int:
    """How many images of this size to differentiate together."""
    return max(1, PIXELS // (images.shape[-2] * images.shape[-1]))


def chunks(count: int, images: Images) -> Iterator[Int[Tensor, " some"]]:
    """The numbers below `count`, as many at a time as images can be differentiated together."""
    return iter(torch.arange(count, device=images.device).split(at_once(images)))


def image_gradient(model: SimilarityModel, encoded: Encoded, images: Images, pairs: Int[Tensor, " batch"]) -> Images:
    """Derivative of the target by images that stand in the query's place; image i belongs to pair `pairs[i]`."""
    with differentiating(model):
        return derivative(lambda x: score(model.similarity, model(x), encoded.terms, pairs), images)


def mean_gradient(
    model: SimilarityModel,
    encoded: Encoded,
    weights: Float[Tensor, " count"],
    copies: Callable[[Tensor, Tensor], Images],
) -> Images:
    """Weighted sum over copies of each query of the target's derivative there: `copies(pair, number)`, vectors both."""
    images, count = encoded.query.images, len(weights)
    total = torch.zeros_like(images)
    for chunk in chunks(len(images) * count, images):
        pair, number = chunk // count, chunk % count
        gradient = image_gradient(model, encoded, copies(pair, number), pair)
        total.index_add_(0, pair, gradient * weights[number][:, None, None, None])
    return total
