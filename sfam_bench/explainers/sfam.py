"""Similar Feature Activation Map."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import NotNegative, Positive
from sfam_bench.core.records import Encoded, PairBatch, Reference, Side
from sfam_bench.core.similarity import ProductForm
from sfam_bench.core.targets import comparisons
from sfam_bench.core.types import Activations, Pooled, RawMaps, Weights
from sfam_bench.explainers.shared.forms import channel_form, combine, derivative, differentiating
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import SimilarityModel

EuclideanCIS = Literal["negative", "complement", "reciprocal", "exponential", "dissimilarity"]
Normalisation = Literal["none", "l1", "minmax", "softmax"]
Head = Literal["pull_back", "ignore", "jacobian_of_shares"]
Order = Literal["pull_back_first", "normalise_first"]


@dataclass(frozen=True)
class SFAM(Checked):
    """sum_k CIS_k A_k, CIS_k the share of channel k in the similarity; Liao et al., arXiv 2506.01636, reconstructed.

    The paper's equations were not available: this follows its abstract, and each choice that the abstract leaves open
    is a setting.

    gamma: the weight of channel k is w_k p_k^gamma for cosine and dot product; 1 is SFAM, 0 the exact decomposition
        over positions (under GAP).
    head: "pull_back" maps the reference's embedding back through neck and head, so that the w_k p_k sum to the score
        minus the bias term (for an MLP head this uses its derivative at the query, and the sum is not exact); "ignore"
        compares the pooled features, and so explains another similarity; "jacobian_of_shares" maps each dimension's
        share of the score, instead of the reference's embedding, back through the Jacobian of the embedding before L2,
        and ignores gamma and euclidean_cis.
    order: whether weights are normalised over channels after they are mapped back, or shares over dimensions before
        (only with jacobian_of_shares). normalise_first with minmax is the convention of the authors' released FAM/DAAM
        code (Liao et al., arXiv 2503.14640); for SFAM itself it is an inference.
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
            "without a head jacobian_of_shares with normalise_first and minmax is FAM",
        ),
        degenerate=(
            "it does not sum to the similarity: each weight has one factor p_k more than in the exact decomposition",
            "with a head, head=ignore and distances need the images of the reference, and refuse a bare vector",
            "Euclidean reciprocal: a few dead channels, where delta is near zero, can have nearly all of the weight",
        ),
    )

    gamma: NotNegative = 1.0
    head: Head = "pull_back"
    order: Order = "pull_back_first"
    euclidean_cis: EuclideanCIS = "exponential"
    epsilon: Positive | None = None
    tau: Positive | None = None
    weight_normalisation: Normalisation = "none"
    per_position: Literal["activation", "pooling"] = "activation"
    relu: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order == "normalise_first" and self.head != "jacobian_of_shares":
            raise UserError("SFAM.order=normalise_first needs head=jacobian_of_shares: other heads have no shares")

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        query = encoded.query
        weights = torch.zeros_like(query.activations[:, :, 0, 0])
        for slope, reference in comparisons(model.similarity, query.embeddings, encoded.terms):
            weights = weights + slope * self._normalised(model, query, reference)
        positions = query.activations if self.per_position == "activation" else pass_through(model, query)
        return combine(weights, positions, self.relu)

    def weights(self, model: SimilarityModel, query: Side, reference: Reference) -> Weights:
        """The channel weights (CIS) of one comparison, before normalisation."""
        if self.head == "jacobian_of_shares":
            return channel_form(model, query, model.similarity.split(query.embeddings, reference.embeddings))[0]
        w, p = self._form(model, query, reference)
        if not (isinstance(model.similarity, ProductForm) and model.similarity.is_distance):
            return w * power(p, self.gamma)
        delta = -(w * p + self._share_of_reference(model, query, reference))
        return euclidean_weights(delta, self.euclidean_cis, self.epsilon, self.tau)

    def _normalised(self, model: SimilarityModel, query: Side, reference: Reference) -> Weights:
        if self.order == "pull_back_first":
            return normalise_weights(self.weights(model, query, reference), self.weight_normalisation)
        shares = model.similarity.split(query.embeddings, reference.embeddings)
        return channel_form(model, query, normalise_weights(shares, self.weight_normalisation))[0]

    def _form(self, model: SimilarityModel, query: Side, reference: Reference) -> tuple[Weights, Weights]:
        if self.head == "pull_back":
            return channel_form(model, query, model.similarity.direction(query.embeddings, reference.embeddings))
        p, q = self._features(model, query, reference)
        return model.similarity.direction(p, q), p

    def _share_of_reference(self, model: SimilarityModel, query: Side, reference: Reference) -> Weights:
        """The reference's side of a distance, (batch, channels); that of a prototype is the sum over its images."""
        if self.head == "ignore" or has_no_head(model):
            p, q = self._features(model, query, reference)
            return model.similarity.direction(q, p) * q
        blend = reference.images_for("SFAM under a distance behind a head")
        towards = model.similarity.direction(reference.embeddings, query.embeddings)
        w, p = channel_form(model, blend.side.take(blend.rows), towards[blend.pairs])
        return blend.add(w * p, blend.shares, len(towards))

    def _features(self, model: SimilarityModel, query: Side, reference: Reference) -> tuple[Pooled, Pooled]:
        """The pooled features of both sides, on the scale of the embeddings."""
        features = model.embedder.features if model.embedder.pools_the_cut else GAP()
        if has_no_head(model):
            return query.embeddings, reference.embeddings
        blend = reference.images_for("SFAM with head=ignore")
        with torch.no_grad():
            others = blend.add(features(blend.side.activations)[blend.rows], blend.shares, len(query.embeddings))
            return features(query.activations), others


def has_no_head(model: SimilarityModel) -> bool:
    """Whether embeddings are the pooled features, so that a vector has one value for each channel."""
    return model.embedder.pools_the_cut and isinstance(model.embedder.projection, nn.Identity)


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
            scaled = (weights - low) / (high - low).clamp_min(torch.finfo(weights.dtype).tiny)
            return torch.where(high > low, scaled, 1)  # equal weights, as in the authors' released code
        case "softmax":
            return weights.softmax(dim=1)
