"""Embed a gallery and measure its retrieval, leave-one-out over one set of images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.core.similarity import Gallery, SimilarityFunction
from sfam_bench.core.stream import prefetch, progress, split_chunks
from sfam_bench.datasets.base import CAMERA, ROLES, Dataset, roles
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.retrieval.search import Engine, Roles, search

Labels = Int[Tensor, " items"]
RECALL_AT = (1, 2, 4, 8)
AT_ONCE = 2**22  # scores held at a time
FOUND = ("rank", "lead", "average_precision")  # the columns of `Catalogue.find`
TIE = 1e-6  # share of the largest score by which float32 products of equal items may differ


def embed(model: SimilarityModel, dataset: Dataset, image_ids: Sequence[str], batch_size: int = 32) -> Gallery:
    """Embed images by id; returns (items, dims) on the CPU."""
    if not image_ids:
        raise UserError(f"no images of {dataset.name} to embed: the split is empty")

    def images(batch: Sequence[str]) -> Tensor:
        return torch.stack([dataset.sample(image_id).image for image_id in batch])

    chunks = list(split_chunks(image_ids, batch_size))
    stream = progress(prefetch(images, chunks), f"embed {dataset.name}", len(chunks), "batch")
    return torch.cat([model.encode(batch).embeddings.cpu() for batch in stream])


def roles_of(dataset: Dataset, image_ids: Sequence[str]) -> Roles | None:
    """Return which of these images are queries and which are searched; None if the data set has no roles."""
    if not set(ROLES) & set(dataset.index):
        return None
    index = dataset.index.loc[list(image_ids)]
    queries, searched = map(torch.tensor, roles(index))
    cameras = torch.tensor(index[CAMERA].to_numpy(dtype=int)) if CAMERA in index else None
    return Roles(queries, searched, cameras)


def per_item(
    similarity: SimilarityFunction,
    gallery: Gallery,
    labels: Labels,
    recall_at: Sequence[int] = RECALL_AT,
    engine: Engine = "torch",
    roles: Roles | None = None,
) -> pd.DataFrame:
    """Leave-one-out recall@k, R-precision and MAP@R (Musgrave et al., ECCV 2020) of each item, indexed by position.

    With `roles`, of each query among the searched items, without those of its class and camera if cameras are known
    (Zheng et al., ICCV 2015). Items without another searched item of their class are absent.
    """
    if not recall_at or min(recall_at) < 1:
        raise UserError(f"recall_at is {list(recall_at)}: give one or more positive integers")
    recall_at = [*dict.fromkeys(recall_at)]
    every = torch.ones_like(labels, dtype=torch.bool)
    queries, searched = (every, every) if roles is None else (roles.queries, roles.searched)
    _, group = labels.unique(return_inverse=True)
    found_in = labels[searched]
    place, left_out = None, searched.long()  # only itself
    if roles is not None and roles.cameras is not None:
        _, place = torch.stack([group, roles.cameras.to(group.device)]).unique(dim=1, return_inverse=True)
        left_out = torch.bincount(place[searched], minlength=int(place.max()) + 1)[place]
    others = (torch.bincount(group[searched], minlength=int(group.max()) + 1)[group] - left_out)[queries]
    if not (others > 0).any():
        raise UserError("no class has two images: retrieval needs a query and another image of its class")
    alone = int((queries & ~searched).any())  # a query outside the gallery may find all of it
    more = 0 if place is None else int(left_out[queries].max())
    deepest = min(max(int(others.max()), *recall_at) + more, len(found_in) - 1 + alone)
    own = None if roles is None else roles.own.to(labels.device)
    depths = torch.arange(1, deepest + 1, device=labels.device)
    columns = [*(f"recall_at_{k}" for k in recall_at), "r_precision", "map_at_r"]
    values, wanted = torch.empty(len(others), len(columns), dtype=torch.float64), labels[queries]
    start = 0
    for _, positions in search(similarity, gallery, deepest, engine=engine, roles=roles):
        rows, positions = slice(start, start + len(positions)), positions.to(labels.device)
        hits = found_in[positions] == wanted[rows, None]
        if own is not None:
            hits &= (positions != own[rows, None]) & (positions >= 0)
        if place is not None:
            same = (place[searched][positions] == place[queries][rows, None]) & (positions >= 0)
            hits = (hits & ~same).gather(1, same.byte().argsort(dim=1, stable=True))  # those left out go last
        within = hits & (depths <= others[rows, None])
        precision = within.cumsum(dim=1) / depths.double() * within
        found = [*(hits[:, :k].any(dim=1) for k in recall_at), *(each.sum(dim=1) for each in (within, precision))]
        values[rows] = torch.stack([column.double() for column in found], dim=1).cpu()
        start = rows.stop
    values[:, -2:] /= others[:, None].cpu()
    places = queries.nonzero()[:, 0].cpu().numpy()
    return pd.DataFrame(values.numpy(), columns=columns, index=places)[(others > 0).cpu().numpy()]


def retrieval(
    similarity: SimilarityFunction,
    gallery: Gallery,
    labels: Labels,
    recall_at: Sequence[int] = RECALL_AT,
    nmi: bool = False,
    engine: Engine = "torch",
    roles: Roles | None = None,
) -> dict[str, int | float]:
    """Means of `per_item` and the number of items; with `nmi` also `cluster_agreement`, which is slow."""
    means = average_retrieval(per_item(similarity, gallery, labels, recall_at, engine, roles))
    return {**means, "nmi": cluster_agreement(similarity, gallery, labels)} if nmi else means


def average_retrieval(items: pd.DataFrame) -> dict[str, int | float]:
    """The number of items and the means of the columns of `per_item`."""
    return {"count": len(items), **{str(name): float(values.mean()) for name, values in items.items()}}


def cluster_agreement(similarity: SimilarityFunction, gallery: Gallery, labels: Labels, seed: int = 0) -> float:
    """NMI between classes and as many k-means clusters, normalised by their mean entropy (Song et al., CVPR 2016).

    Clusters are found by k-means++ (Arthur and Vassilvitskii, 2007) with one start on the keys of the similarity.
    """
    from sklearn.cluster import KMeans  # takes two seconds to import
    from sklearn.metrics import normalized_mutual_info_score

    keys = similarity.keys(gallery).cpu().numpy()
    clusters = KMeans(len(labels.unique()), n_init=1, random_state=seed).fit_predict(keys)
    return float(normalized_mutual_info_score(labels.cpu().numpy(), clusters))


@dataclass(frozen=True, eq=False)
class Catalogue:
    """An embedded gallery with ids and class labels of its items; `roles` selects the queries and searched items."""

    embeddings: Gallery
    labels: Labels
    ids: tuple[str, ...]
    roles: Roles | None = None
    scaled: dict[SimilarityFunction, Gallery] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.embeddings) == len(self.labels) == len(self.ids):
            sizes = f"{len(self.embeddings)} embeddings, {len(self.labels)} labels and {len(self.ids)} ids"
            raise UserError(f"a gallery needs one label and one id for each embedding, not {sizes}")
        if len(self.places) < len(self.ids):
            twice = next(name for place, name in enumerate(self.ids) if self.places[name] != place)
            raise UserError(f"the gallery holds {twice} twice: give each image an id of its own")
        if not (whole := self.embeddings.isfinite().all(dim=1)).all():
            raise UserError(
                f"the embedding of {self.ids[int((~whole).nonzero()[0])]} holds NaN or infinity: embed it again"
            )

    def to(self, device: torch.device) -> "Catalogue":
        """Copy to a device."""
        return Catalogue(self.embeddings.to(device), self.labels.to(device), self.ids, self.roles)

    def check_width(self, embeddings: Gallery) -> None:
        """Raise UserError where embeddings have other dimensions than those of the gallery."""
        ours, given = self.embeddings.shape[1], embeddings.shape[1]
        if ours != given:
            raise UserError(
                f"the gallery has embeddings of {ours} dimensions and the model {given}: embed it with this model"
            )

    @cached_property
    def places(self) -> dict[str, int]:
        """The position of each id."""
        return {image_id: place for place, image_id in enumerate(self.ids)}

    def place(self, image_id: str) -> int:
        """The position of an id; UserError if it is not in the gallery."""
        if image_id not in self.places:
            raise UserError(f"{image_id} is not in the gallery: embed the images of all pairs, not {len(self.ids)}")
        return self.places[image_id]

    def keys(self, similarity: SimilarityFunction) -> Gallery:
        """The keys of the embeddings for a similarity, computed once."""
        if similarity not in self.scaled:
            self.scaled[similarity] = similarity.keys(self.embeddings)
        return self.scaled[similarity]

    def others(self, query: str) -> Bool[Tensor, " items"]:
        """The items that a query is ranked against: all searched items except itself."""
        others = torch.ones_like(self.labels, dtype=torch.bool)
        if self.roles is not None:
            others &= self.roles.searched.to(others.device)
        if self.roles is not None and self.roles.cameras is not None:
            cameras, place = self.roles.cameras.to(others.device), self.place(query)
            others &= (cameras != cameras[place]) | (self.labels != self.labels[place])
        others[self.place(query)] = False
        return others

    def find_places(self, image_ids: Sequence[str]) -> Labels:
        """The positions of several ids."""
        return torch.tensor([self.place(image_id) for image_id in image_ids], device=self.labels.device)

    def find(
        self, similarity: SimilarityFunction, versions: Gallery, query: str, reference: str
    ) -> Float[Tensor, "items measures"]:
        """Retrieval of versions of one query, which is excluded itself; ties, up to rounding, count against.

        Columns: rank of the reference, from 1; lead of the nearest item of the query's class over the nearest other
        item, in units of the score, positive if recall@1 is 1; average precision over the items of the query's class.
        The last two are NaN for a query without others of its class; without other classes the lead is infinite.
        """
        wanted = self.place(reference)
        ranked, alike = self.others(query), self.labels == self.labels[self.place(query)]
        own, others = ranked & alike, ranked & ~alike
        keys, found = self.keys(similarity), []
        for part in similarity.keys(versions).split(max(1, AT_ONCE // len(self.ids))):
            scores = similarity.compare(part, keys)
            rounding = TIE * scores.abs().amax(dim=1, keepdim=True)
            scores[:, ~ranked] = -torch.inf
            rank = (scores >= scores[:, [wanted]] - rounding).sum(dim=1).to(scores.dtype)
            if not own.any():
                missing = torch.full_like(rank, torch.nan)
                found.append(torch.stack([rank, missing, missing], dim=1))
                continue
            nearest = scores[:, own]
            rest = scores[:, others].amax(dim=1) if others.any() else torch.full_like(rank, -torch.inf)
            lead = nearest.amax(dim=1) - rest
            lead = torch.where(lead.abs() <= rounding[:, 0], 0, lead)
            above_own, above_all = (
                row.shape[1] - torch.searchsorted(row.sort(dim=1).values, nearest - rounding)
                for row in (nearest, scores)
            )
            precision = (above_own / above_all).to(scores.dtype).mean(dim=1)
            found.append(torch.stack([rank, lead, precision], dim=1))
        return torch.cat(found)
