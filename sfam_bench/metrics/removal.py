"""What a map says of removed pixels, against the change of the score: infidelity, single deletion, SaCo, F-Fidelity."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.baselines import Baseline
from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.maps import find_flaws
from sfam_bench.core.metric_card import ANY, SHARE, MetricCard, label
from sfam_bench.core.ranges import Count, Finite, Natural, Share
from sfam_bench.core.records import pair_seed
from sfam_bench.core.types import Flags, Scores
from sfam_bench.engine.series import Masked, Series, SoftMasks
from sfam_bench.metrics.causal import correlate, is_flat, rank_parts
from sfam_bench.metrics.perturbation import MEAN
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values, no_reason
from sfam_bench.metrics.shared.scene import Scene
from sfam_bench.metrics.shared.walks import Order, take_order

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
            places = [torch.arange(side) * self.grid // side for side in (rows, cols)]
            found = []
            for query_id in scene.pairs.query_ids:
                seed = torch.Generator().manual_seed(pair_seed(self.seed, query_id, "", "hiding"))
                cells = torch.rand(self.samples, self.grid, self.grid, generator=seed) < self.share
                found.append(cells[:, places[0]][:, :, places[1]])
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
        rows, cols = (torch.arange(side, device=images.device) * self.grid // side for side in images.shape[-2:])
        numbers = torch.arange(self.samples, device=images.device)[:, None, None]
        patches = (rows[:, None] * self.grid + cols == numbers).to(images)
        return patches.expand(len(images), -1, -1, -1)


def measure_drops(scene: Scene, hiding: Hiding | Patches) -> Samples:
    """The fall of the score for each sample, in float64; one pass each, computed once for all methods."""

    def compute() -> Tensor:
        kept, images, behind = 1 - hiding.hidden(scene), scene.encoded.query.images, scene.without(hiding.baseline)
        series = (
            (pair, Masked(images[pair], behind[pair], lambda a, b, pair=pair: kept[pair, a:b], hiding.samples))  # type: ignore[misc]
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
    scale: divide by mean_n d_n^2 ("share": 1 is a map that says nothing of the falls), or not ("raw", as captum).
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
        reasons = {"constant_map": find_flaws(explained.maps)[1] | (squares == 0), "no_fall": energy == 0}
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


@dataclass(frozen=True)
class Groups:
    """The query without the pixels of each of `groups` equal groups, in descending order of relevance."""

    groups: int
    baseline: Baseline

    def count(self, pixels: int) -> int:
        return self.groups

    def series(self, explained: Explained, pair: int) -> Series:
        image, behind = explained.scene.encoded.query.images[pair], explained.scene.without(self.baseline)[pair]
        group = self.group(explained)[pair]

        def masks(first: int, last: int) -> SoftMasks:
            numbers = torch.arange(first, last, device=group.device)
            return (group != numbers[:, None, None]).to(image)

        return Masked(image, behind, masks, self.groups)

    def group(self, explained: Explained) -> Tensor:
        """The group of each pixel."""
        pixels = explained.maps[0].numel()
        return explained.ranks.long() * self.groups // pixels


@dataclass(frozen=True)
class SaCo(Checked):
    """How well differences in salience between groups of pixels order the falls of the score; Wu et al., CVPR 2024.

    sum over pairs of groups i < j of (S_i - S_j), negative where the fall of i is less than that of j, over the sum of
    their magnitudes; S_i is the map's sum over group i. 1: in every pair the group of greater salience matters more;
    about 0: chance.

    groups: of equal numbers of pixels, in descending order of relevance.
    baseline: replaces the pixels of a group; the mean colour is the paper's.
    """

    groups: Count = 10
    baseline: Baseline = MEAN
    needs: ClassVar[tuple[str, ...]] = ()
    higher_is_better: ClassVar[bool] = True
    share: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups < 2:
            raise UserError(f"SaCo.groups is {self.groups}: choose at least 2")

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=(-1, 1),
            degenerate=("two groups of equal salience count nothing: a sparse map has few pairs that count",),
            group="Faithfulness",
            label=label("SaCo", self.baseline.name),
            meaning="do groups of more salient pixels change the score more?",
            family="saco",
            baseline=self.baseline.name,
        )

    @property
    def probes(self) -> tuple[Groups, ...]:
        return (Groups(self.groups, self.baseline),)

    def reasons(self, explained: Explained) -> dict[str, Flags]:
        return {"constant_map": find_flaws(explained.maps)[1]}

    def __call__(self, explained: Explained) -> Measured:
        (probe,), reasons = self.probes, self.reasons(explained)
        falls = explained.scene.full()[:, None] - explained.readings(probe, no_reason(reasons))
        maps, group = explained.maps.double().flatten(1), probe.group(explained).flatten(1)
        salience = maps.new_zeros(len(maps), self.groups).scatter_add_(1, group, maps)
        first, second = torch.triu_indices(self.groups, self.groups, offset=1)
        apart = salience[:, first] - salience[:, second]
        signed = torch.where(falls[:, first] >= falls[:, second], apart, -apart).sum(dim=1)
        return mask_values((signed / apart.abs().sum(dim=1)).to(explained.maps.dtype), reasons)


@dataclass(frozen=True)
class Thinned:
    """The query without a random part of its most or least relevant pixels, for growing shares of them."""

    order: Order
    levels: int
    samples: int
    remove: float | int
    most: float | int
    seed: int
    baseline: Baseline

    def count(self, pixels: int) -> int:
        return self.levels * self.samples

    def series(self, explained: Explained, pair: int) -> Series:
        scene = explained.scene
        image, behind = scene.encoded.query.images[pair], scene.without(self.baseline)[pair]
        ranks = take_order(explained.ranks[pair], self.order)
        ids = scene.pairs.query_ids[pair], scene.pairs.reference_ids[pair]

        def mask(number: int) -> Tensor:
            size = (1 + number // self.samples) / self.levels  # of the explanation, as a share of the image
            draw = torch.Generator().manual_seed(pair_seed(self.seed, *ids, "thinned", self.order, str(number)))
            drawn = torch.rand(ranks.shape, generator=draw).to(ranks.device) < min(self.remove, self.most / size)
            return ~(drawn & (ranks < size * ranks.numel()))

        def masks(first: int, last: int) -> SoftMasks:
            return torch.stack([mask(number) for number in range(first, last)]).to(image)

        return Masked(image, behind, masks, self.levels * self.samples)


@dataclass(frozen=True)
class FFidelity(Checked):
    """Score without a random part of the least, minus of the most relevant pixels; Zheng et al., ICLR 2025.

    FFid+ is the fall of the score when the part is drawn among the most relevant pixels, FFid- when among the least
    relevant; both are means over sizes of the explanation and over draws, over s_full - s_base. The removed pixels
    never exceed the share `most` of the image, so that the images stay close to those of training. The paper measures
    with a model that was fine-tuned on randomly masked images; give such a model to evaluate. With the model as it is,
    this is R-Fidelity with a bound.

    value: "gap" is FFid+ minus FFid-.
    levels: number of sizes of the explanation: shares 1 / levels to 1 of the image.
    samples: draws for each size.
    remove: probability that a pixel of the explanation is removed.
    most: bound on the removed share of the image; the paper's beta.
    seed: of the draws, with the ids of the pair.
    """

    value: Literal["gap", "plus", "minus"] = "gap"
    levels: Count = 5
    samples: Count = 8
    remove: Share = 0.5
    most: Share = 0.1
    baseline: Baseline = MEAN
    min_range: Finite = 0.05
    seed: Natural = 0
    needs: ClassVar[tuple[str, ...]] = ()
    share: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.remove or not self.most:
            raise UserError("FFidelity.remove and most are shares above 0: nothing would be removed")

    @property
    def higher_is_better(self) -> bool:
        return self.value != "minus"

    @property
    def card(self) -> MetricCard:
        parts = {"gap": "least minus most relevant", "plus": "most relevant", "minus": "least relevant"}
        return MetricCard(
            range=ANY,
            degenerate=("at the greatest size both draws are of the whole image: maps differ at smaller sizes alone",),
            group="Faithfulness",
            label=label("F-Fidelity", parts[self.value], self.baseline.name),
            meaning=f"score after a random part is removed, {parts[self.value]} pixels"
            if self.value == "gap"
            else f"fall of the score when a random part of the {parts[self.value]} pixels is removed",
            family=f"f_fidelity_{self.value}",
            baseline=self.baseline.name,
        )

    @property
    def probes(self) -> tuple[Thinned, ...]:
        orders: dict[str, tuple[Order, ...]] = {"gap": ("most", "least"), "plus": ("most",), "minus": ("least",)}
        settings = (self.levels, self.samples, self.remove, self.most, self.seed, self.baseline)
        return tuple(Thinned(order, *settings) for order in orders[self.value])

    def reasons(self, explained: Explained) -> dict[str, Flags]:
        return {"zero_range": explained.scene.range(self.baseline) < self.min_range}

    def __call__(self, explained: Explained) -> Measured:
        reasons, scene = self.reasons(explained), explained.scene
        falls: list[Scores] = [
            scene.full() - explained.readings(probe, no_reason(reasons)).mean(dim=1) for probe in self.probes
        ]
        value = falls[0] - falls[1] if self.value == "gap" else falls[0]
        return mask_values(value / scene.range(self.baseline), reasons)
