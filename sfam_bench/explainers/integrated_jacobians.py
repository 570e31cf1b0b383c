"""Integrated Jacobians of a Siamese encoder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from sfam_bench.core.baselines import BASELINES, BaselineName
from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count
from sfam_bench.core.records import Encoded, PairBatch, Side
from sfam_bench.core.types import Embeddings, RawMaps, Scores
from sfam_bench.explainers.shared.forms import NO_GRADIENT, derivative, differentiating
from sfam_bench.explainers.shared.pixels import chunks
from sfam_bench.explainers.shared.products import before_l2, factor
from sfam_bench.explainers.shared.quadrature import Quadrature, nodes
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class Path:
    """A function along the straight way from a reference input to an input."""

    function: Callable[[Tensor], Embeddings]
    start: Tensor
    change: Tensor
    at: Float[Tensor, " steps"]
    weights: Float[Tensor, " steps"]
    images: Tensor  # whose size says how many inputs fit at once

    def pushed(self) -> Embeddings:
        """The integrated Jacobian times the change: one Jacobian-vector product a step."""
        total = self.ends()[0] * 0
        for pair, step in self._chunks():
            with torch.no_grad(), forward_ad.dual_level():
                output = self.function(forward_ad.make_dual(self._point(pair, step), self.change[pair]))
                tangent = forward_ad.unpack_dual(output).tangent
            if tangent is None:
                raise UserError(NO_GRADIENT)
            total.index_add_(0, pair, tangent * self.weights[step][:, None])
        return total

    def pulled(self, towards: Embeddings) -> Tensor:
        """The change times the transposed integrated Jacobian of `towards`: one vector-Jacobian product a step."""
        total = torch.zeros_like(self.change)
        for pair, step in self._chunks():
            part = derivative(lambda x, pair=pair: self.function(x) * towards[pair], self._point(pair, step))  # type: ignore[misc]
            total.index_add_(0, pair, part * self.weights[step][:, None, None, None])
        return self.change * total

    def ends(self) -> tuple[Embeddings, Embeddings]:
        """The function of the input and of the reference input."""
        with torch.no_grad():
            return self.function(self.start + self.change), self.function(self.start)

    def _chunks(self) -> list[tuple[Tensor, Tensor]]:
        steps = len(self.at)
        return [(chunk // steps, chunk % steps) for chunk in chunks(len(self.start) * steps, self.images)]

    def _point(self, pair: Tensor, step: Tensor) -> Tensor:
        return self.start[pair] + self.at[step][:, None, None, None] * self.change[pair]


@dataclass(frozen=True)
class IntegratedJacobians(Checked):
    """sum_c (a - r)_c [J_a^T J_b (b - r)]_c, J integrated from r; Moeller, Nikolaev, Pado, EMNLP 2023, eq. 5 and 6.

    The map sums over the partner's positions, so J_b (b - r) is one Jacobian-vector product a step, and the whole one
    vector-Jacobian product a step of the query: neither the matrix over pairs of positions nor a loop over embedding
    dimensions is ever made. What is explained is the product of the embeddings, their lengths held constant as in the
    authors' code: cosine, dot, and the 2 <e, e'> of the negative squared Euclidean distance.

    space: what a and b are, the activations at the cut or the images.
    steps: Jacobians an image.
    baseline: the image without content whose activations, or pixels, are r; null takes zero itself, which at the cut no
        image need have.
    quadrature: where on the path the Jacobians are taken; "right" is the authors'.
    """

    card: ClassVar[Card] = Card(
        identities=(
            "at the cut from zero on the un-normalised dot product under GAP and a bias-free linear head it is the "
            "similarity decomposition, and point to point Zhu's product over N squared",
            "the map sums to f(a).f(b) - f(a).f(r) - f(r).f(b) + f(r).f(r) over the lengths, up to the quadrature",
            "from black images behind a bias-free network of rectifiers it is integrated gradients on the dot product",
        ),
        degenerate=("what the reference input shares with either image is in no map: see the terms of `split`",),
    )

    space: Literal["cut", "image"] = "cut"
    steps: Count = 10
    baseline: BaselineName | None = None
    quadrature: Quadrature = "right"

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        return self.split(model, encoded)[0]

    def split(self, model: SimilarityModel, encoded: Encoded) -> tuple[RawMaps, Float[Tensor, "batch 4"], Scores]:
        """The maps; the target's f(a).f(b), f(a).f(r), f(r).f(b), f(r).f(r); what the maps lack of their balance."""
        with differentiating(model), sdpa_kernel(SDPBackend.MATH):  # fused attention has no Jacobian-vector product
            path = self.path(model, encoded.query)
            f_a, f_ra = path.ends()
            towards, terms = torch.zeros_like(f_a), f_a.new_zeros(len(f_a), 4)
            for term in encoded.terms:
                other = self.path(model, term.side)
                f_b, f_rb = other.ends()
                times = term.sign * factor(model, f_a, f_b)
                towards = towards + times * other.pushed()
                products = [(left * right).sum(dim=1) for left in (f_a, f_ra) for right in (f_b, f_rb)]
                terms = terms + times * torch.stack(products, dim=1)
            maps = path.pulled(towards).sum(dim=1)
        balance = terms[:, 0] - terms[:, 1] - terms[:, 2] + terms[:, 3]
        return maps, terms, maps.sum(dim=(1, 2)) - balance

    def path(self, model: SimilarityModel, side: Side) -> Path:
        """From the reference input to one image of each pair."""
        images = side.images
        if self.space == "image":
            inputs = images
            start = torch.zeros_like(images) if self.baseline is None else BASELINES[self.baseline](images)
        else:
            inputs = side.activations
            start = torch.zeros_like(inputs)
            if self.baseline is not None:
                with torch.no_grad():
                    start = model.run_trunk(BASELINES[self.baseline](images)).detach()
        trunk = model.run_trunk if self.space == "image" else torch.nn.Identity()
        at, weights = nodes(self.quadrature, self.steps, inputs)
        return Path(lambda x: before_l2(model, trunk(x)), start, inputs - start, at, weights, images)


def point_to_point(
    method: IntegratedJacobians, model: SimilarityModel, query: Side, reference: Side
) -> Float[Tensor, "batch rows cols ref_rows ref_cols"]:
    """How much each position of the query and each of the reference add together: for small grids.

    One vector-Jacobian product a step, image and embedding dimension; summed over the reference's positions, the map.
    """
    with differentiating(model), sdpa_kernel(SDPBackend.MATH):
        paths = [method.path(model, side) for side in (query, reference)]
        f_a, f_b = (path.ends()[0] for path in paths)
        total = f_a.new_zeros(())
        for towards in torch.eye(f_a.shape[1]).to(f_a):
            a, b = (path.pulled(towards.expand_as(f_a)).sum(dim=1) for path in paths)
            total = total + torch.einsum("bij,bxy->bijxy", a, b)
        return total * factor(model, f_a, f_b)[:, :, None, None, None]
