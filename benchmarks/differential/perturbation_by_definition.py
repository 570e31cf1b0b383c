"""Perturbation-based methods beside loops written from their definitions, over small images in float64."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations, product
from math import comb
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.differential.comparison import Comparison, Sides
from benchmarks.differential.settings import Setting
from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean, SimilarityFunction
from sfam_bench.core.targets import Similarity
from sfam_bench.explainers.corr_rise import CorrRISE, Patches
from sfam_bench.explainers.kernel_shap import KernelSHAP
from sfam_bench.explainers.relax import RELAX
from sfam_bench.explainers.rise import RISE
from sfam_bench.explainers.shared.masking import Grids
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs

SIZE = (19, 14)
MASKS = 40
SIMILARITIES: tuple[SimilarityFunction, ...] = (Cosine(), Dot(), NegativeEuclidean())


def small(similarity: SimilarityFunction) -> Setting:
    """Two pairs of noise before two convolutions and a linear head, in float64."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 8, 5, stride=3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU())
    model = SimilarityModel(trunk, Embedder(GAP(), nn.Linear(12, 6)), similarity).double().eval()
    query, reference = torch.rand(2, 2, 3, *SIZE, dtype=torch.float64)
    pairs = PairBatch(("a", "b"), ("c", "d"), query, reference)
    encoded = encode_pairs(model, Similarity(), query, reference)
    return Setting(f"two convolutions, {similarity.name}", model, pairs, encoded)


def masks_of(masking: Any, query_id: str) -> Tensor:
    """All masks of a query at once."""
    drawn = masking.draw(query_id, SIZE)
    made: Tensor = drawn.make(0, len(drawn)).double()
    return made


def mean_colour(image: Tensor) -> Tensor:
    """An image of its mean colour."""
    return torch.ones_like(image) * image.flatten(1).mean(dim=1)[:, None, None]


def one_score(setting: Setting, pair: int, image: Tensor) -> float:
    """The score of one image in a query's place."""
    with torch.no_grad():
        return float(setting.model.similarity(setting.model(image[None]), setting.references[pair : pair + 1]))


def by_definition(
    explainer: Any,
    one: Callable[[Setting, int], Tensor],
    similarities: tuple[SimilarityFunction, ...] = SIMILARITIES,
) -> Callable[[], Iterator[Sides]]:
    """Compare with a loop over pairs under each similarity."""

    def run() -> Iterator[Sides]:
        for setting in map(small, similarities):
            yield setting.name, setting.ours(explainer), torch.stack([one(setting, pair) for pair in range(2)])

    return run


def rise(setting: Setting, pair: int, subtract: bool) -> Tensor:
    """The sum over masks."""
    image = setting.pairs.query[pair]
    masks = masks_of(Grids(MASKS, 4, 0.5, 0), setting.pairs.query_ids[pair])
    scores = [one_score(setting, pair, image * mask + mean_colour(image) * (1 - mask)) for mask in masks]
    level = sum(scores) / MASKS if subtract else 0.0
    total = torch.zeros(SIZE, dtype=torch.float64)
    for value, mask in zip(scores, masks, strict=True):
        total += (value - level) * mask
    return total / (0.5 * MASKS)


def relax(setting: Setting, pair: int) -> Tensor:
    """The running mean, one mask after the other, of RELAX's code."""
    image = setting.pairs.query[pair]
    importance, weight = torch.zeros(2, *SIZE, dtype=torch.float64)
    weight = weight + 1e-30
    with torch.no_grad():
        whole = setting.model(image[None])
        for mask in masks_of(Grids(MASKS, 4, 0.5, 0), setting.pairs.query_ids[pair]):
            masked = setting.model((image * mask + mean_colour(image) * (1 - mask))[None])
            weight = weight + mask
            importance = importance + mask * (nn.functional.cosine_similarity(whole, masked) - importance) / weight
    return importance


def correlations(setting: Setting, pair: int, name: str) -> Tensor:
    """SciPy, pixel by pixel."""
    import scipy.stats

    of = getattr(scipy.stats, name)
    image = setting.pairs.query[pair]
    masks = masks_of(Patches(MASKS, 3, 0.268, 0), setting.pairs.query_ids[pair])
    scores = [one_score(setting, pair, image * mask) for mask in masks]
    found = torch.zeros(SIZE, dtype=torch.float64)
    for row, col in product(*map(range, SIZE)):
        keep = masks[:, row, col].numpy()
        if keep.min() < keep.max():
            found[row, col] = of(scores, keep).statistic
    return found


def players(image: Tensor, kept: tuple[int, ...], grid: int) -> Tensor:
    """An image whose patches that are not kept have its mean colour."""
    places = [
        [row * grid // SIZE[0] * grid + col * grid // SIZE[1] for col in range(SIZE[1])] for row in range(SIZE[0])
    ]
    return torch.where(
        torch.isin(torch.tensor(places), torch.tensor(kept, dtype=torch.int64)), image, mean_colour(image)
    )


def power_index(setting: Setting, pair: int, grid: int, weighting: str) -> Tensor:
    """The mean of each patch's part over all coalitions of the others."""
    image, count = setting.pairs.query[pair], grid**2
    value = {
        kept: one_score(setting, pair, players(image, kept, grid))
        for size in range(count + 1)
        for kept in combinations(range(count), size)
    }
    found = torch.zeros(count, dtype=torch.float64)
    for player in range(count):
        for kept in value:
            if player not in kept:
                share = 1 / (count * comb(count - 1, len(kept))) if weighting == "shapley" else 2.0 ** (1 - count)
                found[player] += share * (value[tuple(sorted((*kept, player)))] - value[kept])
    return found.view(grid, grid)


COMPARISONS = (
    *(
        Comparison(
            "rise",
            "by definition" + (", mean subtracted" if subtract else ", plain"),
            by_definition(RISE(MASKS, 4, subtract_mean=subtract), partial(rise, subtract=subtract)),
        )
        for subtract in (True, False)
    ),
    Comparison("relax", "by definition: the running mean of the authors' code", by_definition(RELAX(MASKS, 4), relax)),
    Comparison(
        "corr_rise",
        "scipy.stats.pearsonr, pixel by pixel",
        by_definition(CorrRISE(MASKS, 3, correlation="pearson"), partial(correlations, name="pearsonr")),
    ),
    Comparison(
        "corr_rise",
        "scipy.stats.spearmanr, pixel by pixel",
        by_definition(CorrRISE(MASKS, 3), partial(correlations, name="spearmanr")),
    ),
    Comparison(
        "kernel_shap",
        "by definition: Shapley values over all coalitions",
        by_definition(KernelSHAP(2, 16), partial(power_index, grid=2, weighting="shapley")),
    ),
    Comparison(
        "kernel_shap",
        "by definition: Banzhaf values over all coalitions",
        by_definition(KernelSHAP(2, 16, "banzhaf"), partial(power_index, grid=2, weighting="banzhaf")),
    ),
    Comparison(
        "kernel_shap",
        "by definition: Shapley values over the 512 coalitions of 3 x 3 patches",
        by_definition(KernelSHAP(3, 512), partial(power_index, grid=3, weighting="shapley"), (Cosine(),)),
    ),
)
