"""Embed a gallery and ask how well it retrieves: leave-one-out over one set of images, exact, in chunks."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from sfam_bench.datasets.base import Dataset
from sfam_bench.errors import UserError
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.similarity import Gallery, Matrix, SimilarityFunction
from sfam_bench.stream import chunked, prefetched, progress

Labels = Int[Tensor, " items"]


def embed(model: SimilarityModel, dataset: Dataset, image_ids: Sequence[str], batch_size: int = 32) -> Gallery:
    """Embed images by id; (items, dims) on the CPU."""
    if not image_ids:
        raise UserError(f"no images of {dataset.name} to embed: the split is empty")

    def images(batch: Sequence[str]) -> Tensor:
        return torch.stack([dataset.sample(image_id).image for image_id in batch])

    chunks = list(chunked(image_ids, batch_size))
    stream = progress(prefetched(images, chunks), f"embed {dataset.name}", len(chunks), "batch")
    return torch.cat([model.encode(batch).embeddings.cpu() for batch in stream])


def neighbours(similarity: SimilarityFunction, gallery: Gallery, k: int, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """Scores and positions of the k nearest others of each item, (items, k), best first; ties: lower position first."""
    scores, positions = [], []
    for start in range(0, len(gallery), chunk):
        rows = _without_self(similarity.matrix(gallery[start : start + chunk], gallery), start)
        # a stable sort, since topk leaves the order of ties open
        order = rows.argsort(dim=1, descending=True, stable=True)[:, :k]
        scores.append(rows.gather(1, order))
        positions.append(order)
    return torch.cat(scores), torch.cat(positions)


def _without_self(scores: Matrix, start: int) -> Matrix:
    rows = torch.arange(len(scores))
    scores[rows, rows + start] = -torch.inf
    return scores


def retrieval(
    similarity: SimilarityFunction, gallery: Gallery, labels: Labels, recall_at: Sequence[int] = (1, 2, 4, 8)
) -> dict[str, int | float]:
    """Leave-one-out recall@k, R-precision, MAP@R (Musgrave et al., ECCV 2020), without items alone in their class."""
    others = (labels[:, None] == labels).sum(dim=1) - 1
    deepest = min(max(int(others.max()), *recall_at), len(labels) - 1)
    _, positions = neighbours(similarity, gallery, deepest)
    hits = labels[positions] == labels[:, None]
    kept = others > 0
    if not kept.any():
        raise UserError("no class has two images: retrieval needs at least one pair")
    hits, others = hits[kept], others[kept]
    within = torch.arange(deepest) < others[:, None]
    precision = hits.cumsum(dim=1) / torch.arange(1, deepest + 1)
    measures: dict[str, Callable[[], Tensor]] = {
        **{f"recall_at_{k}": (lambda k=k: hits[:, :k].any(dim=1)) for k in recall_at},  # type: ignore[misc]
        "r_precision": lambda: (hits & within).sum(dim=1) / others,
        "map_at_r": lambda: (precision * hits * within).sum(dim=1) / others,
    }
    return {"count": int(kept.sum()), **{name: float(measure().double().mean()) for name, measure in measures.items()}}
