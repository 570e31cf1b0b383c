"""Relevance of functions without weights: which functions propagate it unchanged, and which need a rule."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from sfam_bench.core.errors import UserError
from sfam_bench.core.types import Embeddings

LAYERS = {"conv2d", "linear"}
ENTRIES = LAYERS | {"pad"}  # the first of these reads the pixels, in any units
# linear, or a selection of inputs: derivative times input conserves relevance
_PLAIN = (
    "adaptive_avg_pool2d adaptive_max_pool2d add amax avg_pool2d bmm cat chunk clone concat contiguous "
    "div double dropout dropout2d einsum expand expand_as flatten float flip get getitem "
    "interpolate leaky_relu matmul max max_pool2d mean movedim mul narrow neg pad permute prelu radd relu "
    "repeat reshape reshape_as rmul roll rsub select split squeeze stack sub sum to transpose true_divide type "
    "type_as unbind unflatten unsqueeze upsample view view_as where"
)
PLAIN = frozenset(_PLAIN.split())
PRODUCTS = {"mul", "rmul", "div", "true_divide", "einsum"}
RATIOS = {"div", "true_divide"}
SCORES = {"matmul", "bmm", "baddbmm"}  # of two signals: attention scores, behind whose softmax there is no relevance
GATES = {"sigmoid", "hardsigmoid", "softmax"}  # relevance goes to what they multiply
_ACTIVATIONS = (
    "silu gelu hardswish relu6 hardtanh clamp clamp_min clamp_max elu celu selu mish tanh softplus softsign "
    "logsigmoid pow sqrt"
)
ACTIVATIONS = frozenset(_ACTIVATIONS.split())


@dataclass(frozen=True)
class Layer:
    """A linear layer and its input; `box` are the images 0 and 1 in the units of that input."""

    call: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    read: Tensor
    weight: Tensor
    bias: Tensor | None
    convolution: bool  # for rules that treat convolutions and linear layers differently
    box: tuple[Tensor, Tensor] | None = None

    def positive(self) -> Tensor:
        """The sum of its positive contributions, for each output."""
        bias = None if self.bias is None else self.bias.clamp_min(0)
        total = self.call(self.read.clamp_min(0), self.weight.clamp_min(0), bias)
        if bool((self.read < 0).any()):
            total = total + self.call(self.read.clamp_max(0), self.weight.clamp_max(0), None)
        return total

    def minus_the_least(self, box: tuple[Tensor, Tensor]) -> Tensor:
        """Its output minus the least output of an image in [0, 1]."""
        low, high = box
        least = self.call(low, self.weight.clamp_min(0), None) + self.call(high, self.weight.clamp_max(0), None)
        return self.call(self.read, self.weight, None) - least


def propagate(name: str, func: Any, args: Any, kwargs: Any) -> Any:
    """The result of a function without weights whose input carries relevance."""
    if name == "scaled_dot_product_attention":
        query, key, *rest = args
        return func(query.detach(), key.detach(), *rest, **kwargs)
    if name == "layer_norm":
        return _layer_norm(*args, **kwargs)
    if name in GATES or (name in SCORES and all(carries_relevance(value) for value in args[:2])):
        return func(*tree_map(_detach, args), **tree_map(_detach, kwargs))
    func, args, kwargs = _out_of_place(name, func, args, kwargs)
    if name in ACTIVATIONS:
        return _pass_through(func, *args, **kwargs)
    if name in RATIOS and carries_relevance(args[1]):
        raise UserError(f"relevance has no rule for a signal as divisor ({name})")
    if name in PRODUCTS and sum(map(carries_relevance, tree_leaves((args, kwargs)))) > 1:
        raise UserError(f"relevance has no rule for the product ({name}) of two signals")
    written = name == "setitem" and carries_relevance(args[0])
    result = None if written else func(*args, **kwargs)
    if written or (name not in PLAIN | SCORES and any(map(carries_relevance, tree_leaves(result)))):
        raise UserError(f"relevance has no rule for the function '{name}'")
    return result


def is_in_place(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a function writes its result into its first argument."""
    position = _flag(func)
    inplace = kwargs.get("inplace", position is not None and len(args) > position and args[position])
    return bool(inplace) or (func.__name__.endswith("_") and not func.__name__.startswith("__"))


def _out_of_place(name: str, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    """The function that returns the same result without changing its inputs."""
    if is_in_place(func, args, kwargs) and _flag(func) is None:
        func = getattr(torch.Tensor, name, None) or getattr(F, name)
    return func, args[: _flag(func)], {key: value for key, value in kwargs.items() if key != "inplace"}


def _flag(func: Any) -> int | None:
    """The position of the argument `inplace`, the last one; None where a function has none."""
    code = getattr(func, "__code__", None)
    names = code.co_varnames[: code.co_argcount] if code else ()
    return names.index("inplace") if "inplace" in names else None


def _pass_through(func: Any, signal: Tensor, *rest: Any, **named: Any) -> Tensor:
    """An activation function, which propagates relevance unchanged."""
    value = func(signal.detach().clone(), *rest, **named)
    constant = signal.detach()
    return torch.where(constant == 0, value, signal * (value / torch.where(constant == 0, 1, constant)))


def affine(read: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """An affine function of each channel."""
    return read * weight if bias is None else read * weight + bias


def _layer_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Layer norm with its scale held constant (Ali et al., ICML 2022)."""
    over = list(range(-len(normalized_shape), 0))
    centred = input - input.mean(dim=over, keepdim=True)
    scale = (centred.detach().square().mean(dim=over, keepdim=True) + eps).rsqrt()
    return affine(centred * scale, torch.ones_like(scale) if weight is None else weight, bias)


def carries_relevance(value: Any) -> bool:
    """Whether relevance flows back to a value."""
    return isinstance(value, Tensor) and (value.requires_grad or forward_ad.unpack_dual(value).tangent is not None)


def constant(value: Any) -> Any:
    """A parameter without gradient; any other value unchanged."""
    return value.detach() if isinstance(value, nn.Parameter) else value


def _detach(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


class _Found(Exception):
    """Carries the input of the first layer."""


class _FirstRead(TorchFunctionMode):
    """Raises _Found at the first layer."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ENTRIES:
            raise _Found(args[0])
        return func(*args, **(kwargs or {}))


def find_first_input(function: Callable[[Tensor], Embeddings], inputs: Tensor) -> Tensor | None:
    """The inputs in the units of the first layer; None where no layer reads them."""
    try:
        with torch.no_grad(), _FirstRead():
            function(inputs)
    except _Found as found:
        read: Tensor = found.args[0]
        return read
    return None
