"""The embedding in what a module returns."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sfam_bench.core.errors import UserError
from sfam_bench.core.ranges import Natural

# Names of the embedding in dicts and objects, in order of priority
NAMES = ("embedding", "embeddings", "image_embeds", "image_embedding", "pooler_output", "features", "feats")

Where: TypeAlias = Callable[[Any], Tensor] | str | Natural | None

SCALES = ("div", "true_divide", "__truediv__", "mul", "multiply", "__mul__")

log = logging.getLogger(__name__)


def reader_of(output: Any, what: str, read: Where = None) -> "Reader":
    """How to read the embedding (batch, dims) from such an output.

    `read` is a function, a key, an attribute or an index; without it the embedding is the only vector for each image,
    or the one with a usual name, or the first of a tuple, which is logged.

    Raises:
        UserError: if there is no vector for each image, or several and none with a usual name.
    """
    if read is not None:
        found = Reader(read)
        found.check(output, what)
        return found
    if isinstance(output, Tensor):
        return Reader(None).check(output, what)
    named = _vectors(output)
    if isinstance(output, tuple | list) and not hasattr(output, "_fields") and len(named) > 1:
        first = next(iter(named))
        log.warning(
            "%s returns several vectors: the one at %s is read as the embedding; choose another by read=", what, first
        )
        return Reader(first)
    chosen = next((name for name in NAMES if name in named), None)
    if chosen is None and len(named) == 1:
        (chosen,) = named
    if chosen is None:
        have = ", ".join(map(str, named)) or "none"
        raise UserError(
            f"{what} returns {type(output).__name__}, in which the embedding (batch, dims) is not clear (vectors: "
            f"{have}): give read=, a name or a function from the output to it"
        )
    return Reader(chosen)


def _vectors(output: Any) -> dict[Any, Tensor]:
    if isinstance(output, Mapping):
        items = dict(output)
    elif hasattr(output, "_fields"):
        items = dict(zip(output._fields, output, strict=True))
    elif isinstance(output, tuple | list):
        items = dict(enumerate(output))
    else:
        items = {name: getattr(output, name, None) for name in NAMES}
    return {name: value for name, value in items.items() if isinstance(value, Tensor) and is_vector(value)}


def is_vector(value: Tensor) -> bool:
    """Whether a tensor is (batch, dims), with any number of sides of length 1 behind."""
    return value.is_floating_point() and value.ndim >= 2 and all(side == 1 for side in value.shape[2:])


class Reader:
    """Reads the embedding from an output by a function, a key, an attribute or an index; None for all of it."""

    def __init__(self, where: Where) -> None:
        self.where = where

    def __call__(self, output: Any) -> Tensor:
        where = self.where
        if where is None:
            value = output
        elif callable(where):
            value = where(output)
        elif isinstance(where, str) and not isinstance(output, Mapping):
            value = getattr(output, where)
        else:
            value = output[where]
        found: Tensor = value.flatten(1)
        return found

    def check(self, output: Any, what: str) -> "Reader":
        """Raise UserError where this reads no vector for each image."""
        try:
            value = self(output)
        except (AttributeError, KeyError, IndexError, TypeError) as error:
            raise UserError(f"{what} returns {type(output).__name__}, without '{self.where}': correct read=") from error
        whole = output if self.where is None else value
        if not is_vector(whole):
            raise UserError(
                f"{what} returns {tuple(whole.shape)}, not one vector for each image (batch, dims): give read=, a "
                "function from the output to it, or use sfam_bench.models.build with a pooling"
            )
        return self


class WithoutL2(TorchFunctionMode):
    """While active, vectors (batch, dims) keep their length: normalisation by the Euclidean norm is left out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        vector = bool(args) and isinstance(args[0], Tensor) and args[0].ndim == 2
        if func is F.normalize and vector and kwargs.get("p", args[1] if len(args) > 1 else 2.0) == 2:
            return args[0]
        if getattr(func, "__name__", "") in SCALES and len(args) == 2 and all(isinstance(one, Tensor) for one in args):
            scaled = func(*args)
            return next((one for one in args if _is_unit_of(scaled, one)), scaled)
        result = func(*args, **kwargs)
        if vector and getattr(func, "__name__", "") in ("norm", "linalg_norm", "linalg_vector_norm", "frobenius_norm"):
            return torch.ones_like(result) if isinstance(result, Tensor) and result.numel() == len(args[0]) else result
        return result


def _is_unit_of(scaled: Tensor, vectors: Tensor) -> bool:
    """Whether the first are the unit vectors of the second, however their length was computed."""
    if vectors.ndim != 2 or vectors.shape != scaled.shape or not vectors.is_floating_point():
        return False
    lengths = vectors.detach().norm(dim=1, keepdim=True)
    unit = vectors.detach() / lengths.clamp_min(1e-12)
    return vectors.shape[1] > 1 and torch.allclose(scaled.detach(), unit, rtol=1e-3, atol=1e-5)
