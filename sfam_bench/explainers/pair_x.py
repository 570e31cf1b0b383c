"""PAIR-X: mutual nearest neighbours of both feature maps, ranked by relevance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count, Positive
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.similarity import unit
from sfam_bench.core.targets import score, swap_sides
from sfam_bench.core.types import Activations, Embeddings, Image, RawMaps
from sfam_bench.explainers.shared.forms import derivative, differentiating
from sfam_bench.explainers.shared.pixels import chunks
from sfam_bench.explainers.shared.points import PointPairs, only_reference
from sfam_bench.explainers.shared.products import before_l2
from sfam_bench.explainers.shared.relevance import Rules, relevance
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class Matches:
    """The matched positions of one pair in descending order of relevance, as numbers of cells in raster order."""

    query: Int[Tensor, " matches"]
    reference: Int[Tensor, " matches"]
    relevance: Float[Tensor, " matches"]


@dataclass(frozen=True)
class PairX(Checked):
    """sum_m r_m P_m / sum P_m, m = (i, j) mutual nearest positions, r = R_i R'_j; Shrack et al., arXiv 2503.22881.

    R_i is the magnitude of the relevance at position i of the cut. It is propagated from the embedding before L2, where
    it starts as the gradient of the score, as in the authors' code. P_m is the magnitude of the relevance of pixels; it
    is propagated from position i of the cut, where it starts as the activations. The authors draw each of the best
    matches of a pair in its own colour. The single map here is derived: the relevance r_m of each match is distributed
    over its pixels, and the matches are summed.

    space: "image" propagates the best matches to pixels; "cut" puts the r_m of all matches at their positions i.
    matches: number of matches that are propagated, each with a forward and a backward pass.
    epsilon: added to the denominators of the relevance rules (z+ in convolutions, epsilon in linear layers).
    """

    card: ClassVar[Card] = Card(
        one_image=True,
        signed=False,
        margin=False,
        identities=(
            "at the cut, the map of an image with itself is its relevance squared, where no other position is equal",
            "the map at the cut sums to the relevance of all matches",
        ),
        degenerate=(
            "on a coarse grid most positions match the same place or background, whatever the model compares",
            "the gradient of a cosine changes sign from dimension to dimension, and its magnitude hides this",
        ),
    )

    space: Literal["image", "cut"] = "image"
    matches: Count = 10
    epsilon: Positive = 1e-6

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        found = self.find_matches(model, encoded)
        if self.space == "cut":
            return self._at_cut(encoded.query.activations, found)
        images = encoded.query.images
        return torch.stack([self._at_pixels(model, image, one) for image, one in zip(images, found, strict=True)])

    def point_pairs(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> PointPairs:
        """The relevance of each match, 0 for other pairs of positions."""
        grids = [side.activations.shape[-2:] for side in (encoded.query, only_reference(encoded))]
        cells = [grid.numel() for grid in grids]
        found = encoded.query.activations.new_zeros(len(encoded.query.activations), *cells)
        for values, one in zip(found, self.find_matches(model, encoded), strict=True):
            values[one.query, one.reference] = one.relevance
        return found.view(-1, *grids[0], *grids[1])

    def find_matches(self, model: SimilarityModel, encoded: Encoded) -> list[Matches]:
        """All matches of each pair."""
        only_reference(encoded)
        sides = encoded, swap_sides(encoded)
        relevances = [self.position_relevance(model, one) for one in sides]
        positions = [one.query.activations.flatten(2).mT for one in sides]
        return [match(*pair) for pair in zip(*positions, *relevances, strict=True)]

    def position_relevance(self, model: SimilarityModel, encoded: Encoded) -> Float[Tensor, "batch positions"]:
        """The magnitude of the relevance of each position of the query at the cut."""
        terms = encoded.terms

        def target(embeddings: Embeddings) -> Tensor:
            return score(model.similarity, unit(embeddings) if model.embedder.normalise else embeddings, terms)

        def start(embeddings: Embeddings) -> Embeddings:
            gradient = derivative(target, embeddings)
            return gradient / torch.where(embeddings == 0, 1, embeddings)

        with differentiating(model):
            activations = encoded.query.activations.clone()
            found = relevance(self._rules, lambda a: before_l2(model, a), activations, start)
        return found.sum(dim=1).abs().flatten(1)

    @property
    def _rules(self) -> Rules:
        return Rules("epsilon_plus", epsilon=self.epsilon)

    def _at_cut(self, activations: Activations, found: list[Matches]) -> RawMaps:
        maps = torch.zeros_like(activations[:, 0])
        for cells, one in zip(maps.flatten(1), found, strict=True):
            cells[one.query] = one.relevance
        return maps

    def _at_pixels(self, model: SimilarityModel, image: Image, found: Matches) -> Float[Tensor, "rows cols"]:
        """The relevance of the best matches, distributed over the pixels of one image."""
        places, strengths = found.query[: self.matches], found.relevance[: self.matches]
        total = torch.zeros_like(image[0])
        for some in chunks(len(places), image[None]):
            parts = self.pixel_relevance(model, image, places[some])
            total += (strengths[some, None, None] * parts).sum(dim=0)
        return total

    def pixel_relevance(
        self, model: SimilarityModel, image: Image, places: Int[Tensor, " some"]
    ) -> Float[Tensor, "some rows cols"]:
        """The share of each pixel in the relevance of some positions, by magnitude."""
        images = image.expand(len(places), *image.shape).contiguous()

        def start(at: Tensor) -> Callable[[Activations], Activations]:
            def one_position(activations: Activations) -> Activations:
                cells = torch.arange(activations[0, 0].numel(), device=at.device)
                return (
                    (cells == at[:, None])
                    .to(activations)
                    .view(len(at), 1, *activations.shape[-2:])
                    .expand_as(activations)
                )

            return one_position

        with differentiating(model):
            found = relevance(self._rules, model.run_trunk, images, start(places), "layer")
        sizes = found.sum(dim=1).abs()
        return sizes / sizes.sum(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(sizes.dtype).tiny)


def match(
    points: Float[Tensor, "positions channels"],
    others: Float[Tensor, "other_positions channels"],
    relevances: Float[Tensor, " positions"],
    other_relevances: Float[Tensor, " other_positions"],
) -> Matches:
    """The mutual nearest neighbours of two sets of positions, by the Euclidean distance of their activations."""
    distances = torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")
    nearest, back = distances.argmin(dim=1), distances.argmin(dim=0)
    mine = (back[nearest] == torch.arange(len(points), device=points.device)).nonzero()[:, 0]
    theirs = nearest[mine]
    strengths = relevances[mine] * other_relevances[theirs]
    order = strengths.argsort(descending=True, stable=True)
    return Matches(mine[order], theirs[order], strengths[order])
