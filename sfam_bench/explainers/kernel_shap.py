"""Shapley and Banzhaf values of the patches of the query, by regression."""

from dataclasses import dataclass
from math import comb
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sfam_bench.core.baselines import BaselineName
from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count, Natural
from sfam_bench.core.records import Encoded, PairBatch, Side, pair_seed
from sfam_bench.core.types import RawMaps
from sfam_bench.engine.series import SoftMasks
from sfam_bench.explainers.shared.masking import scores_behind
from sfam_bench.models.similarity_model import SimilarityModel

Members = Bool[Tensor, "coalitions players"]
Values = Float[Tensor, " coalitions"]


@dataclass(frozen=True)
class KernelSHAP(Checked):
    """argmin_phi sum_S w_S (v(S) - v({}) - sum_S phi)^2, S patches kept; Lundberg, Lee, NIPS 2017, theorem 2.

    v is the score with the other patches replaced, as in Hamilton et al. (ICLR 2022) for retrieval and in FIxLIP of
    order 1 (Baniecki et al., NeurIPS 2025). All coalitions are used where they are at most `samples`, which is exact;
    otherwise they are drawn in proportion to w_S, each with its complement.

    grid: patches on each side; at most the number of pixels.
    samples: forward passes, including those of the empty and of the full image.
    weighting: "shapley" satisfies sum phi = v(all) - v({}) exactly; "banzhaf" weighs all coalitions equally and does
        not.
    seed: of the coalitions, together with the query's id.
    baseline: replaces the patches that are not in S.
    """

    card: ClassVar[Card] = Card(
        total="change",
        identities=(
            "with all coalitions it is the Shapley value, or the Banzhaf value",
            "on an additive score it is the contribution of each patch, for any number of coalitions that determines "
            "it",
        ),
        degenerate=("with few samples the values of patches that often occur together are mixed",),
    )

    grid: Count = 7
    samples: Count = 512
    weighting: Literal["shapley", "banzhaf"] = "shapley"
    seed: Natural = 0
    baseline: BaselineName = "mean_colour"

    def __post_init__(self) -> None:
        super().__post_init__()
        players = self.grid**2
        needed = min(2**players, 2 * players + 2)
        if self.samples < needed:
            raise UserError(
                f"KernelSHAP.samples is {self.samples}: {players} patches need {needed} or more; or use a smaller grid"
            )

    def _grid(self, query: Side) -> tuple[int, int]:
        rows, cols = query.images.shape[-2:]
        return min(self.grid, rows), min(self.grid, cols)

    def forwards(self, query: Side) -> int:
        rows, cols = self._grid(query)
        return min(self.samples, 2 ** (rows * cols))

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        images, (rows, cols) = encoded.query.images, self._grid(encoded.query)
        places = patch_of(images.shape[-2], rows), patch_of(images.shape[-1], cols)
        drawn = [self._draw(rows * cols, query_id) for query_id in pairs.query_ids]
        games = [Coalitions(members.view(-1, rows, cols), *places) for members, _ in drawn]
        fit = shapley if self.weighting == "shapley" else banzhaf
        found = [
            fit(members, scores.cpu(), weights)
            for (members, weights), scores in zip(
                drawn, scores_behind(model, encoded, games, self.baseline), strict=True
            )
        ]
        return torch.stack(found).view(-1, rows, cols).to(images)

    def _draw(self, players: int, query_id: str) -> tuple[Members, Values]:
        """Coalitions, the empty one first and the full one last, and their weights."""
        if 2**players <= self.samples:
            return all_coalitions(players, self.weighting)
        draw = torch.Generator().manual_seed(pair_seed(self.seed, query_id, "", "coalitions"))
        half = draw_coalitions(players, (self.samples - 2) // 2, self.weighting, draw)
        ends = torch.tensor([[False], [True]]).expand(2, players)
        members = torch.cat([ends[:1], half, ~half, ends[1:]])
        weights = torch.ones(len(members), dtype=torch.float64)
        weights[[0, -1]] = 0  # their probability is negligible, and for Shapley they are constraints
        return members, weights


def all_coalitions(players: int, weighting: str) -> tuple[Members, Values]:
    """All coalitions, and the weights of the kernel."""
    members = (torch.arange(2**players)[:, None] >> torch.arange(players)) & 1
    sizes = members.sum(dim=1).tolist()
    kernel = [0.0, *(1 / (comb(players, size) * size * (players - size)) for size in range(1, players)), 0.0]
    weights = [kernel[size] if weighting == "shapley" else 1.0 for size in sizes]
    return members.bool(), torch.tensor(weights, dtype=torch.float64)


def draw_coalitions(players: int, count: int, weighting: str, draw: torch.Generator) -> Members:
    """Coalitions, drawn with a probability in proportion to their weight in the kernel."""
    if weighting == "banzhaf":
        return torch.rand(count, players, generator=draw, dtype=torch.float32) < 0.5
    sizes = torch.arange(1, players, dtype=torch.float64)
    size = 1 + torch.multinomial(1 / (sizes * (players - sizes)), count, replacement=True, generator=draw)
    places = torch.rand(count, players, generator=draw, dtype=torch.float32).argsort(dim=1).argsort(dim=1)
    return places < size[:, None]


def shapley(members: Members, values: Values, weights: Values) -> Float[Tensor, " players"]:
    """The weighted fit that sums to the last value minus the first."""
    players, change = members.shape[1], values[-1] - values[0]
    even = change / players
    # the rest of phi sums to zero, so that each row can be centred
    rows = members.double() - members.double().mean(dim=1, keepdim=True)
    rest = fit_weights(rows, values - values[0] - members.sum(dim=1) * even, weights)
    return even + rest - rest.mean()


def banzhaf(members: Members, values: Values, weights: Values) -> Float[Tensor, " players"]:
    """The weighted fit with an intercept."""
    share, rows = weights / weights.sum(), members.double()
    return fit_weights(rows - share @ rows, values - share @ values, weights)


def fit_weights(
    rows: Float[Tensor, "coalitions players"], values: Values, weights: Values
) -> Float[Tensor, " players"]:
    """The least-squares fit of minimal norm; NaN where a value is not finite, which evaluate flags."""
    if not values.isfinite().all():
        return torch.full_like(rows[0], torch.nan)
    root = weights.sqrt()[:, None]
    solution: Tensor = torch.linalg.lstsq(root * rows, root * values[:, None], driver="gelsd").solution
    return solution[:, 0]


@dataclass(frozen=True)
class Coalitions:
    """Which patches each mask keeps, and the patch of each row and column of pixels."""

    members: Bool[Tensor, "coalitions grid_rows grid_cols"]
    rows: Int[Tensor, " rows"]
    cols: Int[Tensor, " cols"]

    def __len__(self) -> int:
        return len(self.members)

    def make(self, first: int, last: int) -> SoftMasks:
        return self.members[first:last][:, self.rows][:, :, self.cols].double()


def patch_of(side: int, patches: int) -> Int[Tensor, " side"]:
    """The patch of each pixel of one axis."""
    return torch.arange(side) * patches // side
