"""Model randomisation: how similar is the map to that of a model whose weights are re-initialised?"""

from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import chain
from math import inf
from typing import ClassVar, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from sfam_bench.core.cache import Cache
from sfam_bench.core.maps import find_flaws
from sfam_bench.core.metric_card import MetricCard, label
from sfam_bench.core.ranges import Count, Natural, Positive
from sfam_bench.core.records import pair_seed
from sfam_bench.core.types import Flags, Maps, Scores
from sfam_bench.engine.modes import without_grad
from sfam_bench.engine.passes import Passes
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values
from sfam_bench.metrics.shared.likeness import (
    Changed,
    Comparing,
    Remaking,
    apply_change,
    flag_further,
    remake_maps,
    resize_maps,
)
from sfam_bench.metrics.shared.scene import Scene
from sfam_bench.metrics.stability import Noisy
from sfam_bench.models.similarity_model import SimilarityModel, encode_again

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.Module)  # the last is made by torch.fx for a cut model

Names = list[str]
_models: WeakKeyDictionary[SimilarityModel, dict[tuple[int, int], list[SimilarityModel]]] = WeakKeyDictionary()


def units(model: SimilarityModel) -> list[Names]:
    """Names of modules from the images up: blocks of the trunk, of the tail behind an early cut, pooling, projection.

    Norms and scales belong to the module before them.
    """
    embedder = model.embedder
    parts = {"trunk": model.trunk, "embedder.tail": embedder.tail}
    ends = {"embedder.pooling": embedder.pooling, "embedder.projection": embedder.projection}
    named = [*chain.from_iterable(blocks(*part) for part in parts.items()), *filter(has_weights, ends.items())]
    found: list[Names] = []
    for name, module in named:
        if found and all(parameter.ndim < 2 for parameter in module.parameters()):
            found[-1].append(name)
        else:
            found.append([name])
    return found


def blocks(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children of a module that have weights; containers are replaced by their children."""
    while len(inside := children(name, module)) == 1:
        ((name, module),) = inside
    opened = (children(*child) if type(child[1]) in CONTAINERS else [] for child in inside)
    found = [parts or [child] for child, parts in zip(inside, opened, strict=True)]
    return list(chain.from_iterable(found)) or list(filter(has_weights, [(name, module)]))


def children(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children of a module that have weights."""
    return list(filter(has_weights, ((f"{name}.{key}", child) for key, child in module.named_children())))


def has_weights(named: tuple[str, nn.Module]) -> bool:
    """Whether a module has weights."""
    return any(True for _ in named[1].parameters())


def randomise(model: SimilarityModel, seed: int) -> SimilarityModel:
    """A copy whose modules are re-initialised by their `reset_parameters`, on the CPU.

    Weights of other modules (tokens, positions, scales) are shuffled within their tensor. The seed of each module
    depends only on its name.
    """
    device = model.device
    copied = deepcopy(model).cpu()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for name, module in copied.named_modules():
            torch.manual_seed(pair_seed(seed, name, "", "weights"))
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for weights in module.parameters(recurse=False):
                weights.copy_(weights.flatten()[torch.randperm(weights.numel())].view_as(weights))
    return copied.to(device)


def mix_weights(model: SimilarityModel, drawn: SimilarityModel, names: Names) -> SimilarityModel:
    """The model with the weights of another in some modules; shares its tensors with both."""
    prefixes = tuple(f"{name}." for name in names)
    shared: dict[int, Tensor] = {}
    ours, theirs = (chain(of.named_parameters(), of.named_buffers()) for of in (model, drawn))
    for (name, own), (_, other) in zip(ours, theirs, strict=True):
        shared[id(own)] = other if name.startswith(prefixes) else own
    return deepcopy(model, shared)  # deepcopy uses the tensors in its memo as copies


def cascade(model: SimilarityModel, seed: int, stages: int) -> list[SimilarityModel]:
    """Copies of a model with weights re-initialised from the top down to each stage; all weights in the last."""
    key = (seed, stages)
    if key not in _models.setdefault(model, {}):
        groups = np.array_split(np.arange(len(found := units(model)))[::-1], min(stages, len(found)))
        drawn, made, names = randomise(model, seed), list[SimilarityModel](), Names()
        for group in groups[:-1]:
            names.extend(chain.from_iterable(found[unit] for unit in group))
            made.append(mix_weights(model, drawn, names))
        _models[model][key] = [*made, drawn]
    return _models[model][key]


@dataclass(frozen=True)
class Randomised:
    """The same pairs with one model of the cascade."""

    stage: int
    seed: int
    stages: int

    def __call__(self, scene: Scene) -> Changed:
        model = cascade(scene.model, self.seed, self.stages)[self.stage]
        encoded = scene.encoded
        terms = tuple(
            replace(
                term,
                side=encode_again(model, term.side),
                rivals=tuple(encode_again(model, rival) for rival in term.rivals),
            )
            for term in encoded.terms
        )
        passes = Passes(without_grad(model, model), encoded.passes.batch)
        query = model.encode(encoded.query.images)
        return Changed(model, replace(encoded, query=query, terms=terms, passes=passes, kept=Cache()), scene.pairs)


@dataclass(frozen=True)
class ModelRandomisation(Comparing):
    """Similarity of the map to that of the model with re-initialised weights; Adebayo et al., NeurIPS 2018.

    Cascading: the projection first, then the trunk block by block, until all weights are random. Maps that depend on no
    weights, such as edges, score 1. An untrained model responds to objects too, so that even the exact decomposition
    keeps a part of its map: a method passes where it keeps no more than similarity_decomposition in the same run (the
    interval of the paired difference does not lie above 0).

    value: mean over the stages, or the value of the last stage, a fully random model.
    stages: maximal number of stages, with equal numbers of blocks as far as possible.
    seed: of the weights.
    """

    higher_is_better: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()

    value: Literal["mean", "full"] = "mean"
    stages: Count = 5
    seed: Natural = 0

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=(-1, 1),
            remakes=self.stages if self.value == "mean" else 1,
            degenerate=(
                "an untrained model responds to edges and colours, so that a faithful map may stay similar",
                "what a method has computed from training images stays that of the trained model",
                "a batch norm starts at mean 0 and variance 1, so that signals shrink with depth",
            ),
            group="Sanity and robustness",
            label=label("model randomisation", "all weights" if self.value == "full" else "", *self.likeness),
            meaning="similarity to the map of a model whose weights are re-initialised, stage by stage"
            if self.value == "mean"
            else "similarity to the map of a model whose weights are all re-initialised",
            family="model_randomisation",
        )

    def measure_remakes(self, explained: Explained) -> Measured:
        count = len(cascade(explained.scene.model, self.seed, self.stages))
        chosen = range(count) if self.value == "mean" else [count - 1]
        values, reasons = list[Scores](), dict[str, Flags]()
        for stage in chosen:
            found = self.compare_changed(explained, Randomised(stage, self.seed, self.stages))
            values.append(found.values)
            reasons = {
                name: flags | reasons[name] if name in reasons else flags for name, flags in found.reasons.items()
            }
        return mask_values(torch.stack(values).mean(dim=0), reasons)


