"""Embed a gallery and ask how well it retrieves: leave-one-out over one set of images, exact, in chunks."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from sfam_bench.datasets.base import Dataset
from sfam_bench.errors import UserError
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.similarity import Gallery, Matrix, SimilarityFunction

T = TypeVar("T")
Labels = Int[Tensor, " items"]


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut a stream into lists of `size`, the last one shorter."""
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk


def load_images(dataset: Dataset, image_ids: Sequence[str], batch_size: int, ahead: int = 2) -> Iterator[Tensor]:
    """Batches of images, decoded by threads `ahead` batches before their use."""
    with ThreadPoolExecutor(ahead) as pool:
        pending: deque[Future[Tensor]] = deque()
        for batch in chunked(image_ids, batch_size):
            pending.append(pool.submit(_stack, dataset, batch))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _stack(dataset: Dataset, image_ids: Sequence[str]) -> Tensor:
    return torch.stack([dataset.sample(image_id).image for image_id in image_ids])


def embed(model: SimilarityModel, dataset: Dataset, image_ids: Sequence[str], batch_size: int = 32) -> Gallery:
    """Embed images by id; (items, dims) on the CPU."""
    if not image_ids:
        raise UserError(f"no images of {dataset.name} to embed: the split is empty")
    batches = tqdm(
        load_images(dataset, image_ids, batch_size),
        f"embed {dataset.name}",
        -(-len(image_ids) // batch_size),
        unit="batch",
    )
    return torch.cat([model.encode(images).embeddings.cpu() for images in batches])


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
) -> dict[str, float]:
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
