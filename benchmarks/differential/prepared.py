"""Methods that need training images, beside loops written from their definitions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor, nn

from benchmarks.differential.comparison import Comparison, Sides
from benchmarks.differential.gradient_cams import raw_grad_cam
from benchmarks.differential.settings import Setting, resnet18
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean
from sfam_bench.core.types import Activations, Embeddings, Images, RawMaps
from sfam_bench.explainers.embedding_cam import EmbeddingCAM
from sfam_bench.explainers.shared.prepare import Bank
from sfam_bench.explainers.weight_transfer import WeightTransfer
from sfam_bench.models.similarity_model import Embedder, SimilarityModel

LABELS = (0, 0, 1, 1, 1, 2)


@cache
def training() -> Images:
    """Six images of three classes."""
    return torch.rand(len(LABELS), 3, 96, 64, generator=torch.Generator().manual_seed(5))


def bank(setting: Setting) -> Bank:
    """What our methods are given."""
    return Bank.of(setting.model, training(), torch.tensor(LABELS))


def two() -> Iterator[Setting]:
    """The last feature map and an earlier one, under two similarities."""
    yield resnet18(None, Cosine())
    yield resnet18("layer3", NegativeEuclidean())


def embedding_cam(setting: Setting) -> RawMaps:
    """Our maps."""
    return setting.ours(EmbeddingCAM(relu=False).prepare(setting.model, bank(setting)))


def raw(setting: Setting) -> SimilarityModel:
    """The model without L2, compared by the dot product."""
    embedder = setting.model.embedder
    plain = Embedder(embedder.pooling, embedder.projection, embedder.tail, normalise=False)
    return SimilarityModel(setting.model.trunk, plain, Dot()).eval()


def proxies(setting: Setting) -> Embeddings:
    """For each reference the direction of the class mean that the model scores highest, one by one."""
    with torch.no_grad():
        every = torch.cat([setting.model(image[None]) for image in training()])
        groups = [[e for e, label in zip(every, LABELS, strict=True) if label == k] for k in sorted(set(LABELS))]
        means = [torch.stack(group).mean(dim=0) for group in groups]
        scores = [[float(setting.model.similarity(r[None], m[None])) for m in means] for r in setting.references]
    chosen = [means[row.index(max(row))] for row in scores]
    return torch.stack([mean / mean.norm() for mean in chosen])


def embedding_cam_loop() -> Iterator[Sides]:
    """One backward pass a query, from images on, as its re-implementation does."""
    for setting in two():
        network, maps = raw(setting), []
        for image, proxy in zip(setting.pairs.query, proxies(setting), strict=True):
            activations = network.trunk(image[None])
            torch.dot(network.embedder(activations)[0], proxy).backward(inputs=[activations])
            weights = nn.functional.adaptive_avg_pool2d(activations.grad, 1)
            maps.append((weights * activations).sum(dim=1).detach())
        yield setting.name, embedding_cam(setting), torch.cat(maps)


def embedding_cam_peer() -> Iterator[Sides]:
    """pytorch-grad-cam with the class means for references."""
    for setting in two():
        network = raw(setting)
        (term,) = setting.encoded.terms
        terms = (replace(term, side=replace(term.side, embeddings=proxies(setting))),)
        dotted = Setting(setting.name, network, setting.pairs, replace(setting.encoded, terms=terms))
        trunk = network.trunk
        assert isinstance(trunk, nn.Sequential)
        theirs = raw_grad_cam("GradCAM", network, trunk[1], setting.pairs.query, dotted)
        yield setting.name, embedding_cam(setting), theirs


def triplets(anchor: int) -> list[tuple[int, int, int]]:
    """All triplets of an anchor: (anchor, positive, negative)."""
    numbers = range(len(LABELS))
    positives = [k for k in numbers if k != anchor and LABELS[k] == LABELS[anchor]]
    return [(anchor, p, n) for p in positives for n in numbers if LABELS[n] != LABELS[anchor]]


@dataclass(frozen=True)
class Known:
    """A model, with activations and embeddings of the training images, one by one."""

    model: SimilarityModel
    activations: Activations
    embeddings: Embeddings


def known(model: SimilarityModel) -> Known:
    """The training images through a model."""
    with torch.no_grad():
        activations = torch.cat([model.trunk(image[None]) for image in training()])
        return Known(model, activations, torch.cat([model.embedder(one[None]) for one in activations]))


def loss_weights(known: Known, anchor: int, margin: float) -> Tensor | None:
    """Minus the channel weights of the triplet loss of one training image, a backward pass a triplet."""
    others, found = known.embeddings, []
    for _, positive, negative in triplets(anchor):
        one = known.activations[anchor : anchor + 1].clone().requires_grad_()
        e = known.model.embedder(one)[0]
        loss = ((e - others[positive]) ** 2 - (e - others[negative]) ** 2).sum() + margin
        if loss > 0:
            (gradient,) = torch.autograd.grad(loss, one)
            found.append(-gradient.mean(dim=(2, 3))[0])
    return torch.stack(found).mean(dim=0) if found else None


def library_weights(known: Known, anchor: int, margin: float) -> Tensor | None:
    """The same of pytorch-metric-learning's loss, which averages over triplets with a loss by default."""
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import TripletMarginLoss

    one = known.activations[anchor : anchor + 1].clone().requires_grad_()
    mine = torch.arange(len(LABELS))[:, None] == anchor
    embeddings = torch.where(mine, known.model.embedder(one), known.embeddings)
    chosen = tuple(torch.tensor(triplets(anchor), dtype=torch.long).reshape(-1, 3).unbind(dim=1))
    squared = LpDistance(normalize_embeddings=False, p=2, power=2)
    loss = TripletMarginLoss(margin, distance=squared)(embeddings, torch.tensor(LABELS), chosen)
    if not loss.item() > 0:
        return None
    (gradient,) = torch.autograd.grad(loss, one)
    weights: Tensor = -gradient.mean(dim=(2, 3))[0]
    return weights


def weight_transfer(theirs: Callable[[Known, int, float], Tensor | None]) -> Iterator[Sides]:
    """Every triplet with a loss, and the nearest training image that has any, one query at a time."""
    for setting in two():
        trained, similarity = known(setting.model), setting.model.similarity
        for margin in (0.0, 0.2):
            kept = {k: found for k in range(len(LABELS)) if (found := theirs(trained, k, margin)) is not None}
            maps = []
            for activations, e in zip(setting.encoded.query.activations, setting.encoded.query.embeddings, strict=True):
                scores = {k: similarity(e[None], trained.embeddings[k][None]).item() for k in kept}
                weights = kept[max(scores, key=lambda k: scores[k])]
                maps.append((weights[:, None, None] * activations).sum(dim=0))
            ready = WeightTransfer(triplets=1000, margin=margin, relu=False).prepare(setting.model, bank(setting))
            yield f"{setting.name}, margin {margin}", setting.ours(ready), torch.stack(maps)


COMPARISONS = (
    Comparison("embedding_cam", "by definition", embedding_cam_loop),
    Comparison(
        "embedding_cam",
        "grad-cam GradCAM, class means for references, dot product without L2",
        embedding_cam_peer,
        package="pytorch_grad_cam",
    ),
    Comparison("weight_transfer", "by definition", partial(weight_transfer, loss_weights)),
    Comparison(
        "weight_transfer",
        "pytorch-metric-learning TripletMarginLoss, differentiated",
        partial(weight_transfer, library_weights),
        package="pytorch_metric_learning",
    ),
)
