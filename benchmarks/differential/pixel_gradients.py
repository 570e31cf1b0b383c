"""Gradients at the pixels beside captum, and integrated Jacobians beside Jacobians that are written out."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.differential.comparison import Comparison, Sides
from benchmarks.differential.settings import ScoreOf, Setting
from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean
from sfam_bench.core.targets import Similarity
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.input_x_gradient import InputXGradient
from sfam_bench.explainers.integrated_gradients import IntegratedGradients
from sfam_bench.explainers.integrated_jacobians import IntegratedJacobians
from sfam_bench.explainers.smooth_grad import SmoothGrad
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs

SIMILARITIES = (Cosine(), Dot(), NegativeEuclidean())
QUADRATURES = {"right": "riemann_right", "midpoint": "riemann_middle", "gauss_legendre": "gausslegendre"}


@cache
def small(similarity: Any) -> Setting:
    """Two pairs of noise before three convolutions with batch norms, in float64."""
    torch.manual_seed(0)
    trunk = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
    )
    for layer in trunk:
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.running_mean, layer.running_var, layer.weight, layer.bias):
                nn.init.uniform_(values, 0.2, 1.5)  # type: ignore[arg-type]
            layer.eps = 0.0  # see relevance.CAUSE
    tail = nn.Sequential(nn.Conv2d(6, 7, 3, padding=1), nn.ReLU())
    model = SimilarityModel(trunk, Embedder(GAP(), nn.Linear(7, 5), tail, False), similarity).double().eval()
    query, reference = torch.rand(2, 2, 3, 10, 8, dtype=torch.float64)
    pairs = PairBatch(("a", "b"), ("c", "d"), query, reference)
    return Setting(similarity.name, model, pairs, encode_pairs(model, Similarity(), query, reference))


def smalls() -> Iterator[Setting]:
    """Each similarity."""
    return (small(similarity) for similarity in SIMILARITIES)


def raw(model: SimilarityModel, activations: Tensor) -> Tensor:
    """Embeddings before L2."""
    return model.embedder.project(model.embedder.pool(activations))


# captum


def captum_maps(name: str, setting: Setting, **options: Any) -> RawMaps:
    """A pixel attribution of captum, summed over colours."""
    import captum.attr

    wrapped = ScoreOf(setting.model, setting.model.similarity, setting.references)
    found: Tensor = getattr(captum.attr, name)(wrapped).attribute(setting.pairs.query, target=0, **options)
    return found.sum(dim=1).detach()


def input_x_gradient() -> Iterator[Sides]:
    """Each similarity."""
    for setting in smalls():
        yield setting.name, setting.ours(InputXGradient()), captum_maps("InputXGradient", setting)


def integrated_gradients() -> Iterator[Sides]:
    """Each quadrature, from black."""
    for rule, theirs in QUADRATURES.items():
        for setting in smalls():
            ours = setting.ours(IntegratedGradients(7, quadrature=rule))  # type: ignore[arg-type]
            # captum takes one reference embedding a pair, and repeats images, not references, over steps
            single = [
                captum_maps("IntegratedGradients", one, n_steps=7, method=theirs, baselines=0.0)
                for one in (only(setting, row) for row in range(2))
            ]
            yield f"{rule}, {setting.name}", ours, torch.cat(single)


def only(setting: Setting, row: int) -> Setting:
    """One pair of a setting."""
    some = slice(row, row + 1)
    images = setting.pairs.query[some], setting.pairs.reference_images[some]
    pairs = PairBatch(setting.pairs.query_ids[some], setting.pairs.reference_ids[some], *images)
    return Setting(setting.name, setting.model, pairs, encode_pairs(setting.model, Similarity(), *images))


def smooth_grad() -> Iterator[Sides]:
    """The loop of the paper over our noise."""
    for setting in smalls():
        method, query = SmoothGrad(samples=4), setting.pairs.query
        mean = torch.zeros_like(query)
        for sample in range(4):
            for row in range(2):
                noisy = method.noisy_images(
                    query, setting.pairs, torch.tensor([row]), torch.tensor([sample])
                ).requires_grad_()
                score = setting.model.similarity(setting.model(noisy), setting.references[row : row + 1])
                mean[row] += torch.autograd.grad(score.sum(), noisy)[0][0] / 4
        yield setting.name, setting.ours(method), mean.abs().sum(dim=1)


# by definition


def integrated_jacobians() -> Iterator[Sides]:
    """A Jacobian a step, image and dimension, whole, and their product."""
    for setting in smalls():
        for space in ("cut", "image"):
            method = IntegratedJacobians(space, steps=3, baseline="mean_colour")
            found = [jacobian_map(setting, space, row) for row in range(2)]
            yield f"{space}, {setting.name}", setting.ours(method), torch.stack(found)


def jacobian_map(setting: Setting, space: str, row: int) -> Tensor:
    """(a - r) [J_a^T J_b] (b - r), summed over channels and over all of b."""
    model, sides = setting.model, []
    for images in (setting.pairs.query[row], setting.pairs.reference_images[row]):
        blank = images.mean(dim=(1, 2), keepdim=True).expand_as(images)
        pair = torch.stack([images, blank])
        ends = model.trunk(pair).detach() if space == "cut" else pair

        def embed(x: Tensor) -> Tensor:
            return raw(model, x if space == "cut" else model.trunk(x))[0]

        whole = torch.zeros(5, *ends[0].shape, dtype=torch.float64)
        for n in (1, 2, 3):
            point = (ends[1:] + n / 3 * (ends[:1] - ends[1:])).requires_grad_()
            for d in range(5):
                whole[d] += torch.autograd.grad(embed(point)[d], point)[0][0] / 3
        sides.append(((ends[0] - ends[1]) * whole, raw(model, model.trunk(pair[:1]))[0].detach()))
    (a, e), (b, f) = sides
    share = torch.einsum("dcij,dkxy->ij", a, b)
    return share * scale(setting, e, f)


def scale(setting: Setting, e: Tensor, f: Tensor) -> float:
    """What the inner product of raw embeddings is multiplied by in the score."""
    return {"cosine": 1 / float(e.norm() * f.norm()), "dot": 1.0, "negative_euclidean": 2.0}[setting.name]


COMPARISONS = (
    Comparison("input_x_gradient", "captum InputXGradient", input_x_gradient, package="captum"),
    Comparison("integrated_gradients", "captum IntegratedGradients", integrated_gradients, package="captum"),
    Comparison("smooth_grad", "by definition", smooth_grad),
    Comparison("integrated_jacobians", "by definition", integrated_jacobians),
)
