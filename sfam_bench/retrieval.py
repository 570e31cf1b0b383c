"""Embed a gallery and ask how well it retrieves: leave-one-out over one set of images, exact, in chunks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfam_bench.datasets.base import Dataset
from sfam_bench.errors import UserError
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.similarity import Gallery, Matrix, SimilarityFunction
from sfam_bench.stream import chunked, prefetched, progress

Labels = Int[Tensor, " items"]
FOUND = ("rank", "lead", "average_precision")  # the columns of `Catalogue.find`
AT_ONCE = 2**22  # scores that are held at a time
TIE = 1e-6  # of the largest score: by so much do products in float32 tell equal items apart


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


@dataclass(frozen=True, eq=False)
class Catalogue:
    """An embedded gallery with the ids and class labels of its items."""

    embeddings: Gallery
    labels: Labels
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.embeddings) == len(self.labels) == len(self.ids):
            sizes = f"{len(self.embeddings)} embeddings, {len(self.labels)} labels and {len(self.ids)} ids"
            raise UserError(f"a gallery needs one label and one id for each embedding, not {sizes}")

    def to(self, device: torch.device) -> "Catalogue":
        """The same, there."""
        return Catalogue(self.embeddings.to(device), self.labels.to(device), self.ids)

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each id stands."""
        return {image_id: place for place, image_id in enumerate(self.ids)}

    def place(self, image_id: str) -> int:
        """Where an id stands; UserError where it does not."""
        if image_id not in self.places:
            raise UserError(f"{image_id} is not in the gallery: embed the images of all pairs, not {len(self.ids)}")
        return self.places[image_id]

    def find_places(self, image_ids: Sequence[str]) -> Labels:
        """Where several stand."""
        return torch.tensor([self.place(image_id) for image_id in image_ids], device=self.labels.device)

    def find(
        self, similarity: SimilarityFunction, versions: Gallery, query: str, reference: str
    ) -> Float[Tensor, "items found"]:
        """How versions of one query retrieve, the query itself left out; ties count against, up to rounding.

        Columns: rank of the reference, 1 first; lead of the nearest item of the query's class over the nearest other,
        in units of the score, positive where recall@1 holds; average precision over the items of the query's class.
        The last two are NaN for a query alone in its class, and a class alone in the gallery leads by infinity.
        """
        left_out, wanted = self.place(query), self.place(reference)
        own = self.labels == self.labels[left_out]
        own[left_out] = False
        others = self.labels != self.labels[left_out]
        found = []
        for part in versions.split(max(1, AT_ONCE // len(self.ids))):
            scores = similarity.matrix(part, self.embeddings)
            rounding = TIE * scores.abs().amax(dim=1, keepdim=True)
            scores[:, left_out] = -torch.inf
            rank = (scores >= scores[:, [wanted]] - rounding).sum(dim=1).to(scores.dtype)
            if not own.any():
                nothing = torch.full_like(rank, torch.nan)
                found.append(torch.stack([rank, nothing, nothing], dim=1))
                continue
            alike = scores[:, own]
            rest = scores[:, others].amax(dim=1) if others.any() else torch.full_like(rank, -torch.inf)
            lead = alike.amax(dim=1) - rest
            lead = torch.where(lead.abs() <= rounding[:, 0], 0, lead)
            above_own, above_all = (
                row.shape[1] - torch.searchsorted(row.sort(dim=1).values, alike - rounding) for row in (alike, scores)
            )
            precision = (above_own / above_all).to(scores.dtype).mean(dim=1)
            found.append(torch.stack([rank, lead, precision], dim=1))
        return torch.cat(found)
