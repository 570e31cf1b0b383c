"""Losses of few-shot learning: on episodes (prototypes, matching), and on all classes (Baseline, Baseline++)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sfam_bench.core.errors import UserError, check_range
from sfam_bench.core.ranges import Count, Positive
from sfam_bench.core.similarity import Cosine, SimilarityFunction
from sfam_bench.core.types import Embeddings
from sfam_bench.training.recipe import Recipe

Classes = Int[Tensor, " batch"]
Positions = Int[Tensor, "ways shots"]


def check_episodes(criterion: nn.Module, recipe: Recipe) -> None:
    """Raise UserError if a loss that compares queries with supports would not be trained on episodes."""
    shots = getattr(criterion, "shots", 0)
    if shots and not recipe.episodes:
        raise UserError("this loss compares queries with supports: choose recipe=episodes, or set train.episodes")
    if shots and shots >= recipe.per_class:
        raise UserError(
            f"train.per_class={recipe.per_class} leaves no query beside loss.criterion.shots={shots}: set it to the "
            "supports and queries of a class"
        )


def split_supports(classes: Classes, shots: int) -> tuple[Positions, Int[Tensor, " queries"], Int[Tensor, " queries"]]:
    """Positions of the first `shots` items of each class, positions of the others, and their rows in the first.

    Raises UserError if a class has no more than `shots` items.
    """
    numbers, of_class = classes.unique(return_inverse=True)
    alike = of_class[:, None] == of_class[None, :]
    place = alike.tril(-1).sum(dim=1)  # how many items of the class stand before
    if int(alike.sum(dim=1).min()) <= shots:
        raise UserError(
            f"a class of the batch has {int(alike.sum(dim=1).min())} images, {shots} of them supports: "
            "raise train.per_class"
        )
    support = (place < shots).nonzero()[:, 0]
    support = support[of_class[support].argsort(stable=True)].view(len(numbers), shots)
    query = (place >= shots).nonzero()[:, 0]
    return support, query, of_class[query]


class PrototypeLoss(nn.Module):
    """Cross-entropy of queries by scale * similarity(query, prototype); a prototype is the mean of `shots` embeddings.

    ProtoNet (Snell et al., NeurIPS 2017): similarity negative_euclidean, scale 1, embeddings as they are. Meta-Baseline
    (Chen et al., ICCV 2021): cosine, and a scale that is learnt.
    """

    def __init__(
        self, shots: Count, similarity: SimilarityFunction, scale: Positive = 1.0, learn_scale: bool = False
    ) -> None:
        super().__init__()
        check_range("loss.criterion.shots", shots, Count)
        self.shots, self.similarity = shots, similarity
        self.scale = nn.Parameter(torch.tensor(float(scale)), requires_grad=learn_scale)

    def forward(self, embeddings: Embeddings, classes: Classes) -> Float[Tensor, ""]:
        support, query, answers = split_supports(classes, self.shots)
        scores = self.similarity.matrix(embeddings[query], embeddings[support].mean(dim=1))
        return nn.functional.cross_entropy(self.scale * scores, answers)


class MatchingLoss(nn.Module):
    """Negative log-probability of the query's class among the supports: softmax of scale * cosine, summed by class.

    Vinyals et al., NeurIPS 2016, without full-context embeddings; Chen et al. (ICLR 2019) scale by 100.
    """

    def __init__(self, shots: Count, scale: Positive = 100.0) -> None:
        super().__init__()
        check_range("loss.criterion.shots", shots, Count)
        self.shots, self.scale = shots, scale

    def forward(self, embeddings: Embeddings, classes: Classes) -> Float[Tensor, ""]:
        support, query, answers = split_supports(classes, self.shots)
        scores = self.scale * Cosine().matrix(embeddings[query], embeddings[support.flatten()])
        by_class = scores.view(len(query), *support.shape).logsumexp(dim=2)
        return nn.functional.cross_entropy(by_class, answers)


class LinearClassifier(nn.Module):
    """Cross-entropy of a linear classifier of all training classes: Baseline (Chen et al., ICLR 2019)."""

    def __init__(self, num_classes: Count, embedding_size: Count) -> None:
        super().__init__()
        self.classifier = nn.Linear(embedding_size, num_classes)

    def forward(self, embeddings: Embeddings, classes: Classes) -> Float[Tensor, ""]:
        return nn.functional.cross_entropy(self.classifier(embeddings), classes)


class CosineClassifier(nn.Module):
    """Cross-entropy of scale * norm_k * cosine(embedding, weight_k): Baseline++ (Chen et al., ICLR 2019).

    The norms are learnt, as in the authors' code, which scales by 2 up to 200 classes and by 10 beyond.
    """

    def __init__(self, num_classes: Count, embedding_size: Count, scale: Positive = 2.0) -> None:
        super().__init__()
        self.scale = scale
        self.weights = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(num_classes, embedding_size), a=5**0.5))
        self.norms = nn.Parameter(self.weights.detach().norm(dim=1))

    def forward(self, embeddings: Embeddings, classes: Classes) -> Float[Tensor, ""]:
        return nn.functional.cross_entropy(self.scale * self.norms * Cosine().matrix(embeddings, self.weights), classes)