@dataclass(frozen=True)
class SmoothRandomisation(Comparing):
    """Similarity of the mean map under noise to that of the model with random weights; Hedstroem et al., sMPRT, 2023.

    Both maps are means over noisy copies of the query, each map divided by its greatest magnitude, so that noise of the
    gradients is not taken for a change of the explanation. The second model is the last of the cascade of
    model_randomisation, all of whose weights are random.

    samples: noisy copies of the query, each with a map for both models; the paper has 50 (300 for MNIST).
    noise: standard deviation of the Gaussian noise, for pixels in [0, 1].
    seed: of weights and noise.
    """

    higher_is_better: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()

    samples: Count = 10
    noise: Positive = 0.1
    seed: Natural = 0

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=(-1, 1),
            remakes=2 * self.samples,
            degenerate=("an untrained model responds to edges and colours, so that a faithful map may stay similar",),
            group="Sanity and robustness",
            label=label("smooth model randomisation", *self.likeness),
            meaning="similarity of the mean map under noise to that of the model with random weights",
            family="smooth_model_randomisation",
        )

    def measure_remakes(self, explained: Explained) -> Measured:
        scene = explained.scene
        drawn = Scene(*apply_change(scene, Randomised(-1, self.seed, 1)))
        (own, flawed), (other, flawed_too) = (self._mean_map(explained, each) for each in (scene, drawn))
        return flag_further(self.compare(own, other), flawed | flawed_too)

    def _mean_map(self, explained: Explained, scene: Scene) -> tuple[Maps, Flags]:
        """The sum of the maps of noisy copies, and where one of them is not finite."""
        remake = explained.remake
        if remake is None:
            raise ValueError("these maps cannot be computed again")
        total = torch.zeros_like(explained.maps)
        flawed = torch.zeros(len(total), dtype=torch.bool, device=total.device)
        for sample in range(self.samples):
            raw = remake(*Noisy(sample, self.noise, self.seed, "gaussian")(scene))
            total += resize_maps(raw, total)
            flawed |= find_flaws(raw)[0]
        return total, flawed


@dataclass(frozen=True)
class EfficientRandomisation(Remaking):
    """Relative rise of the map's entropy when all weights become random; Hedstroem et al., eMPRT, 2023.

    (H' - H) / H, H the entropy in nats of the histogram of the map's values, H' that for the model with random weights.
    Above 0 the map of the trained model is the simpler one.

    bins: of the histogram, between the least and the greatest value; as in the authors' package.
    seed: of the weights.
    """

    higher_is_better: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()

    bins: Count = 100
    seed: Natural = 0

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=(-1, inf),
            remakes=1,
            degenerate=(
                "a map that ignores the model has value 0, below a random one that was lucky",
                "maps of few cells have few values, and little entropy",
            ),
            group="Sanity and robustness",
            label="rise of entropy with random weights",
            meaning="does the map become more complex when all weights become random?",
            family="efficient_model_randomisation",
        )

    def measure_remakes(self, explained: Explained) -> Measured:
        raw = remake_maps(explained, Randomised(-1, self.seed, 1))
        before, after = (
            histogram_entropy(one, self.bins) for one in (explained.maps, resize_maps(raw, explained.maps))
        )
        reasons = {
            "constant_map": find_flaws(explained.maps)[1],
            "nonfinite_further_map": find_flaws(raw)[0],
            "no_entropy": before == 0,
        }
        return mask_values(((after - before) / before).to(explained.maps), reasons)


def histogram_entropy(maps: Maps, bins: int) -> Scores:
    """Entropy in nats of the histogram of each map's values, between its least and its greatest."""
    counts = [np.histogram(one.double().cpu().numpy(), bins)[0] for one in maps]
    shares = torch.from_numpy(np.stack(counts)).double() / maps[0].numel()
    return torch.special.entr(shares).sum(dim=1).to(maps.device)
