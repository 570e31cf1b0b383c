"""References as they are given: one image for each query, several images that form a prototype, or a vector."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.similarity import Gallery, SimilarityFunction, norm
from sfam_bench.core.types import Embeddings, Images

Entries: TypeAlias = Int[Tensor, " entries"]  # an entry is one support of one reference
EntryShares: TypeAlias = Float[Tensor, " entries"]
EntryEmbeddings: TypeAlias = Float[Tensor, "entries dims"]


@dataclass(frozen=True)
class Prototype(Checked):
    """How the embeddings of several images become one reference.

    of: "mean" of the embeddings; "medoid", the image that is most similar to the others; "nearest", the image that is
        most similar to the query. The last two choose one image by the model's similarity, the first of equal ones.
    normalise: scale the embeddings to length one "before" the mean, the mean "after" it, "both", or "never" (Snell et
        al., NeurIPS 2017). Cosine ignores the scale after the mean; a model that ends in L2 has scaled before it.
    """

    of: Literal["mean", "medoid", "nearest"] = "mean"
    normalise: Literal["never", "before", "after", "both"] = "never"

    def shares(
        self, similarity: SimilarityFunction, query: Embeddings, supports: EntryEmbeddings, pairs: Entries
    ) -> EntryShares:
        """The share of each support: a reference is the sum of share * embedding over its entries; 0 is not chosen.

        Args:
            similarity: of the model.
            query: embeddings of the queries, (batch, dims).
            supports: the embedding of each entry, (entries, dims).
            pairs: the query that each entry belongs to.
        """
        if self.of == "mean":
            shares = 1 / pairs.bincount(minlength=len(query)).to(supports)[pairs]
        else:
            shares = self._choose(similarity, query, supports, pairs)
        if self.normalise in ("before", "both"):
            shares = shares / norm(supports)[:, 0]
        if self.normalise in ("after", "both"):
            whole = torch.zeros_like(query).index_add(0, pairs, supports * shares[:, None])
            shares = shares / norm(whole)[pairs, 0]
        return shares

    def _choose(
        self, similarity: SimilarityFunction, query: Embeddings, supports: EntryEmbeddings, pairs: Entries
    ) -> EntryShares:
        shares = torch.zeros_like(supports[:, 0])
        for pair in range(len(query)):
            own = (pairs == pair).nonzero()[:, 0]
            if self.of == "medoid":
                scores = similarity.matrix(supports[own], supports[own]).fill_diagonal_(0).sum(dim=0)
            else:
                scores = similarity(query[[pair]].expand(len(own), -1), supports[own])
            shares[own[scores.argmax()]] = 1
        return shares


MEAN = Prototype()


@dataclass(frozen=True)
class Supports:
    """Several images for each query, which form its reference; queries may share images.

    images: (supports, 3, rows, cols), RGB in [0, 1].
    members: for each query the rows of `images` that form its reference.
    ids: of the images.
    how: the embedding that represents them.

    Raises:
        UserError: if a query has no support, or one twice.
    """

    images: Images
    members: tuple[tuple[int, ...], ...]
    ids: tuple[str, ...]
    how: Prototype = MEAN

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.images):
            raise UserError(f"{len(self.images)} support images have {len(self.ids)} ids: give one for each")
        for rows in self.members:
            if not rows:
                raise UserError("a support set is empty: a reference needs at least one image")
            if len({*rows}) < len(rows) or not 0 <= min(rows) <= max(rows) < len(self.ids):
                raise UserError(f"the supports {list(rows)} are not different rows of {len(self.ids)} images")

    @property
    def entries(self) -> tuple[Entries, Entries]:
        """For each support of each query, the number of the query and the row of the image."""
        pairs = [pair for pair, rows in enumerate(self.members) for _ in rows]
        rows = [row for rows in self.members for row in rows]
        return torch.tensor(pairs, dtype=torch.long), torch.tensor(rows, dtype=torch.long)

    def check_queries(self, query_ids: Sequence[str]) -> None:
        """Raise UserError if the number of queries differs, or a query is among its own supports."""
        if len(query_ids) != len(self.members):
            raise UserError(f"{len(query_ids)} queries have {len(self.members)} support sets: give one for each")
        for query, rows in zip(query_ids, self.members, strict=True):
            if query in (self.ids[row] for row in rows):
                raise UserError(f"the query {query} is among its own supports: take it out of one of the two")


@dataclass(frozen=True)
class Vectors:
    """A vector of the embedding space for each query: a stored embedding, a class proxy, or a text embedding.

    embeddings: (batch, dims).

    Raises:
        UserError: if they are no table of numbers, or a vector is zero, or holds NaN or infinity.
    """

    embeddings: Embeddings

    def __post_init__(self) -> None:
        if not isinstance(self.embeddings, Tensor) or self.embeddings.ndim != 2:
            given = tuple(self.embeddings.shape) if isinstance(self.embeddings, Tensor) else type(self.embeddings)
            raise UserError(f"Vectors are a tensor (batch, dims), one row for each query, not {given}")
        object.__setattr__(self, "embeddings", self.embeddings.detach())  # weights of a layer need no gradient here
        for why, wrong in (
            ("holds NaN or infinity", ~self.embeddings.isfinite().all(dim=1)),
            ("is all zeros", (self.embeddings == 0).all(dim=1)),
        ):
            if wrong.any():
                raise UserError(f"reference vector {int(wrong.nonzero()[0, 0])} {why}: give another vector")


@dataclass(frozen=True, eq=False)
class NamedVectors:
    """Vectors of one embedding space by name; several of one name are the centres of one class.

    names: of the rows.
    vectors: (rows, dims).
    """

    names: tuple[str, ...]
    vectors: Gallery

    def __post_init__(self) -> None:
        if len(self.names) != len(self.vectors):
            raise UserError(f"{len(self.vectors)} vectors have {len(self.names)} names: give one for each")

    def of(self, names: Sequence[str]) -> Vectors:
        """One reference vector for each query, by name; UserError if a name is unknown or has several vectors."""
        places: dict[str, list[int]] = {}
        for place, name in enumerate(self.names):
            places.setdefault(name, []).append(place)
        for name in names:
            if name not in places:
                known = ", ".join([*places][:5])
                raise UserError(f"there is no vector of '{name}': known are {known}{' ...' if len(places) > 5 else ''}")
            if len(places[name]) > 1:
                raise UserError(f"'{name}' has {len(places[name])} centres: take `.mean()`, or give them other names")
        return Vectors(self.vectors[[places[name][0] for name in names]])

    def mean(self) -> "NamedVectors":
        """The mean of the vectors of each name, in order of first appearance."""
        codes, names = pd.factorize(pd.Series(self.names))
        rows = torch.from_numpy(codes).long()
        sums = self.vectors.new_zeros(len(names), self.vectors.shape[1]).index_add(0, rows, self.vectors)
        return NamedVectors(tuple(names), sums / rows.bincount()[:, None])


Given: TypeAlias = Images | Supports | Vectors  # images are one for each query
