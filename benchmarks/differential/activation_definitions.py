"""CAM, FAM, Stylianou's and Zhu's maps beside loops over positions and channels, written from their definitions."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.differential.comparison import Comparison, Sides
from benchmarks.differential.settings import Setting
from sfam_bench.core.records import PairBatch, Side
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean
from sfam_bench.core.targets import Similarity
from sfam_bench.explainers.cam import CAM
from sfam_bench.explainers.fam import FAM
from sfam_bench.explainers.stylianou import Stylianou
from sfam_bench.explainers.zhu import Zhu
from sfam_bench.models.poolings import GAP, GMP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs

Array = NDArray[np.float64]
POOLINGS: dict[str, Callable[[], nn.Module]] = {"GAP": GAP, "GMP": GMP}
HEADS: dict[str, Callable[[], nn.Module]] = {
    "no head": nn.Identity,
    "linear": lambda: nn.Linear(6, 5),
    "neck and linear": lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 5)),
}


@cache
def small(pooling: str, head: str, similarity: Any) -> Setting:
    """Two pairs of 4 x 3 positions and six channels."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU())
    projection = HEADS[head]()
    for layer in projection.modules():
        if isinstance(layer, nn.BatchNorm1d):
            for values in (layer.running_mean, layer.running_var, layer.weight, layer.bias):
                nn.init.uniform_(values, 0.5, 2)  # type: ignore[arg-type]
    model = SimilarityModel(trunk, Embedder(POOLINGS[pooling](), projection, None, False), similarity).eval()
    query, reference = torch.rand(2, 2, 3, 9, 7)
    name = f"{pooling}, {head}, {similarity.name}"
    encoded = encode_pairs(model, Similarity(), query, reference)
    return Setting(name, model, PairBatch(("a", "b"), ("c", "d"), query, reference), encoded)


def smalls(*similarities: Any) -> Iterator[Setting]:
    """Every pooling, head and similarity."""
    for pooling in POOLINGS:
        for head in HEADS:
            for similarity in similarities:
                yield small(pooling, head, similarity)


def affine(projection: nn.Module) -> tuple[Array, Array]:
    """Weight and bias of a head, the neck folded in by its formula."""
    weight, bias = np.eye(6), np.zeros(6)
    for layer in projection.modules():
        if isinstance(layer, nn.BatchNorm1d):
            mean, variance, gain, shift = (
                array(values) for values in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
            )
            slope = gain / np.sqrt(variance + layer.eps)
            weight, bias = slope[:, None] * weight, slope * (bias - mean) + shift
        elif isinstance(layer, nn.Linear):
            weight, bias = array(layer.weight) @ weight, array(layer.weight) @ bias + array(layer.bias)
    return weight, bias


def array(values: Any) -> Array:
    """Out of PyTorch, in float64."""
    found: Array = values.detach().double().numpy()
    return found


def seen(setting: Setting, side: Side, pair: int) -> tuple[Array, Array]:
    """What pooling keeps of each position, (rows, cols, channels), by loops; and the pooled channels."""
    activations = array(side.activations)[pair]
    kept = np.zeros((*activations.shape[1:], len(activations)))
    for k, channel in enumerate(activations):
        if isinstance(setting.model.embedder.pooling, GMP):
            place = np.unravel_index(channel.argmax(), channel.shape)
            kept[(*place, k)] = channel[place]
        else:
            kept[:, :, k] = channel / channel.size
    return kept, kept.sum(axis=(0, 1))


def sides(setting: Setting) -> Iterator[tuple[tuple[Array, Array], tuple[Array, Array]]]:
    """Both images of each pair."""
    for pair in range(len(setting.pairs)):
        yield (
            seen(setting, setting.encoded.query, pair),
            seen(setting, setting.encoded.terms[0].side.side_for("it"), pair),
        )


def four_loops(points: Array, others: Array, change: Callable[[float], float]) -> Array:
    """sum_xy change(points_ij . others_xy)."""
    total = np.zeros(points.shape[:2])
    for i, j in np.ndindex(*points.shape[:2]):
        for x, y in np.ndindex(*others.shape[:2]):
            total[i, j] += change(float(points[i, j] @ others[x, y]))
    return total


