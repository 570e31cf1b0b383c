"""The accuracy of few-shot classification over episodes."""

from collections.abc import Mapping, Sequence

from sfam_bench.core.similarity import Gallery, SimilarityFunction
from sfam_bench.datasets.base import Dataset
from sfam_bench.datasets.episodes import Episodes

NORMAL = 1.96  # of a 95 % interval


def episode_facts(
    episodes: Episodes, dataset: Dataset, similarity: SimilarityFunction, gallery: Gallery, image_ids: Sequence[str]
) -> dict[str, float | int]:
    """Ways, shots, number of episodes, mean accuracy, and half its 95 % interval over episodes (1.96 std / sqrt(n)).

    The embeddings of `image_ids` are the rows of `gallery`. The interval is of the draw of episodes from these classes,
    as in Chen et al. (ICLR 2019), and not of other classes.
    """
    found = episodes.accuracies(dataset, similarity, gallery, image_ids)
    half = NORMAL * float(found.std()) / len(found) ** 0.5 if len(found) > 1 else float("nan")
    sizes = {"ways": episodes.ways, "shots": episodes.shots, "count": len(found)}
    return {**sizes, "accuracy": float(found.mean()), "interval": half}


def describe_episodes(facts: Mapping[str, float | int]) -> str:
    """The facts in one line."""
    size = f"{facts['ways']}-way {facts['shots']}-shot"
    return f"{facts['count']} {size} episodes: accuracy {facts['accuracy']:.4f} ± {facts['interval']:.4f}"
