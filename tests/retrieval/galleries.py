"""Galleries that the tests of search and of retrieval share."""

from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st
from torch import Tensor

from sfam_bench.core.similarity import Cosine

# Five points on a line; items 0 and 1 are at one place, so every other item is as far from one as from the other.
LINE = torch.tensor([[0.0], [0.0], [1.0], [3.0], [4.5]])
# neighbours by -|x - y|, of equals the first
ORDER = [[1, 2, 3, 4], [0, 2, 3, 4], [0, 1, 3, 4], [4, 2, 0, 1], [3, 2, 0, 1]]


@st.composite
def galleries(draw: st.DrawFn) -> Tensor:
    """Small whole numbers, so that ties are many and scores exact."""
    items, dims = draw(st.integers(2, 12)), draw(st.integers(1, 4))
    values = draw(st.lists(st.integers(-3, 3), min_size=items * dims, max_size=items * dims))
    return torch.tensor(values, dtype=torch.float64).reshape(items, dims)


def drawn(size: int = 60, dims: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Normal embeddings of five classes."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(size, dims, generator=draw), torch.randint(5, (size,), generator=draw)


def tied(size: int = 90, classes: int = 9) -> tuple[Tensor, Tensor]:
    """Embeddings of small whole numbers, many of them equal, of classes that have nothing to do with them."""
    draw = torch.Generator().manual_seed(2)
    return torch.randint(-1, 2, (size, 3), generator=draw).float(), torch.randint(classes, (size,), generator=draw)


@dataclass(frozen=True)
class Counting(Cosine):
    """Cosine that writes down how many rows it was given."""

    scaled: list[int] = field(default_factory=list, compare=False)
    compared: list[int] = field(default_factory=list, compare=False)

    def keys(self, embeddings: Tensor) -> Tensor:
        self.scaled.append(len(embeddings))
        return super().keys(embeddings)

    def compare(self, query_keys: Tensor, keys: Tensor) -> Tensor:
        self.compared.append(len(query_keys))
        return super().compare(query_keys, keys)
