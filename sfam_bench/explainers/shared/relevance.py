"""Layer-wise relevance as a gradient: the same forward pass with its ratios held constant.

While the mode is on, each layer computes what it always does, but along a path whose derivative is the rule's share:
out = z_rule * (z / z_rule), the ratio without gradient. The derivative of <start, output> by a factor of one at each
entry of the input is then that entry's relevance. It is linear in the start: one backward pass takes any number of
embedding dimensions at once, and one forward derivative gives the total relevance of each dimension.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.ranges import NotNegative, Positive
from sfam_bench.core.types import Embeddings
from sfam_bench.explainers.shared.relevance_functions import (
    LAYERS,
    Layer,
    affine,
    carries,
    carrying,
    constant,
    first_read,
    works_in_place,
)

Rule: TypeAlias = Literal["zplus", "epsilon", "gamma"]
Entry: TypeAlias = Literal["inputs", "layer", "box"]

LOOKS = {"dim", "size", "get", "stride", "is_contiguous", "numel"}  # at a tensor's form, never its values


@dataclass(frozen=True)
class Rules(Checked):
    """How layers hand relevance down: each input's share of an output z = sum of contributions, plus the bias.

    `zplus` (alpha 1, beta 0) counts positive contributions alone; `epsilon` all of them; `gamma` all, and `gamma` times
    those of z's own sign once more, in convolutions (dense layers take epsilon). `epsilon` is added to |z|.
    """

    rule: Rule
    gamma: NotNegative = 0.25
    epsilon: Positive = 1e-6


def relevance(
    rules: Rules,
    function: Callable[[Tensor], Embeddings],
    inputs: Tensor,
    start: Callable[[Embeddings], Embeddings],
    entry: Entry = "inputs",
) -> Tensor:
    """Relevance of each entry of the inputs, from `start(output) * output` at the output.

    entry: where it ends: at the inputs, or at what the first layer reads, past any change of the pixels' units, by the
        same rule ("layer") or by one that knows that images lie in [0, 1] ("box"; Montavon et al., 2017).
    """
    with torch.enable_grad(), _running(rules, function, inputs, entry, torch.Tensor.requires_grad_) as (output, factor):
        (found,) = torch.autograd.grad(output, factor, start(output.detach()))
    return found


def totals(rules: Rules, function: Callable[[Tensor], Embeddings], inputs: Tensor, entry: Entry = "inputs") -> Tensor:
    """For each dimension of the output, the total relevance over the inputs that starts as the output itself."""

    def dual(factor: Tensor) -> Tensor:
        return forward_ad.make_dual(factor, torch.ones_like(factor))

    with torch.no_grad(), forward_ad.dual_level(), _running(rules, function, inputs, entry, dual) as (output, _):
        tangent: Tensor = forward_ad.unpack_dual(output).tangent
        return tangent.clone()


@contextmanager
def _running(
    rules: Rules,
    function: Callable[[Tensor], Embeddings],
    inputs: Tensor,
    entry: Entry,
    lead: Callable[[Tensor], Tensor],
) -> Iterator[tuple[Embeddings, Tensor]]:
    """The function's output under the rules, and the factor of one at its entries that `lead` makes derivable."""
    mode = _Relevance(rules, lead)
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward derivative
        if entry == "inputs":
            mode.factor = lead(torch.ones_like(inputs))
            inputs = inputs * mode.factor
        elif entry == "box":
            ends = torch.stack([torch.zeros_like(inputs[0]), torch.ones_like(inputs[0])])
            mode.box = first_read(function, ends)
        with mode:
            output = function(inputs)
        output = mode.known(output)
    if mode.factor is None or not carries(output):
        raise UserError("no layer of the network reads the images: relevance has nowhere to end")
    yield output, mode.factor


