"""A model whose similarity can be read off the pixels, so that curves can be worked out by hand."""

import pytest
import torch
from torch import nn

from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import Dot
from sfam_bench.core.targets import Similarity
from sfam_bench.metrics.shared.base import Explained, Scene
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs


class Pixels(nn.Module):
    """Activations = the image itself; one dead weight, since a model has a device."""

    def __init__(self):
        super().__init__()
        self.dead = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return images + 0 * self.dead


@pytest.fixture
def explained():
    """Build an Explained: the score of an image is the mean over positions of its dot product with `reference`."""

    def make(images, maps, reference=(1.0, 0.0, 0.0), masks=None):
        model = SimilarityModel(Pixels(), Embedder(GAP(), normalise=False), Dot()).eval()
        other = torch.tensor(reference)[None, :, None, None].expand_as(images).contiguous()
        ids = tuple(map(str, range(len(images))))
        pairs = PairBatch(ids, tuple(f"r{i}" for i in ids), images, other, masks=masks or {})
        return Explained(Scene(model, encode_pairs(model, Similarity(), images, other), pairs), maps)

    return make
