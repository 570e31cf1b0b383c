"""What a map says of hidden patches, against the fall of the score: infidelity and single deletion."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.baselines import Baseline
from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.geometry import number_patches
from sfam_bench.core.maps import find_flaws
from sfam_bench.core.metric_card import SHARE, MetricCard, label
from sfam_bench.core.ranges import Count, Natural, Share
from sfam_bench.core.records import pair_seed
from sfam_bench.engine.series import Masked
from sfam_bench.metrics.causal import correlate, is_flat, rank_parts
from sfam_bench.metrics.perturbation import MEAN
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values
from sfam_bench.metrics.shared.scene import Scene

Samples = Float[Tensor, "batch samples"]


@dataclass(frozen=True)
class Hiding:
    """Random patches of a grid, hidden with probability `share`; the same for every method."""

    grid: int
    samples: int
    share: float | int
    seed: int
    baseline: Baseline

    def hidden(self, scene: Scene) -> Float[Tensor, "batch samples rows cols"]:
        """1 where a sample hides a pixel."""

        def draw() -> Tensor:
            rows, cols = scene.encoded.query.images.shape[-2:]
            numbers, found = number_patches((rows, cols), self.grid), []
            for query_id in scene.pairs.query_ids:
                seed = torch.Generator().manual_seed(pair_seed(self.seed, query_id, "", "hiding"))
                patches = torch.rand(self.samples, self.grid**2, generator=seed) < self.share
                found.append(patches[:, numbers])
            return torch.stack(found).to(scene.encoded.query.images)

        return scene.cache.once(("hidden", self), draw)


@dataclass(frozen=True)
class Patches:
    """Each patch of a grid, hidden alone."""

    grid: int
    baseline: Baseline

    @property
    def samples(self) -> int:
        return self.grid**2

    def hidden(self, scene: Scene) -> Float[Tensor, "batch samples rows cols"]:
        """1 where a sample hides a pixel."""
        images = scene.encoded.query.images
        rows, cols = images.shape[-2:]
        patches = number_patches((rows, cols), self.grid) == torch.arange(self.samples)[:, None, None]
        return patches.to(images).expand(len(images), -1, -1, -1)


@runtime_checkable
class Hides(Protocol):
    """Sets of pixels of each query; equal ones are measured once."""

    @property
    def baseline(self) -> Baseline:
        """Replaces the pixels."""
        ...

    def hidden(self, scene: Scene) -> Float[Tensor, "batch samples rows cols"]:
        """1 where a sample hides a pixel."""
        ...


def measure_drops(scene: Scene, hiding: Hides) -> Samples:
    """The fall of the score for each sample, in float64; one pass each, computed once for all methods."""

    def compute() -> Tensor:
        kept, images, behind = 1 - hiding.hidden(scene), scene.encoded.query.images, scene.without(hiding.baseline)
        series = (
            (pair, Masked(images[pair], behind[pair], lambda a, b, pair=pair: kept[pair, a:b], kept.shape[1]))  # type: ignore[misc]
            for pair in range(len(images))
        )
        scores = [scene.read(embeddings.double(), pair) for pair, embeddings in scene.encoded.passes(series)]
        return scene.full().double()[:, None] - torch.stack(scores)

    return scene.cache.once(("drops", hiding), compute)


@dataclass(frozen=True)
class Infidelity(Checked):
    """Mean squared error of the map's sum over hidden pixels as the fall of the score; Yeh et al., NeurIPS 2019.

    min over c of mean_n (c a_n - d_n)^2, a_n the map's sum over the pixels that sample n hides, d_n the fall of the
    score; c makes the value independent of the map's scale, as captum's normalize=True does. Hidden pixels have the
    baseline's colour. The samples take one pass each for a pair, which all methods share.

    grid: patches on each side; samples hide whole patches.
    samples: number of sets of hidden patches.
    hide: probability that a patch is hidden.
    scale: divide by mean_n d_n^2 ("share": 1 is a map that is not related to the falls), or not ("raw", as captum).
    seed: of the samples, with the query's id.
    """

    grid: Count = 7
    samples: Count = 100
    hide: Share = 0.25
    baseline: Baseline = MEAN
    scale: Literal["share", "raw"] = "share"
    seed: Natural = 0
    needs: ClassVar[tuple[str, ...]] = ()
    higher_is_better: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hide in (0, 1):
            raise UserError(f"Infidelity.hide is {self.hide}: choose a probability such as 0.25")

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=SHARE if self.scale == "share" else (0, inf),
            degenerate=("all falls of one size favour a flat map: hidden pixels count, wherever they are",),
            group="Faithfulness",
            label=label("infidelity", self.baseline.name, "" if self.scale == "share" else "raw scores"),
            meaning="squared error of the map's sum over hidden patches as the fall of the score",
            family=f"infidelity_{self.scale}",
            baseline=self.baseline.name,
        )

    def __call__(self, explained: Explained) -> Measured:
        hiding = Hiding(self.grid, self.samples, self.hide, self.seed, self.baseline)
        falls = measure_drops(explained.scene, hiding)
        sums = torch.einsum("bnij,bij->bn", hiding.hidden(explained.scene).double(), explained.maps.double())
        squares, energy = sums.square().sum(dim=1), falls.square().sum(dim=1)
        factor = (sums * falls).sum(dim=1) / squares
        error = (factor[:, None] * sums - falls).square().mean(dim=1)
        values = error / (energy / self.samples) if self.scale == "share" else error
        change = torch.cat([falls, torch.zeros_like(falls[:, :1])], dim=1)  # falls of one size are falls
        reasons = {
            "constant_map": find_flaws(explained.maps)[1] | (squares == 0),
            "no_fall": is_flat(change, explained.scene.full().double()),
        }
        return mask_values(values.to(explained.maps.dtype), reasons)


@dataclass(frozen=True)
class SingleDeletion(Checked):
    """Rank correlation over patches of map and fall of the score without the patch; Hesse et al., arXiv 2407.11910.

    Spearman's correlation of the map's sum on each patch of a grid with the fall of the score when that patch alone is
    replaced. The source (IDSDS, NeurIPS 2024) first fine-tunes the model on images without patches, so that these are
    in its domain; here the model is taken as it is. One pass a patch and pair serves all methods.

    grid: patches on each side; 4 is the source's.
    baseline: replaces the pixels of a patch.
    """

    grid: Count = 4
    baseline: Baseline = MEAN
    needs: ClassVar[tuple[str, ...]] = ()
    higher_is_better: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid < 2:
            raise UserError(f"SingleDeletion.grid is {self.grid}: choose at least 2")

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=(-1, 1),
            degenerate=("a model that has not seen images without patches may react to the patch's edges",),
            group="Faithfulness",
            label=label("single deletion", self.baseline.name),
            meaning="do patches of greater relevance lower the score more, each removed alone?",
            family="single_deletion",
            baseline=self.baseline.name,
        )

    def __call__(self, explained: Explained) -> Measured:
        patches, scene = Patches(self.grid, self.baseline), explained.scene
        falls = measure_drops(scene, patches)
        sums = torch.einsum("bnij,bij->bn", patches.hidden(scene).double(), explained.maps.double())
        reasons = {
            "constant_map": find_flaws(explained.maps)[1] | is_flat(sums, sums),
            "no_fall": is_flat(falls, scene.full().double()),
        }
        return mask_values(correlate(rank_parts(sums), rank_parts(falls)).to(explained.maps.dtype), reasons)
