"""Checks of a model's output shapes on one image, when it is built."""

from contextlib import suppress

import torch
from torch import Tensor

from sfam_bench.core.errors import UserError, first_line
from sfam_bench.engine.modes import evaluating
from sfam_bench.models.cuts import check_alone, probe_images
from sfam_bench.models.similarity_model import SimilarityModel


def check_shapes(model: SimilarityModel) -> None:
    """Raise UserError where the trunk returns no grid with channels first, or the embedder no vector for each image.

    Lazy layers are initialised by this pass.
    """
    images = torch.zeros(1, 3, *model.geometry.size, dtype=model.dtype, device=model.device)
    with torch.no_grad(), evaluating(model):
        grid = model.trunk(images.clone())  # of any type
        if not isinstance(grid, Tensor) or grid.ndim != 4 or len(grid) != 1:
            raise UserError(
                f"the trunk of {model.name} returns {_form(grid)} for one image: expected a tensor (1, channels, rows, "
                "cols); wrap it in a module that returns its last feature map"
            )
        if _channels_last(model, images, grid):
            raise UserError(
                f"the trunk of {model.name} returns {_form(grid)} for one image, with its channels last: wrap it in a "
                "module that returns output.permute(0, 3, 1, 2)"
            )
        try:
            embeddings = model.embedder(grid)
        except ValueError as error:  # of a batch norm that has no statistics but those of the batch
            raise UserError(
                f"the embedder of {model.name} cannot embed one image alone: {first_line(error, 160)}; give its batch "
                "norms running statistics"
            ) from error
    if embeddings.ndim != 2 or len(embeddings) != 1:
        raise UserError(
            f"the embedder of {model.name} returns {_form(embeddings)} for one image: expected (1, dims); let the "
            "pooling return (batch, channels) and the head (batch, dims)"
        )


def check_steady(model: SimilarityModel) -> None:
    """Raise UserError where embeddings change from call to call, or with the other images of a batch."""
    with evaluating(model):
        check_alone(model, probe_images(model.geometry.size, model.device, model.dtype), model.name)


def _channels_last(model: SimilarityModel, images: Tensor, grid: Tensor) -> bool:
    """Whether the channels of a grid are last, tested by a wider image where shapes are ambiguous."""
    first, rows, last = grid.shape[1:]
    if first >= last and first != rows:
        return False
    wide = grid
    with suppress(Exception):  # a trunk may support images of one size only
        wide = model.run_trunk(images.repeat(1, 1, 1, 2))
    if wide.shape == grid.shape:
        return bool(first == rows != last)
    return wide.shape[3] == last


def _form(output: object) -> str:
    return str(tuple(output.shape)) if isinstance(output, Tensor) else type(output).__name__
