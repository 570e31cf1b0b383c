"""A similarity model of any module, with exactly the embedding that the module returns."""

import logging

import torch
from torch import nn

from sfam_bench.core.errors import UserError, check_object, check_range
from sfam_bench.core.geometry import Geometry, Size, describe_geometry
from sfam_bench.core.similarity import Cosine, SimilarityFunction
from sfam_bench.engine.modes import evaluating
from sfam_bench.models.build import build
from sfam_bench.models.cuts import TOLERANCE, enlarged, make_probes, verify
from sfam_bench.models.cutting import Embedding, cut_module
from sfam_bench.models.networks import Standardise
from sfam_bench.models.outputs import Where
from sfam_bench.models.pixels import pixels_of
from sfam_bench.models.poolings import Own
from sfam_bench.models.similarity_model import SimilarityModel, find_dtype, find_geometry
from sfam_bench.models.whole import Whole, is_compiled

CLASSIFIERS = ("fc", "classifier", "head", "heads", "logits", "heads.head", "head.fc")

log = logging.getLogger(__name__)


def wrap(
    module: nn.Module,
    layer: str | None = None,
    *,
    similarity: SimilarityFunction | None = None,
    head: nn.Module | None = None,
    pooling: nn.Module | None = None,
    read: Where = None,
    standardise: nn.Module | None = None,
    embedding: Embedding = "own",
    normalise: bool = True,
    image_size: Size | None = None,
    name: str | None = None,
) -> SimilarityModel:
    """Wrap a module from images to embeddings: cut it at a layer, and compare both parts with the whole.

    The module itself is used: its weights are shared and not changed, and it keeps its mode, while maps are computed in
    eval mode. Cut by torch.fx where it can be traced; otherwise the module is run with the layer's output put in place.

    Args:
        module: reads standardised images (batch, 3, rows, cols) as its only necessary argument. A classifier at its end
            is part of the embedding; replace it by `nn.Identity()` first where it should not be.
        layer: name of the layer whose output is explained, such as "layer4"; None for the last grid or tokens on which
            the embedding depends, which is logged.
        similarity: the similarity of two embeddings; None for cosine.
        head: a module from the embedding to another one; None for none.
        pooling: replaces what the module computes behind the last grid, with `embedding="pooled"`; None for its own.
        read: where the embedding is in the module's output: a function of the output, a key, an attribute or an index.
            None for the only vector for each image, or one with a usual name, such as pooler_output.
        standardise: a module from images in [0, 1] to what the module reads; its attribute `geometry`, where it has
            one, is how pictures are resized and cropped. None for the module's own (`sfam_bench.models.pixels`: timm,
            transformers, open_clip, faces and re-identification), or ImageNet's, which is logged.
        embedding: "own", or "pooled" for the pooled last grid, whatever the module computes of it.
        normalise: whether embeddings are scaled to length 1, else they keep the length that the module gives them.
        image_size: px of the images, or (rows, cols); None for the module's own, or 224.
        name: the model's name in tables; None for the module's class.

    Raises:
        UserError: if there is no such layer, the embedding depends on paths around it, or it cannot be found in the
            output.
    """
    check_object(module, "module", nn.Module)
    module = unwrap(module)
    check_range("image_size", image_size, Size | None)
    name = name or type(module).__name__
    if isinstance(module, SimilarityModel):
        raise UserError(f"{module.name} is a SimilarityModel already: use it as it is, or wrap its network")
    similarity = similarity or Cosine()
    parts = [part for part in (module, head, pooling, standardise) if isinstance(part, nn.Module)]
    _check_module(module, name)
    with evaluating(nn.ModuleList(parts)):
        found = pixels_of(module) if standardise is None else standardise
        assumed = found is None or not any(isinstance(getattr(p, "geometry", None), Geometry) for p in found.modules())
        if standardise is None:
            pixels = Standardise() if found is None else found
            standardise = pixels.to(next(module.parameters(), next(pixels.buffers())))
            if found is None:
                log.warning(
                    "%s: pixels are standardised with ImageNet's mean and std; give standardise= for others", name
                )
        size = find_geometry(standardise).at(image_size).size
        headed = head is not None and not isinstance(head, nn.Identity)
        with enlarged(module) as changed:
            whole = Whole(module, size, standardise, read, name)
            is_unit = whole.has_length(1.0)
            scaled = normalise and not is_unit
            # the module's own L2 is left to the embedder, whose linear form is that of the embedding before it
            normalise = normalise or (is_unit and not headed and embedding == "own")
            # and of other heads than a linear map, the direction depends on the length of what they read
            left_out = normalise and (not headed or (isinstance(head, nn.Linear) and head.bias is None))
            cut = cut_module(whole, layer, None, embedding, left_out)
        if embedding == "own":
            cut = verify(cut, make_probes(module, size, standardise, whole.read) if changed else whole.probes, name)
        if layer is None:
            log.warning("%s is cut at '%s', a grid of %d x %d; choose another by layer=", name, cut.layer, *cut.grid)
        last = whole.names[-2:][0]
        classifies = type(module).__module__.startswith(("torchvision.", "timm.")) and last in CLASSIFIERS
        if classifies and not isinstance(module.get_submodule(last), nn.Identity):
            log.warning(
                "%s: the embedding is the output of '%s', of %d values; if these are class scores, set module.%s = "
                "torch.nn.Identity() first",
                *(name, last, whole.embeddings[0].shape[1], last),
            )
        if scaled and not getattr(similarity, "by_length", False):
            length = float(whole.embeddings[0][0].norm())
            log.warning("%s: embeddings of length %.3g are scaled to 1; normalise=False keeps them", name, length)
        if not left_out and embedding == "own" and whole.has_length(length := float(whole.embeddings[0][0].norm())):
            log.warning(
                "%s: every embedding has length %.4g, so that maps of linear methods are nearly zero", name, length
            )
        model = build(name, cut, pooling or Own(), similarity, head, normalise, image_size=size)
        if assumed:
            log.warning(
                "%s: pictures are %s, which is assumed; give a standardise= with a geometry for others",
                *(name, describe_geometry(model.geometry)),
            )
        if model.embedding == "own" and not normalise:
            _check_lengths(model, whole)
        return model


def _check_module(module: nn.Module, name: str) -> None:
    """Raise UserError for a module that cannot be cut or differentiated, before anything is computed."""
    if any(weight.is_meta for weight in module.parameters()):
        raise UserError(f"the weights of {name} are on the meta device, where they have no values: load them first")
    find_dtype(module, name)
    if is_compiled(module):
        raise UserError(f"{name} is made by TorchScript or torch.export, and cannot be cut: give the original module")


def _check_lengths(model: SimilarityModel, whole: Whole) -> None:
    """Raise UserError where embeddings do not have the length that the module gives them."""
    images = whole.images[0]
    with torch.no_grad():
        own, found = whole.read(whole.module(whole.standardise(images))).norm(dim=1), model(images).norm(dim=1)
    if not torch.allclose(found, own, rtol=TOLERANCE):
        raise UserError(
            f"{whole.name} cut at '{model.layer}' gives embeddings of length {float(found[0]):.4g} where its own have "
            f"{float(own[0]):.4g}: choose another layer, or normalise=True"
        )


def unwrap(module: nn.Module) -> nn.Module:
    """The module in a DataParallel or torch.compile wrapper."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrap(module.module)
    inner = getattr(module, "_orig_mod", None)
    return unwrap(inner) if isinstance(inner, nn.Module) else module
