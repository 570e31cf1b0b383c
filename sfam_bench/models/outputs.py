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


NORMS = ("norm", "linalg_norm", "linalg_vector_norm", "frobenius_norm")
DIVISIONS = ("div", "div_", "divide", "true_divide", "__truediv__", "__itruediv__")
PRODUCTS = ("mul", "mul_", "multiply", "__mul__", "__imul__", "__rmul__")


class WithoutL2(TorchFunctionMode):
    """While active, vectors (batch, dims) keep their length: normalisation by the Euclidean norm is left out.

    One that is written by hand is recognised by its values: a division by the lengths, or a product with their inverse.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        vector = bool(args) and isinstance(args[0], Tensor) and args[0].ndim == 2
        name = getattr(func, "__name__", "")
        if func is F.normalize and vector and kwargs.get("p", args[1] if len(args) > 1 else 2.0) == 2:
            return args[0]
        if vector and name in NORMS:
            result = func(*args, **kwargs)
            return torch.ones_like(result) if isinstance(result, Tensor) and result.numel() == len(args[0]) else result
        tensors = [*args, *kwargs.values()]
        if name in (*DIVISIONS, *PRODUCTS) and len(tensors) == 2 and all(isinstance(x, Tensor) for x in tensors):
            one, other = tensors
            if _is_scale(other, one, name in DIVISIONS):
                return one
            if name in PRODUCTS and _is_scale(one, other, False):
                return other
        return func(*args, **kwargs)


def _is_scale(scale: Tensor, vectors: Tensor, divides: bool) -> bool:
    """Whether vectors (batch, dims) divided by a scale, or multiplied with it, are unit vectors."""
    rows, dims = vectors.shape if vectors.ndim == 2 else (0, 0)
    same_kind = scale.dtype == vectors.dtype and scale.is_floating_point()
    if dims < 2 or scale.shape not in ((rows, 1), (rows, dims)) or not same_kind:
        return False
    with torch._C.DisableTorchFunction(), torch.no_grad():  # which other modes shall not see
        lengths = vectors.norm(dim=1, keepdim=True)
        return torch.allclose(scale if divides else 1 / scale, lengths.expand_as(scale), rtol=1e-3, atol=1e-5)
