"""Exact nearest neighbours within a gallery, each item excluded from its own, in bounded memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.core.similarity import Gallery, Matrix, ProductForm, SimilarityFunction
from sfam_bench.core.types import Embeddings

Engine: TypeAlias = Literal["torch", "faiss"]
Nearest: TypeAlias = tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]  # scores and positions, best first

AT_ONCE = 2**24  # scores held at a time: 64 MiB in float32
FAISS_ROWS = 2048  # queries per call of faiss, which holds few scores; a few hundred would take three times as long


def neighbours(
    similarity: SimilarityFunction, gallery: Gallery, k: int, chunk: int | None = None, engine: Engine = "torch"
) -> Nearest:
    """Scores and positions of the k nearest others of each item, (items, k), best first; ties by position."""
    scores, positions = zip(*search(similarity, gallery, k, chunk, engine), strict=True)
    return torch.cat(scores), torch.cat(positions)


@dataclass(frozen=True, eq=False)
class Roles:
    """Which items of a gallery are queries and which are searched, (items,) each.

    With `cameras`, items of one class and camera are no answers to each other; measures leave them out, not `search`.
    """

    queries: Bool[Tensor, " items"]
    searched: Bool[Tensor, " items"]
    cameras: Int[Tensor, " items"] | None = None

    @property
    def own(self) -> Int[Tensor, " queries"]:
        """The position of each query among the searched items, or -1."""
        places = torch.where(self.searched, self.searched.cumsum(0) - 1, -1)
        return places[self.queries]


def search(
    similarity: SimilarityFunction,
    gallery: Gallery,
    k: int,
    chunk: int | None = None,
    engine: Engine = "torch",
    roles: Roles | None = None,
) -> Iterator[Nearest]:
    """Yield the `neighbours` of chunks of items; by default chunks are as large as memory allows.

    With `roles`, of the queries among the searched items, with positions among these; if a query has fewer than k
    others, its last position is -1 or its own. Of items that tie for place k, torch keeps the first ones, faiss (Douze
    et al., 2024) any.
    """
    items = len(gallery) if roles is None else int(roles.searched.sum()) + 1
    if not 1 <= k < items:
        raise UserError(f"{k} neighbours of each of {items} items: choose at least 1 and at most {items - 1}")
    finite = gallery.isfinite().all(dim=1)
    if not finite.all():
        broken = (~finite).nonzero()[:, 0].tolist()
        raise UserError(
            f"{len(broken)} of {len(gallery)} embeddings hold NaN or infinity (first: item {broken[0]}): "
            "train again with a lower learning rate, or embed again"
        )
    keys = similarity.keys(gallery)
    with_faiss = _faiss(similarity) if engine == "faiss" else None
    size = chunk or (FAISS_ROWS if with_faiss else max(1, AT_ONCE // len(gallery)))
    query_keys, places = keys, torch.arange(len(keys))
    if roles is not None:
        query_keys, keys, places = keys[roles.queries.to(keys.device)], keys[roles.searched.to(keys.device)], roles.own
    for queries, own in zip(query_keys.split(size), places.to(keys.device).split(size), strict=True):
        if with_faiss:
            yield _drop_own(own, *with_faiss(queries, keys, k + 1))
        else:
            scores = similarity.compare(queries, keys)
            rows = (own >= 0).nonzero()[:, 0]
            scores[rows, own[rows]] = -torch.inf
            yield find_greatest(scores, k)


def find_greatest(scores: Matrix, k: int) -> Nearest:
    """The k greatest of at least k columns and their positions, greatest first; of equal ones the first columns."""
    if scores.shape[1] == k:
        return _sort(scores, torch.arange(k, device=scores.device).expand(len(scores), k))
    found = scores.topk(k + 1, dim=1)  # undefined order and selection of ties
    positions, least = found.indices[:, :k], found.values[:, k - 1 : k]
    tied = found.values[:, k] == least[:, 0]
    if tied.any():
        positions[tied] = _first_positions(scores[tied], least[tied], k)
    return _sort(scores.gather(1, positions), positions)


def _first_positions(scores: Matrix, least: Float[Tensor, "batch 1"], k: int) -> Int[Tensor, "batch k"]:
    """Positions of the k greatest, given the least of them: all above it, and the first ones equal to it."""
    above, equal = scores > least, scores == least
    room = k - above.sum(dim=1, keepdim=True)
    equal &= equal.cumsum(dim=1, dtype=torch.int32) <= room
    return (above | equal).nonzero()[:, 1].view(-1, k)


def _sort(scores: Tensor, positions: Tensor) -> Nearest:
    """Sort best first, ties by position."""
    positions, by_position = positions.sort(dim=1)
    scores, by_score = scores.gather(1, by_position).sort(dim=1, descending=True, stable=True)
    return scores, positions.gather(1, by_score)


def _drop_own(own: Int[Tensor, " batch"], scores: Tensor, positions: Tensor) -> Nearest:
    """Remove the item itself from its neighbours, or the last one if equal items have displaced it."""
    dropped = positions == own[:, None]
    dropped[~dropped.any(dim=1), -1] = True
    rows = len(own)
    return _sort(scores[~dropped].view(rows, -1), positions[~dropped].view(rows, -1))


def _faiss(similarity: SimilarityFunction) -> Callable[[Embeddings, Gallery, int], tuple[Tensor, Tensor]]:
    """Return faiss's exact search for the k nearest of each query, both given as keys."""
    try:
        import faiss
    except ImportError as error:
        raise UserError("engine=faiss needs faiss: pip install '.[faiss]' in the clone, or set engine=torch") from error
    if not isinstance(similarity, ProductForm):
        raise UserError(f"faiss does not know the similarity {similarity.name}: set engine=torch")
    metric, sign = (faiss.METRIC_INNER_PRODUCT, 1)
    if similarity.is_distance:
        metric, sign = (faiss.METRIC_L2, -1)  # squared, as ours

    def nearest(queries: Embeddings, keys: Gallery, k: int) -> tuple[Tensor, Tensor]:
        scores, positions = faiss.knn(queries.float().cpu().numpy(), keys.float().cpu().numpy(), k, metric=metric)
        return sign * torch.from_numpy(scores).to(keys.device), torch.from_numpy(positions).to(keys.device)

    return nearest
