"""One pair, a few lines, no config: for notebooks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import PIL.Image
import torch
from torch import Tensor

from sfam_bench.datasets.folder import open_image
from sfam_bench.datasets.geometry import Geometry
from sfam_bench.errors import UserError
from sfam_bench.evaluate import raw_maps, reasons, self_pairs
from sfam_bench.explainers.forms import Explainer
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.explainers.similarity_decomposition import SimilarityDecomposition
from sfam_bench.maps import normalise, upsample
from sfam_bench.models.build import build
from sfam_bench.models.lite0 import lite0
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import SimilarityModel, encode_pairs
from sfam_bench.records import PairBatch
from sfam_bench.similarity import Cosine
from sfam_bench.targets import Similarity, score, swapped
from sfam_bench.types import Image

Picture: TypeAlias = str | Path | PIL.Image.Image | Tensor


@dataclass(frozen=True)
class Explanation:
    """Maps by name, (rows, cols), signed, at most one in magnitude; a map of zeros has its reason in `flags`."""

    score: float
    query: Image
    reference: Image
    query_maps: dict[str, Tensor]
    reference_maps: dict[str, Tensor]
    flags: dict[str, str]


def default_model() -> SimilarityModel:
    """EfficientNet-Lite0 with ImageNet weights, mean-pooled, compared by cosine."""
    return build("lite0", lite0(), GAP(), Cosine())


def explain(
    model: SimilarityModel, query: Picture, reference: Picture, explainers: Mapping[str, Explainer] | None = None
) -> Explanation:
    """Say why `model` finds two images alike; images are paths, PIL images or (3, rows, cols) tensors in [0, 1].

    Default explainers: SFAM and the exact decomposition. An image with itself gives flagged maps of zeros.
    """
    chosen = explainers or {"sfam": SFAM(), "similarity_decomposition": SimilarityDecomposition()}
    image, other = (tensor(picture, model.image_size) for picture in (query, reference))
    pairs = PairBatch(("query",), ("reference",), image[None], other[None])
    encoded = encode_pairs(model, Similarity(), pairs.query, pairs.reference)
    size = (image.shape[-2], image.shape[-1])
    sides: dict[str, dict[str, Tensor]] = {"query": {}, "reference": {}}
    flags: dict[str, str] = {}
    for name, explainer in chosen.items():
        for side, seen in (("query", encoded), ("reference", swapped(encoded))):
            raw = raw_maps(explainer, model, seen, pairs)
            (reason,) = reasons(raw, self_pairs(pairs))
            sides[side][name] = upsample(normalise(torch.zeros_like(raw) if reason else raw), size)[0].cpu()
            if reason:
                flags[name] = reason
    value = score(model.similarity, encoded.query.embeddings, encoded.terms)
    return Explanation(float(value), image, other, sides["query"], sides["reference"], flags)


def tensor(picture: Picture, size: int) -> Image:
    """An image as the model takes it; tensors are taken as they are."""
    if isinstance(picture, Tensor):
        if picture.ndim != 3 or len(picture) != 3 or not picture.is_floating_point():
            raise UserError(f"an image tensor must be floats of shape (3, rows, cols), not {tuple(picture.shape)}")
        return picture
    opened = picture.convert("RGB") if isinstance(picture, PIL.Image.Image) else open_image(Path(picture))
    return Geometry(round(size * 256 / 224), size)(opened).image
