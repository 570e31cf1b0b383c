"""Similar Feature Activation Map."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import NotNegative, Positive
from sfam_bench.core.records import Encoded, PairBatch, Side
from sfam_bench.core.similarity import ProductForm
from sfam_bench.core.types import Activations, RawMaps, Weights
from sfam_bench.explainers.shared.forms import channel_form, combine, derivative, differentiating
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import SimilarityModel

EuclideanCIS = Literal["negative", "complement", "reciprocal", "exponential", "dissimilarity"]
Normalisation = Literal["none", "l1", "minmax", "softmax"]


@dataclass(frozen=True)
class SFAM(Checked):
    """sum_k CIS_k A_k, CIS_k the share of channel k in the similarity; Liao et al., arXiv 2506.01636, reconstructed.

    The paper's equations were not available: this follows its abstract, and each choice that the abstract leaves open
    is a setting.

    gamma: the weight of channel k is w_k p_k^gamma for cosine and dot product; 1 is SFAM, 0 the exact decomposition
        over positions (under GAP).
    head: "pull_back" maps the reference's embedding back through neck and head, so that the w_k p_k sum to the score
        minus the bias term (for an MLP head this uses its derivative at the query, and the sum is not exact); "ignore"
        compares the pooled features, and so explains another similarity.
    euclidean_cis: how delta_k, the share of channel k in the squared distance, becomes a weight that is high for
        similar channels: "negative" -delta, "complement" max delta - delta, "reciprocal" 1 / (delta + epsilon),
        "exponential" exp(-delta / tau). "dissimilarity", delta, explains the distance instead. The default is bounded
        and has no pole; on the planted set it separated shared from unshared parts best.
    epsilon, tau: null takes the median of the positive deltas of the pair.
    weight_normalisation: none, l1, minmax or softmax over the channels; minmax and softmax move the map towards the
        mean of the channels, which ignores the reference.
    per_position: what is weighted: "activation" takes the feature map, "pooling" the contribution of each position to
        the pooled value (under GMP only the maximum counts).
    relu: drop the negative part of the map; it has none for cosine on rectified features without a head.
    """

    card: ClassVar[Card] = Card(
        identities=(
            "with gamma 0 under GAP it is N times similarity_decomposition, the exact decomposition",
            "with an affine head and head=pull_back the CIS sum to the cosine minus the bias term",
            "without a head it is N times Relevance-CAM",
            "the margin map is the positive's map minus the negative's",
        ),
        degenerate=(
            "it does not sum to the similarity: each weight has one factor p_k more than in the exact decomposition",
            "Euclidean reciprocal: a few dead channels, where delta is near zero, can have nearly all of the weight",
        ),
    )

    gamma: NotNegative = 1.0
    head: Literal["pull_back", "ignore"] = "pull_back"
    euclidean_cis: EuclideanCIS = "exponential"
    epsilon: Positive | None = None
    tau: Positive | None = None
    weight_normalisation: Normalisation = "none"
    per_position: Literal["activation", "pooling"] = "activation"
    relu: bool = False

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        query = encoded.query
        weights = torch.zeros_like(query.activations[:, :, 0, 0])
        for term in encoded.terms:
            cis = self.weights(model, query, term.side)
            weights = weights + term.sign * normalise_weights(cis, self.weight_normalisation)
        positions = query.activations if self.per_position == "activation" else pass_through(model, query)
        return combine(weights, positions, self.relu)

    def weights(self, model: SimilarityModel, query: Side, reference: Side) -> Weights:
        """The channel weights (CIS) of one comparison, before normalisation."""
        w, p = self._form(model, query, reference)
        if not (isinstance(model.similarity, ProductForm) and model.similarity.is_distance):
            return w * power(p, self.gamma)
        w_reference, p_reference = self._form(model, reference, query)
        return euclidean_weights(-(w * p + w_reference * p_reference), self.euclidean_cis, self.epsilon, self.tau)

    def _form(self, model: SimilarityModel, query: Side, reference: Side) -> tuple[Weights, Weights]:
        if self.head == "pull_back":
            return channel_form(model, query, model.similarity.direction(query.embeddings, reference.embeddings))
        with torch.no_grad():
            features = model.embedder.features if model.embedder.pools_the_cut else GAP()
            p, q = features(query.activations), features(reference.activations)
        return model.similarity.direction(p, q), p


def pass_through(model: SimilarityModel, query: Side) -> Activations:
    """N A_k dp_k/dA_k: what pooling passes on of each activation, scaled so that under GAP it is A_k."""
    if not model.embedder.pools_the_cut:
        raise UserError("SFAM's per_position=pooling needs the cut right before pooling: set model.trunk.layer to null")
    with differentiating(model):
        passed = derivative(lambda a: model.embedder.pool(a).sum(), query.activations)
    return query.activations * passed * passed[0, 0].numel()


def power(pooled: Weights, gamma: float) -> Weights:
    """sign(p) |p|^gamma, and one at gamma 0, so that the family includes the exact decomposition and SFAM."""
    return torch.ones_like(pooled) if gamma == 0 else pooled.sign() * pooled.abs().pow(gamma)


def euclidean_weights(delta: Weights, form: EuclideanCIS, epsilon: float | None, tau: float | None) -> Weights:
    """Turn each channel's share of the squared distance into a weight; see SFAM.euclidean_cis."""
    # behind a head a share can be negative, where 1/delta has a pole; dead channels (zero) are left out of the median
    positive = delta.clamp_min(0)
    median = torch.where(delta > 0, delta, torch.nan).nanmedian(dim=1, keepdim=True).values.nan_to_num(nan=1.0)
    match form:
        case "negative":
            return -delta
        case "complement":
            return delta.amax(dim=1, keepdim=True) - delta
        case "reciprocal":
            return 1 / (positive + (median if epsilon is None else epsilon))
        case "exponential":
            return torch.exp(-positive / (median if tau is None else tau))
        case "dissimilarity":
            return delta


def normalise_weights(weights: Weights, how: Normalisation) -> Weights:
    """Scale the weights of each pair; only none and l1 keep the ranking of positions."""
    match how:
        case "none":
            return weights
        case "l1":
            return weights / weights.abs().sum(dim=1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
        case "minmax":
            low, high = weights.amin(dim=1, keepdim=True), weights.amax(dim=1, keepdim=True)
            return (weights - low) / (high - low).clamp_min(torch.finfo(weights.dtype).tiny)
        case "softmax":
            return weights.softmax(dim=1)
