"""The model that a caller gives: one of this package, any module, or none for the default."""

from torch import nn

from sfam_bench.core.errors import check_object
from sfam_bench.core.similarity import Cosine
from sfam_bench.models.build import build
from sfam_bench.models.lite0 import lite0
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.models.wrapping import unwrap


def default_model() -> SimilarityModel:
    """Build EfficientNet-Lite0 with ImageNet weights, mean pooling and cosine similarity, for images of 224 px.

    Returns:
        A model that turns images (batch, 3, 224, 224) into embeddings (batch, 1280).

    Raises:
        UserError: if the pip package of the weights is not installed; the message names it.
    """
    return build("lite0", lite0(), GAP(), Cosine())


def find_model(model: nn.Module | None) -> SimilarityModel:
    """The model itself, the wrapped module, or the default model for None; UserError for what is no module."""
    if model is None:
        return default_model()
    check_object(model, "model", nn.Module)
    model = unwrap(model)
    return model if isinstance(model, SimilarityModel) else SimilarityModel.wrap(model)
