"""Layer-wise relevance as a gradient: the same forward pass with its ratios held constant.

While the mode is active, each layer computes its usual output z as z_rule * (z / z_rule), with the ratio detached, so
that the gradient follows the rule. The derivative of <start, output> by a factor of one at each entry of the input is
then the relevance of that entry. It is linear in the start: one backward pass takes any number of embedding dimensions
at once, and one forward derivative gives the total relevance of each dimension.
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
    carries_relevance,
    constant,
    find_first_input,
    is_in_place,
    propagate,
)

Rule: TypeAlias = Literal["zplus", "epsilon", "gamma", "epsilon_plus"]
Entry: TypeAlias = Literal["inputs", "layer", "box"]

METADATA = {"dim", "size", "get", "stride", "is_contiguous", "numel"}  # functions that read no values


@dataclass(frozen=True)
class Rules(Checked):
    """How layers distribute relevance: the share of each input in an output z = sum of contributions, plus the bias.

    `zplus` (alpha 1, beta 0) counts positive contributions alone; `epsilon` counts all; `gamma` counts all, and adds
    `gamma` times those with the sign of z in convolutions (linear layers use epsilon). `epsilon_plus` is zplus in
    convolutions and epsilon in linear layers. `epsilon` is added to |z|.
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

    entry: where it ends: at the inputs, or at the input of the first layer, after pixels are standardised, by the same
        rule ("layer") or by one that uses that images lie in [0, 1] ("box"; Montavon et al., 2017).
    """
    with torch.enable_grad(), _run(rules, function, inputs, entry, torch.Tensor.requires_grad_) as (output, factor):
        (found,) = torch.autograd.grad(output, factor, start(output.detach()))
    return found


def totals(rules: Rules, function: Callable[[Tensor], Embeddings], inputs: Tensor, entry: Entry = "inputs") -> Tensor:
    """For each dimension of the output, the total relevance over the inputs that starts as the output itself."""

    def dual(factor: Tensor) -> Tensor:
        return forward_ad.make_dual(factor, torch.ones_like(factor))

    with torch.no_grad(), forward_ad.dual_level(), _run(rules, function, inputs, entry, dual) as (output, _):
        tangent: Tensor = forward_ad.unpack_dual(output).tangent
        return tangent.clone()


@contextmanager
def _run(
    rules: Rules,
    function: Callable[[Tensor], Embeddings],
    inputs: Tensor,
    entry: Entry,
    lead: Callable[[Tensor], Tensor],
) -> Iterator[tuple[Embeddings, Tensor]]:
    """The function's output under the rules, and the factor of one at its entries, made differentiable by `lead`."""
    mode = _Relevance(rules, lead)
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward derivative
        if entry == "inputs":
            mode.factor = lead(torch.ones_like(inputs))
            inputs = inputs * mode.factor
        elif entry == "box":
            ends = torch.stack([torch.zeros_like(inputs[0]), torch.ones_like(inputs[0])])
            mode.box = find_first_input(function, ends)
        with mode:
            output = function(inputs)
        output = mode.resolve(output)
    if mode.factor is None or not carries_relevance(output):
        raise UserError("no layer of the network reads the images, so that relevance cannot end there")
    yield output, mode.factor