class _Relevance(TorchFunctionMode):
    """Replaces functions by ones of the same value whose derivative times input is relevance.

    A convolution's rule waits until its output is used, since a batch norm behind it is folded into it first.
    """

    def __init__(self, rules: Rules, lead: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rules, self.lead = rules, lead
        self.factor: Tensor | None = None
        self.first: Tensor | None = None
        self.box: Tensor | None = None
        self.waiting: Any = WeakTensorKeyDictionary()  # layers by their outputs
        self.bounds: Any = WeakTensorKeyDictionary()  # the images 0 and 1 by what a first layer reads
        self.written: Any = WeakTensorKeyDictionary()  # results of functions in place, by the tensors that they change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", "").strip("_"), kwargs or {}
        if name in LOOKS and not isinstance(found := func(*args, **kwargs), Tensor):
            return found
        given = args
        args, kwargs = tree_map(self.current, (args, kwargs))
        if name == "batch_norm":
            return self._batch_norm(*args, **kwargs)
        if name == "clone" and (layer := self.waiting.get(args[0])) is not None:  # between a layer and its batch norm
            copy = func(*args, **kwargs)
            self.waiting[copy] = layer
            return copy
        args, kwargs = tree_map(self.known, (args, kwargs))
        if name == "pad" and self.factor is None:
            return self._padded(func, *args, **kwargs)
        if name in LAYERS:
            return self._linear(func, 1.0 if name == "conv2d" else 0.0, *args, **kwargs)
        if not any(carries(leaf) for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        result = carrying(name, func, args, kwargs)
        if works_in_place(func, args, kwargs):
            self.written[given[0]] = result
        return result

    def current(self, value: Any) -> Any:
        """A parameter as a constant, and a tensor as what was last written into it."""
        while isinstance(value, Tensor) and (written := self.written.get(value)) is not None:
            value = written
        return constant(value)

    def known(self, value: Any) -> Any:
        """The same, and an output that waits for its rule under its rule."""
        value = self.current(value)
        if isinstance(value, Tensor) and (layer := self.waiting.get(value)) is not None:
            return self._ruled(value, layer)
        return value

    def _linear(
        self,
        func: Any,
        gamma: float,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *rest: Any,
        **named: Any,
    ) -> Tensor:
        def call(read: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            out: Tensor = func(read, weight, bias, *rest, **named)
            return out

        read = self._entered(input)
        output = call(read, weight, bias)
        box = self.bounds.get(read)
        self.waiting[output] = Layer(call, read, weight, bias, gamma * self.rules.gamma, box)
        return output

    def _padded(self, func: Any, input: Tensor, *rest: Any, **named: Any) -> Tensor:
        """Padding of the images, on which relevance must not end."""
        read = self._entered(input)
        output: Tensor = func(read, *rest, **named)
        if (box := self.bounds.get(read)) is not None:
            self.bounds[output] = (func(box[0], *rest, **named), func(box[1], *rest, **named))
        return output

    def _entered(self, read: Tensor) -> Tensor:
        """What a layer reads, times the factor where the images enter; with the bounds of that."""
        if carries(read):
            return read
        if self.factor is None:
            self.first, self.factor = read, self.lead(torch.ones_like(read))
        elif read is not self.first:
            raise UserError("the network reads its images in more than one way: relevance cannot be told apart")
        led = read * self.factor
        if self.box is not None:
            self.bounds[led] = (self.box[0] * self.factor, self.box[1] * self.factor)
        return led

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if training or running_mean is None or running_var is None:
            raise UserError("relevance has no rule for a batch norm without running statistics")
        scale = (running_var + eps).rsqrt() * (1 if weight is None else weight)
        shift = (0 if bias is None else bias) - running_mean * scale
        layer = self.waiting.get(input)
        along = (1, -1, *[1] * (input.ndim - 2))  # channels
        if layer is None:  # behind something other than a linear layer: one of its own, channel by channel
            layer = Layer(affine, input, scale.view(along), shift.view(along), 0.0)
            return (
                self._ruled(affine(input, layer.weight, layer.bias), layer)
                if carries(input)
                else F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
            )
        folded = layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1))
        bias = shift if layer.bias is None else layer.bias * scale + shift
        output = input * scale.view(along) + shift.view(along)
        return self._ruled(output, replace(layer, weight=folded, bias=bias))

    def _ruled(self, z: Tensor, layer: Layer) -> Tensor:
        """The same value, with the derivative that the rule wants."""
        path = z
        if layer.box is not None:
            path = layer.above_the_least(layer.box)
        elif self.rules.rule == "zplus":
            path = layer.positive()
        elif self.rules.rule == "gamma" and layer.gamma:
            positive = layer.positive()
            path = z + layer.gamma * torch.where(z > 0, positive, z - positive)
        path = path + torch.where(path < 0, -self.rules.epsilon, self.rules.epsilon)
        return path * (z / path).detach()
