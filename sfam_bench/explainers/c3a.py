"""Contrastive cross-class attribution: occlusion, measured by nearest local descriptors."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.baselines import BASELINES, BaselineName
from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count, Share
from sfam_bench.core.records import Encoded, PairBatch, Reference, Side
from sfam_bench.core.similarity import unit
from sfam_bench.core.types import Activations, RawMaps
from sfam_bench.engine.modes import evaluating
from sfam_bench.explainers.shared.pixels import chunks
from sfam_bench.explainers.shared.windows import centred_windows
from sfam_bench.models.similarity_model import SimilarityModel

Descriptors: TypeAlias = Float[Tensor, "positions channels"]  # of length one


@dataclass(frozen=True)
class C3A(Checked):
    """s - s_i, s = (1 - a) L(S) - a L(S'), a square around position i hidden; Chen et al., 2026, from their code.

    L(S) is the score of DN4 (Li et al., CVPR 2019): for each position of the query at the cut, the sum of its greatest
    cosines with the positions of all images of S. S are the supports of the reference; S' are the images of the
    negative or of the rivals, so the contrast needs a target that has them (margin, best_rival, class_score). With a
    single reference the map is (1 - a) times the one of the authors' code without contrast. The embedder and the
    target's score are not used. The paper itself could not be read. C3A-E, a map of each support for the query, is the
    map of the swapped pair, which has no contrast here.

    alpha: a, the weight of the contrast.
    nearest: cosines that are summed for each position, at most as many as there are.
    window: side of the square as a share of the image's shorter side; the authors' is 12 pixels at 84.
    grid: positions along each side; the authors have one for each pixel.
    baseline: replaces hidden pixels; the authors fill the square with the colour of the first pixel.
    """

    card: ClassVar[Card] = Card(
        needs_images=True,
        identities=(
            "of a margin between two references with the same images it is zero at alpha 0.5",
            "without contrast it is 1 - alpha times the map at alpha 0",
        ),
        degenerate=(
            "it explains local descriptors, not the embedding that is compared: their score may change differently",
            "a hidden square is a descriptor too: it may match the supports",
        ),
    )

    alpha: Share = 0.5
    nearest: Count = 10
    window: Share = 0.143
    grid: Count = 16
    baseline: BaselineName = "mean_colour"

    def forwards(self, query: Side) -> int:
        """One for each position, and one for the query."""
        return len(centred_windows(query.images, self.grid, self.window))

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        images = encoded.query.images
        windows = centred_windows(images, self.grid, self.window)
        hidden, maps = BASELINES[self.baseline](images), []
        with torch.no_grad(), evaluating(model):
            for row, image in enumerate(images):
                sets = tuple(self._supports(encoded, row))
                scores = [
                    self._score(model.run_trunk(torch.lerp(hidden[row], image, kept[:, None].to(image))), sets)
                    for some in chunks(len(windows), image[None])
                    for kept in [windows.make(int(some[0]), int(some[-1]) + 1)]
                ]
                maps.append(torch.cat(scores))
        found = torch.stack(maps)
        return (found[:, :1] - found[:, 1:]).view(-1, len(windows.rows), len(windows.cols)).to(images)

    def _supports(self, encoded: Encoded, row: int) -> Iterator[tuple[float, Descriptors]]:
        """The descriptors of S and of S' for one query, each with the weight of its score."""
        near = [term.side for term in encoded.terms if term.sign > 0]
        far = [term.side for term in encoded.terms if term.sign < 0]
        far += [rival for term in encoded.terms for rival in term.rivals]
        for weight, references in ((1 - self.alpha, near), (-self.alpha, far)):
            if references:
                yield weight, torch.cat([_describe(_images_of(reference, row)) for reference in references])

    def _score(self, activations: Activations, sets: tuple[tuple[float, Descriptors], ...]) -> Float[Tensor, " images"]:
        """The weighted sum of the scores of each image with each set."""
        points = _describe(activations).view(len(activations), -1, activations.shape[1])
        return sum(
            (
                weight * (points @ supports.T).topk(min(self.nearest, len(supports)), dim=2).values.sum(dim=(1, 2))
                for weight, supports in sets
            ),
            start=points.new_zeros(len(points)),
        )


def _images_of(reference: Reference, row: int) -> Activations:
    """The activations of the images that form the reference of one query."""
    blend = reference.images_for("C3A")
    return blend.side.activations[blend.rows[blend.pairs == row]]


def _describe(activations: Activations) -> Descriptors:
    """The channels of each position as a vector of length one, in float64: all images, one after another."""
    return unit(activations.double().flatten(2).mT.flatten(0, 1))