class _Relevance(TorchFunctionMode):
    """Replaces functions by ones of the same value whose derivative times input is relevance.

    The rule of a convolution is applied when its output is used, since a batch norm behind it is folded into it first.
    """

    def __init__(self, rules: Rules, lead: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rules, self.lead = rules, lead
        self.factor: Tensor | None = None
        self.first: Tensor | None = None
        self.box: Tensor | None = None
        self.pending: Any = WeakTensorKeyDictionary()  # layers whose rule is not applied yet, by their outputs
        self.bounds: Any = WeakTensorKeyDictionary()  # the images 0 and 1, by the input of a first layer
        self.written: Any = WeakTensorKeyDictionary()  # results of in-place functions, by the tensors that they change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", "").strip("_"), kwargs or {}
        if name in METADATA and not isinstance(found := func(*args, **kwargs), Tensor):
            return found
        given = args
        args, kwargs = tree_map(self.latest, (args, kwargs))
        if name == "batch_norm":
            return self._batch_norm(*args, **kwargs)
        if name == "clone" and (layer := self.pending.get(args[0])) is not None:  # between a layer and its batch norm
            copy = func(*args, **kwargs)
            self.pending[copy] = layer
            return copy
        args, kwargs = tree_map(self.resolve, (args, kwargs))
        if name == "pad" and self.factor is None:
            return self._pad(func, *args, **kwargs)
        if name in LAYERS:
            return self._linear(func, name == "conv2d", *args, **kwargs)
        if not any(carries_relevance(leaf) for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        result = propagate(name, func, args, kwargs)
        if is_in_place(func, args, kwargs):
            self.written[given[0]] = result
        return result

    def latest(self, value: Any) -> Any:
        """A parameter as a constant, and a tensor as the result that was last written into it."""
        while isinstance(value, Tensor) and (written := self.written.get(value)) is not None:
            value = written
        return constant(value)

    def resolve(self, value: Any) -> Any:
        """The same, and a pending output with its rule applied."""
        value = self.latest(value)
        if isinstance(value, Tensor) and (layer := self.pending.get(value)) is not None:
            return self._apply_rule(value, layer)
        return value

    def _linear(
        self,
        func: Any,
        convolution: bool,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *rest: Any,
        **named: Any,
    ) -> Tensor:
        def call(read: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            out: Tensor = func(read, weight, bias, *rest, **named)
            return out

        read = self._enter(input)
        output = call(read, weight, bias)
        box = self.bounds.get(read)
        self.pending[output] = Layer(call, read, weight, bias, convolution, box)
        return output

    def _pad(self, func: Any, input: Tensor, *rest: Any, **named: Any) -> Tensor:
        """Pad the images; relevance must not end at the padding."""
        read = self._enter(input)
        output: Tensor = func(read, *rest, **named)
        if (box := self.bounds.get(read)) is not None:
            self.bounds[output] = (func(box[0], *rest, **named), func(box[1], *rest, **named))
        return output

    def _enter(self, read: Tensor) -> Tensor:
        """The input of a layer, times the factor if it is the first layer, with its bounds."""
        if carries_relevance(read):
            return read
        if self.factor is None:
            self.first, self.factor = read, self.lead(torch.ones_like(read))
        elif read is not self.first:
            raise UserError("the network reads its images in more than one place: their relevance cannot be separated")
        entered = read * self.factor
        if self.box is not None:
            self.bounds[entered] = (self.box[0] * self.factor, self.box[1] * self.factor)
        return entered

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
        layer = self.pending.get(input)
        along = (1, -1, *[1] * (input.ndim - 2))  # channels
        if layer is None:  # not behind a linear layer: a layer of its own, channel by channel
            layer = Layer(affine, input, scale.view(along), shift.view(along), False)
            return (
                self._apply_rule(affine(input, layer.weight, layer.bias), layer)
                if carries_relevance(input)
                else F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
            )
        folded = layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1))
        bias = shift if layer.bias is None else layer.bias * scale + shift
        output = input * scale.view(along) + shift.view(along)
        return self._apply_rule(output, replace(layer, weight=folded, bias=bias))

    def _apply_rule(self, z: Tensor, layer: Layer) -> Tensor:
        """The same value, with the derivative of the rule."""
        path = z
        if layer.box is not None:
            path = layer.minus_the_least(layer.box)
        elif self.rules.rule == "zplus" or (self.rules.rule == "epsilon_plus" and layer.convolution):
            path = layer.positive()
        elif self.rules.rule == "gamma" and layer.convolution:
            positive = layer.positive()
            path = z + self.rules.gamma * torch.where(z > 0, positive, z - positive)
        path = path + self.rules.epsilon * torch.where(path < 0, -1, 1).to(path)
        return path * (z / path).detach()