def zhu(**fields: Any) -> Iterator[Sides]:
    """The four-dimensional tensor entry by entry."""
    explainer = Zhu(**fields)
    for setting in smalls(Cosine(), Dot(), NegativeEuclidean()):
        weight, bias = affine(setting.model.embedder.projection)
        found = []
        for (kept, pooled), (other_kept, other_pooled) in sides(setting):
            spread = bias / kept[:, :, 0].size if explainer.bias == "spread" else 0
            change: Callable[[float], float] = (lambda x: max(x, 0.0)) if explainer.rectify == "pair" else (lambda x: x)
            total = four_loops(kept @ weight.T + spread, other_kept @ weight.T + spread, change)
            if isinstance(setting.model.similarity, Cosine):
                total = total / np.linalg.norm(weight @ pooled + bias) / np.linalg.norm(weight @ other_pooled + bias)
            elif isinstance(setting.model.similarity, NegativeEuclidean):
                total = total * 2
            found.append(np.maximum(total, 0) if explainer.rectify == "map" else total)
        yield setting.name, setting.ours(explainer), torch.tensor(np.stack(found)).float()


def stylianou() -> Iterator[Sides]:
    """Pooled lengths taken out of both feature maps, then every pair of positions."""
    for setting in smalls(Cosine(), Dot()):
        found = [
            four_loops(kept / np.linalg.norm(pooled), other_kept / np.linalg.norm(other_pooled), lambda x: x)
            for (kept, pooled), (other_kept, other_pooled) in sides(setting)
        ]
        yield setting.name, setting.ours(Stylianou()), torch.tensor(np.stack(found)).float()


def channel_weights(setting: Setting, pair: int) -> tuple[Array, Array]:
    """What each pooled channel of the query is multiplied by in the score; and these channels."""
    weight, bias = affine(setting.model.embedder.projection)
    (_, pooled), (_, other_pooled) = list(sides(setting))[pair]
    embedding, other = weight @ pooled + bias, weight @ other_pooled + bias
    if isinstance(setting.model.similarity, Cosine):
        towards = other / np.linalg.norm(embedding) / np.linalg.norm(other)
    else:
        towards = other - embedding if isinstance(setting.model.similarity, NegativeEuclidean) else other
    return weight.T @ towards, pooled


def weighted(setting: Setting, weights: list[Array]) -> Tensor:
    """sum_k weights_k A_k, channel by channel."""
    activations = array(setting.encoded.query.activations)
    found = [
        sum(w * channel for w, channel in zip(each, a, strict=True))
        for each, a in zip(weights, activations, strict=True)
    ]
    return torch.tensor(np.stack([np.asarray(each) for each in found])).float()


def cam() -> Iterator[Sides]:
    """W^T v as class weights."""
    for setting in smalls(Cosine(), Dot(), NegativeEuclidean()):
        weights = [channel_weights(setting, pair)[0] for pair in range(len(setting.pairs))]
        yield setting.name, setting.ours(CAM()), weighted(setting, weights)


def fam() -> Iterator[Sides]:
    """Channel shares scaled to [0, 1]."""
    for setting in smalls(Cosine(), Dot()):
        weights = []
        for pair in range(len(setting.pairs)):
            back, pooled = channel_weights(setting, pair)
            shares = back * pooled
            weights.append((shares - min(shares)) / (max(shares) - min(shares)))
        yield setting.name, setting.ours(FAM()), weighted(setting, weights)


COMPARISONS = (
    Comparison("zhu", "by definition", partial(zhu, rectify="pair")),
    Comparison("zhu", "by definition, rectify none", partial(zhu, rectify="none")),
    Comparison("zhu", "by definition, rectify map", partial(zhu, rectify="map")),
    Comparison("zhu", "by definition, bias spread", partial(zhu, rectify="pair", bias="spread")),
    Comparison("stylianou", "by definition", stylianou),
    Comparison("cam", "by definition", cam),
    Comparison("fam", "by definition", fam),
)
