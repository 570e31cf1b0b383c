"""What the tests of perturbation-based methods share: pairs before small nets, and additive scores."""

import torch
from torch import nn

from sfam_bench.core.records import PairBatch
from sfam_bench.core.targets import Similarity
from sfam_bench.explainers.corr_rise import CorrRISE
from sfam_bench.explainers.distance_explainer import DistanceExplainer
from sfam_bench.explainers.kernel_shap import KernelSHAP
from sfam_bench.explainers.relax import RELAX
from sfam_bench.explainers.rise import RISE
from sfam_bench.explainers.sbsm import SBSM
from sfam_bench.models.poolings import GAP, GeM
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from tests.parts import SIMILARITIES

CLOSE = {"rtol": 1e-8, "atol": 1e-12}
LINEAR = [RISE(masks=40, grid=3), SBSM(relu=False), KernelSHAP(grid=3, samples=60)]
METHODS = [*LINEAR, CorrRISE(masks=40), DistanceExplainer(masks=40), RELAX(masks=40, grid=3)]


def named(method):
    return type(method).__name__


def setting(similarity=SIMILARITIES[0], target=None, rows=11, cols=8, additive=False, seed=0):
    """Two pairs before a small net; `additive`: linear, so that dot products add up over pixels."""
    torch.manual_seed(seed)
    first = nn.Conv2d(3, 5, 1 if additive else 3, bias=not additive)
    parts = (GAP(), None, None, False) if additive else (GeM(), nn.Linear(5, 4), None, True)
    model = SimilarityModel(
        nn.Sequential(first, nn.Identity() if additive else nn.ReLU()), Embedder(*parts), similarity
    )
    images = torch.rand(3, 2, 3, rows, cols, dtype=torch.float64) - (0.5 if additive else 0)  # pixels of both signs
    model = model.double().eval()
    pairs = PairBatch(("a", "b"), ("x", "y"), images[0], images[1])
    return model, encode_pairs(model, target or Similarity(), *images), pairs


def added(model, encoded):
    """What each pixel adds to an additive score."""
    activations = encoded.query.activations
    return torch.einsum("bkij,bk->bij", activations, encoded.terms[0].side.embeddings) / activations[0, 0].numel()


def summed(values, grid):
    """Sums over the patches of a grid, pixel by pixel."""
    rows, cols = values.shape[-2:]
    total = values.new_zeros(len(values), grid, grid)
    for i in range(rows):
        for j in range(cols):
            total[:, i * grid // rows, j * grid // cols] += values[:, i, j]
    return total
