"""Derivatives of the target at the activations, by one backward pass through the embedder."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.core.records import Encoded, PairBatch, Side
from sfam_bench.core.similarity import norm
from sfam_bench.core.targets import comparisons, score
from sfam_bench.core.types import Activations, Embeddings, Pooled, RawMaps, Weights
from sfam_bench.engine.modes import evaluating
from sfam_bench.models.similarity_model import SimilarityModel

CHUNK = 2**26  # bytes
NO_GRADIENT = (
    "no gradient flows back through the model: a layer is quantised or detaches its output; use a differentiable model "
    "in floating point, or methods that need forward passes alone (rise, relax, ablation_cam)"
)


@runtime_checkable
class Explainer(Protocol):
    """A method: an object that returns maps of the query."""

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        """Return the map of each query, (batch, grid rows, grid cols), signed, on any scale.

        Raises:
            UserError: if the method does not support the model or the target.
        """
        ...


@runtime_checkable
class Sampling(Explainer, Protocol):
    """An explainer that takes forward passes of changed queries."""

    def forwards(self, query: Side) -> int:
        """The number of passes for each map, used for planning; an upper bound."""
        ...


@contextmanager
def differentiating(model: SimilarityModel) -> Iterator[None]:
    """Enable gradients in any mode of the caller, with the model in eval mode."""
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
        yield


def derivative(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """d sum(function) / d at; the gradients of the weights do not change."""
    leaf = at.detach().clone().requires_grad_()
    (result,) = gradients(function(leaf).sum(), [leaf])
    return result


def gradients(total: Tensor, inputs: Sequence[Tensor], again: bool = False) -> tuple[Tensor, ...]:
    """d total / d inputs; `again` keeps the graph. Raises UserError where a layer blocks the gradient."""
    found: Sequence[Tensor | None] = (None,)
    if total.requires_grad:
        found = torch.autograd.grad(total, list(inputs), retain_graph=again, allow_unused=True)
    known = tuple(one for one in found if one is not None)
    if len(known) < len(inputs):
        raise UserError(NO_GRADIENT)
    return known


def target_gradient(model: SimilarityModel, encoded: Encoded) -> Activations:
    """Derivative of the target by the query's activations."""
    with differentiating(model):
        return derivative(
            lambda a: score(model.similarity, model.embedder(a), encoded.terms), encoded.query.activations
        )


def direction(model: SimilarityModel, encoded: Encoded) -> Embeddings:
    """The target's coefficients of the query's embedding: sum over references of slope * similarity.direction."""
    query = encoded.query.embeddings
    return sum(
        (
            slope * model.similarity.direction(query, reference.embeddings)
            for slope, reference in comparisons(model.similarity, query, encoded.terms)
        ),
        start=torch.zeros_like(query),
    )


def _linear_form(model: SimilarityModel, embeddings: Embeddings, towards: Embeddings) -> Tensor:
    """<towards, embedding> with the L2 norm of the embedding held constant."""
    form = (embeddings * towards.detach().clone()).sum(dim=1)  # a clone, since the caller may be in inference mode
    return form / norm(embeddings).detach()[:, 0] if model.embedder.normalise else form


def _form_gradient(model: SimilarityModel, side: Side, towards: Embeddings) -> Activations:
    """d<towards, e>/dA with norms held constant."""
    embedder = model.embedder
    with differentiating(model):
        return derivative(lambda a: _linear_form(model, embedder.project(embedder.pool(a)), towards), side.activations)


def contributions(model: SimilarityModel, side: Side, towards: Embeddings) -> Activations:
    """A * d<towards, e>/dA with norms constant: the share of each activation in the linear form.

    Sums to the form, minus the bias, for every pooling that is homogeneous of degree one and every affine head;
    for other heads and for tails it is the local linear part [derived].
    """
    return side.activations * _form_gradient(model, side, towards)


def channel_form(model: SimilarityModel, side: Side, towards: Embeddings) -> tuple[Weights, Pooled]:
    """The same linear form over the channels at the cut: coefficients w and pooled p, so that CIS_k = w_k p_k.

    Behind an early cut the pooled channels are those of a later layer; there w is the derivative by a uniform
    change of each channel and p its mean.
    """
    embedder, activations = model.embedder, side.activations
    if not embedder.pools_the_cut:
        return _form_gradient(model, side, towards).sum(dim=(2, 3)), activations.mean(dim=(2, 3))
    with differentiating(model):
        pooled = embedder.pool(activations.detach()).detach()
        return derivative(lambda p: _linear_form(model, embedder.project(p), towards), pooled), pooled


def channel_scores(
    model: SimilarityModel, encoded: Encoded, change: Callable[[Tensor, Tensor], Activations]
) -> Weights:
    """The target's score after a change of each channel of the query: `change(pair, channel)`, for vectors of both.

    One pass of the embedder for each channel and pair, for at most CHUNK bytes of activations at once.
    """
    activations = encoded.query.activations
    items = torch.arange(activations.shape[0] * activations.shape[1], device=activations.device)
    scores = []
    with torch.no_grad(), evaluating(model):
        for chunk in items.split(max(1, CHUNK // activations[0].nbytes)):
            pair, channel = chunk // activations.shape[1], chunk % activations.shape[1]
            scores.append(score(model.similarity, model.embedder(change(pair, channel)), encoded.terms, pair))
    return torch.cat(scores).view(activations.shape[:2])


def combine(weights: Weights, activations: Activations, relu: bool = False) -> RawMaps:
    """sum_k weights_k A_k, without its negative part if `relu`."""
    maps = torch.einsum("bk,bkij->bij", weights, activations)
    return maps.relu() if relu else maps
