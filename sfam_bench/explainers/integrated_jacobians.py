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
from sfam_bench.core.targets import comparisons
from sfam_bench.core.types import Embeddings, RawMaps, Scores
from sfam_bench.explainers.shared.forms import NO_GRADIENT, derivative, differentiating
from sfam_bench.explainers.shared.pixels import chunks
from sfam_bench.explainers.shared.points import PointPairs, only_reference
from sfam_bench.explainers.shared.products import before_l2, factor, product_shares
from sfam_bench.explainers.shared.quadrature import Quadrature, nodes
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class Path:
    """A function on the straight path from a reference input to an input."""

    function: Callable[[Tensor], Embeddings]
    start: Tensor
    change: Tensor
    at: Float[Tensor, " steps"]
    weights: Float[Tensor, " steps"]
    images: Tensor  # their size limits how many inputs are computed at once

    def push_forward(self) -> Embeddings:
        """The integrated Jacobian times the change: one Jacobian-vector product for each step."""
        total = self.ends()[0] * 0
        for pair, step in self._chunks():
            with torch.no_grad(), forward_ad.dual_level():
                output = self.function(forward_ad.make_dual(self._point(pair, step), self.change[pair]))
                tangent = forward_ad.unpack_dual(output).tangent
            if tangent is None:
                raise UserError(NO_GRADIENT)
            total.index_add_(0, pair, tangent * self.weights[step][:, None])
        return total

    def pull_back(self, towards: Embeddings) -> Tensor:
        """The change times the transposed integrated Jacobian of `towards`: one backward pass for each step."""
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

    The map sums over the reference's positions, so that J_b (b - r) takes one Jacobian-vector product for each step,
    and the map one vector-Jacobian product of the query for each step: without the matrix over pairs of positions and
    without a loop over embedding dimensions. It explains the product of the embeddings with their lengths held
    constant, as in the authors' code: cosine, dot, and the 2 <e, e'> of the negative squared Euclidean distance.

    space: whether a and b are the activations at the cut or the images.
    steps: Jacobians for each image.
    baseline: the image without content whose activations or pixels are r; null takes r = 0, which at the cut may belong
        to no image.
    quadrature: where on the path the Jacobians are computed; "right" is the authors'.
    """

    card: ClassVar[Card] = Card(
        needs_images=True,
        identities=(
            "at the cut from zero on the un-normalised dot product under GAP and a bias-free linear head it is the "
            "similarity decomposition, and point to point Zhu's product over N squared",
            "the map sums to f(a).f(b) - f(a).f(r) - f(r).f(b) + f(r).f(r) over the lengths, up to the quadrature",
            "from black images behind a bias-free network of rectifiers it is integrated gradients on the dot product",
        ),
        degenerate=("what the reference input shares with either image is not in the map: see `split`",),
    )

    space: Literal["cut", "image"] = "cut"
    steps: Count = 10
    baseline: BaselineName | None = None
    quadrature: Quadrature = "right"

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        return self.split(model, encoded)[0]

    def point_pairs(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> PointPairs:
        """The joint contribution of each pair of positions; for small grids, so not of pixels."""
        if self.space == "image":
            raise UserError("integrated_jacobians has too many pairs of pixels: use space=cut")
        return point_to_point(self, model, encoded.query, only_reference(encoded))

    def split(self, model: SimilarityModel, encoded: Encoded) -> tuple[RawMaps, Float[Tensor, "batch 4"], Scores]:
        """Maps; f(a).f(b), f(a).f(r), f(r).f(b), f(r).f(r); and the sums of the maps minus their balance."""
        with differentiating(model), sdpa_kernel(SDPBackend.MATH):  # fused attention has no Jacobian-vector product
            path = self.path(model, encoded.query)
            f_a, f_ra = path.ends()
            towards, terms = torch.zeros_like(f_a), f_a.new_zeros(len(f_a), 4)
            for slope, reference in comparisons(model.similarity, encoded.query.embeddings, encoded.terms):
                blend = reference.images_for("IntegratedJacobians")
                other, pairs = self.path(model, blend.side), blend.pairs
                ends = [end[blend.rows] for end in other.ends()]
                times = factor(model, f_a[pairs], ends[0])
                shares = product_shares(model, blend, reference.embeddings)
                forward = times * other.push_forward()[blend.rows]
                products = [(left[pairs] * right).sum(dim=1) for left in (f_a, f_ra) for right in ends]
                towards = towards + slope * blend.add(forward, shares, len(f_a))
                terms = terms + slope * blend.add(times * torch.stack(products, dim=1), shares, len(f_a))
            maps = path.pull_back(towards).sum(dim=1)
        balance = terms[:, 0] - terms[:, 1] - terms[:, 2] + terms[:, 3]
        return maps, terms, maps.sum(dim=(1, 2)) - balance

    def path(self, model: SimilarityModel, side: Side) -> Path:
        """The path from the reference input to one image of each pair."""
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
    """The joint contribution of each position of the query and each of the reference; for small grids.

    One vector-Jacobian product for each step, image and embedding dimension; its sum over the reference is the map.
    """
    with differentiating(model), sdpa_kernel(SDPBackend.MATH):
        paths = [method.path(model, side) for side in (query, reference)]
        f_a, f_b = (path.ends()[0] for path in paths)
        total = f_a.new_zeros(())
        for towards in torch.eye(f_a.shape[1]).to(f_a):
            a, b = (path.pull_back(towards.expand_as(f_a)).sum(dim=1) for path in paths)
            total = total + torch.einsum("bij,bxy->bijxy", a, b)
        return total * factor(model, f_a, f_b)[:, :, None, None, None]
