"""A metric-learning model, cut once: activations = trunk(images), embeddings = embedder(activations)."""

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import STANDARD, Geometry, Size
from sfam_bench.core.records import Blend, Encoded, PairBatch, Passes, Reference, Side
from sfam_bench.core.references import Given, Supports, Vectors
from sfam_bench.core.similarity import SimilarityFunction, unit
from sfam_bench.core.targets import Target
from sfam_bench.core.types import Activations, Embeddings, Images, Pooled
from sfam_bench.engine import passes as engine
from sfam_bench.engine.modes import evaluating, without_grad


class Embedder(nn.Module):
    """Everything after the cut: `tail` (later layers of an early cut), pooling, `projection` (neck, head), L2.

    Each part reads a copy, since it may work in place and explainers keep its input.
    """

    def __init__(
        self,
        pooling: nn.Module,
        projection: nn.Module | None = None,
        tail: nn.Module | None = None,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        self.tail = tail if tail is not None else nn.Identity()
        self.pooling = pooling
        self.projection = projection if projection is not None else nn.Identity()
        self.normalise = normalise

    @property
    def pools_the_cut(self) -> bool:
        """Whether the channels at the cut are the pooled ones, so that pull-backs to them are exact."""
        return isinstance(self.tail, nn.Identity)

    def pool(self, activations: Activations) -> Tensor:
        """Pooled features, (batch, channels after the tail)."""
        pooled: Tensor = self.pooling(self.tail(activations.clone()).clone())
        return pooled

    def features(self, activations: Activations) -> Tensor:
        """Pooled features on the scale of the embeddings: the embeddings without neck and head."""
        pooled = self.pool(activations)
        return unit(pooled) if self.normalise else pooled

    def project(self, pooled: Pooled) -> Embeddings:
        """Embeddings before L2."""
        embeddings: Tensor = self.projection(pooled.clone())
        return embeddings

    def forward(self, activations: Activations) -> Embeddings:
        embeddings = self.project(self.pool(activations))
        return unit(embeddings) if self.normalise else embeddings


class SimilarityModel(nn.Module):
    """A model from images (batch, 3, rows, cols) in [0, 1] to embeddings (batch, dims), and the score of two of them.

    trunk: from images to activations (batch, channels, grid rows, grid cols).
    embedder: from activations to embeddings.
    similarity: the score of two embeddings; greater is more alike.
    name: the name in tables.
    image_size: px to which pictures are resized and cropped, or (rows, cols); None for the trunk's own.

    Attributes:
        embedding: "own" where the embedding is that of the network's own forward pass, else what replaces it; empty for
            models assembled from parts.
        layer: name of the layer at the cut; empty for models assembled from parts.
    """

    def __init__(
        self,
        trunk: nn.Module,
        embedder: Embedder,
        similarity: SimilarityFunction,
        name: str = "model",
        image_size: Size | None = None,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.embedder = embedder
        self.similarity = similarity
        self.name = name
        self.geometry = find_geometry(trunk).at(image_size)  # resize and crop of pictures
        self.embedding = ""
        self.layer = ""
        # "weights" (where they are from), "random" (parts without training), "source", "chosen", "split" if known
        self.origin: dict[str, Any] = {}

    @classmethod
    def wrap(cls, module: nn.Module, *arguments: Any, **settings: Any) -> "SimilarityModel":
        """A model with exactly the embedding of any module: `sfam_bench.models.wrapping.wrap`, with its arguments."""
        from sfam_bench.models.wrapping import wrap  # imports this module

        return wrap(module, *arguments, **settings)

    def extra_repr(self) -> str:
        """Name, size of the images and embedding, for `repr`."""
        return f"{self.name}, image_size={self.geometry.crop}, embedding={self.embedding or 'of its parts'}"

    @property
    def device(self) -> torch.device:
        """The device of the weights; the CPU if there are none."""
        weights = chain(self.parameters(), self.buffers())
        return next((weight.device for weight in weights), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The type of all weights, to which images are converted.

        Raises:
            UserError: if weights are neither float32 nor float64, of mixed types, or made in inference mode.
        """
        return find_dtype(self, self.name)

    def forward(self, images: Images) -> Embeddings:
        embeddings: Tensor = self.embedder(self.run_trunk(images))
        return embeddings

    def run_trunk(self, images: Images) -> Activations:
        """Activations at the cut; the trunk reads a copy, since it may work in place."""
        activations: Tensor = self.trunk(images.clone())
        return activations

    def encode(self, images: Images) -> Side:
        """Encode images once, in eval mode and without gradient; explainers start autograd at the activations.

        Args:
            images: (batch, 3, rows, cols), RGB in [0, 1].
        """
        # leaving inference mode lets a caller inside it still differentiate what comes back
        with torch.inference_mode(False), torch.no_grad(), evaluating(self):
            images = (images.clone() if images.is_inference() else images).to(self.device, self.dtype)
            activations = self.run_trunk(images)
            return Side(images, activations, self.embedder(activations))


def encode_reference(model: SimilarityModel, query: Side, given: Given) -> Reference:
    """Encode references in any form: images (one for each query), `Supports` or `Vectors`.

    Raises:
        UserError: if a vector has another number of dimensions than the model's embeddings, or if a query is among its
            own supports.
    """
    if isinstance(given, Vectors):
        if given.embeddings.shape != query.embeddings.shape:
            raise UserError(
                f"reference vectors are {tuple(given.embeddings.shape)} and the queries' embeddings "
                f"{tuple(query.embeddings.shape)}: give vectors of the same space"
            )
        return Reference(given.embeddings.to(query.embeddings))
    if not isinstance(given, Supports):
        return Reference.of(model.encode(given))
    if len(given.members) != len(query.embeddings):
        raise UserError(f"{len(query.embeddings)} queries have {len(given.members)} support sets: give one for each")
    side = model.encode(given.images)
    pairs, rows = (entries.to(side.embeddings.device) for entries in given.entries)
    if given.images.shape[1:] == query.images.shape[1:]:
        equal = (query.images[pairs] == side.images[rows]).flatten(1).all(dim=1)
        if equal.any():
            found = given.ids[int(rows[equal][0])]
            raise UserError(f"a query has the pixels of its own support {found}: take it out of one of the two")
    embeddings = side.embeddings[rows]
    shares = given.how.shares(model.similarity, query.embeddings, embeddings, pairs)
    chosen = shares != 0
    blend = Blend(side, pairs[chosen], rows[chosen], shares[chosen], given.how)
    return Reference(blend.add(embeddings[chosen], blend.shares, len(query.embeddings)), blend)


def encode_again(model: SimilarityModel, reference: Reference) -> Reference:
    """The same images as references of another model; vectors stay as they are."""
    blend = reference.blend
    if blend is None:
        return reference
    side = model.encode(blend.side.images)
    embeddings = side.embeddings[blend.rows]
    shares = blend.shares
    if blend.how.of == "mean":  # a chosen image stays chosen
        shares = blend.how.shares(model.similarity, reference.embeddings, embeddings, blend.pairs).to(shares)
    remade = Blend(side, blend.pairs, blend.rows, shares, blend.how)
    return Reference(remade.add(embeddings, shares, len(reference.embeddings)), remade)


def find_dtype(module: nn.Module, name: str) -> torch.dtype:
    """The type of all weights of a module; UserError as `SimilarityModel.dtype`."""
    weights = [weight for weight in module.parameters() if weight.dtype.is_floating_point]
    if any(weight.is_inference() for weight in weights if not is_lazy(weight)):
        raise UserError(
            f"the weights of {name} were created in torch.inference_mode and cannot be "
            "differentiated: build the model outside of it"
        )
    types = {weight.dtype for weight in weights} or {torch.get_default_dtype()}
    if len(types) > 1 or not types <= {torch.float32, torch.float64}:
        found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in types))
        raise UserError(
            f"the weights of {name} are {found}: call .float() or .double() on the model; for speed in "
            "half precision set passes.mode=half, which computes maps in float32"
        )
    return types.pop()


def find_geometry(trunk: nn.Module) -> Geometry:
    """The `geometry` of a trunk or of one of its modules; the standard one if none has any."""
    found = (getattr(module, "geometry", None) for module in trunk.modules())
    return next((geometry for geometry in found if isinstance(geometry, Geometry)), STANDARD)


def encode_pairs(
    model: SimilarityModel,
    target: Target,
    query: Images,
    reference: Given,
    negative: Given | None = None,
    passes: Passes | None = None,
    rivals: tuple[Given, ...] = (),
) -> Encoded:
    """Encode a batch of pairs (or triplets) once for every explainer and metric.

    Args:
        model: the model.
        target: the scalar to explain, such as `Similarity()` or `Margin()`.
        query: (batch, 3, rows, cols), RGB in [0, 1].
        reference: images of the same shape, `Supports` (prototypes) or `Vectors`.
        negative: given as the reference; the margin target needs them.
        passes: how further forward passes are computed; None for eager.
        rivals: references of other classes; the target `class_score` needs them.

    Raises:
        UserError: if the target needs negatives or rivals and none are given, or a reference is invalid.
    """
    side = model.encode(query)
    references = [encode_reference(model, side, given) for given in (reference, *rivals)]
    other = None if negative is None else encode_reference(model, side, negative)
    terms = target.terms(references[0], other, references[1:])
    return Encoded(side, terms, passes or engine.Passes(without_grad(model, model)))


def encode_batch(model: SimilarityModel, target: Target, pairs: PairBatch, passes: Passes | None = None) -> Encoded:
    """Encode a `PairBatch`; see `encode_pairs`."""
    return encode_pairs(model, target, pairs.query, pairs.reference, pairs.negative, passes, pairs.rivals)
