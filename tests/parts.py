"""Parts of small models: poolings, heads, similarities, targets; their maps, and sums of maps."""

import torch
from torch import Tensor, nn

from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean
from sfam_bench.core.targets import Margin, Similarity
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.models.poolings import GAP, GAPGMP, GMP, GeM
from sfam_bench.models.similarity_model import SimilarityModel

POOLINGS = [GAP, GMP, GAPGMP, GeM]
SIMILARITIES = [Cosine(), Dot(), NegativeEuclidean()]
TARGETS = {"similarity": Similarity(), "margin": Margin()}
CLOSE = {"rtol": 1e-10, "atol": 1e-12}  # in float64


def batch_norm(channels: int) -> nn.BatchNorm1d:
    """One that does something."""
    layer = nn.BatchNorm1d(channels)
    for values in (layer.running_mean, layer.weight, layer.bias):
        nn.init.uniform_(values, -1, 1)
    nn.init.uniform_(layer.running_var, 0.5, 2)
    return layer


HEADS = {
    "none": lambda channels: None,
    "linear": lambda channels: nn.Linear(channels, 5),
    "no_bias": lambda channels: nn.Linear(channels, 5, bias=False),
    "neck": lambda channels: nn.Sequential(batch_norm(channels), nn.Linear(channels, 5)),
    "mlp": lambda channels: nn.Sequential(nn.Linear(channels, 8), nn.Tanh(), nn.Linear(8, 5)),
}
AFFINE = [name for name in HEADS if name != "mlp"]


def seeded(head, channels, seed=0):
    """A head with weights of its own seed; drawn when a module is imported, they would depend on the imports before."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return HEADS[head](channels)


def explain(explainer: Explainer, model: SimilarityModel, encoded: Encoded) -> Tensor:
    """The maps of a method that reads nothing of the pairs but their images."""
    images = encoded.query.images
    ids = tuple(map(str, range(len(images))))
    return explainer(model, encoded, PairBatch(ids, ids, images, images))


def total(maps: Tensor) -> Tensor:
    """The sum of each map."""
    return maps.sum(dim=(1, 2))
