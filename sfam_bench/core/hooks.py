"""The only forward hooks of the package, to record layers and count passes; and forward passes of parts of a module."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn


@contextmanager
def record_outputs(*modules: nn.Module) -> Iterator[dict[nn.Module, Tensor]]:
    """Record the outputs of modules while the block runs; the hooks are removed even if it raises.

    Later layers read a copy, so that in-place operations do not change what is recorded.
    """
    outputs: dict[nn.Module, Tensor] = {}

    def record(module: nn.Module, _: object, output: Tensor) -> Tensor:
        outputs[module] = output
        return output.clone() if isinstance(output, Tensor) else output

    with ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_hook(record).remove)
        yield outputs


@dataclass
class Counts:
    """Rows that passed through a module."""

    forwards: int = 0
    backwards: int = 0


@contextmanager
def count_rows(module: nn.Module) -> Iterator[Counts]:
    """Count the rows of a module's outputs, and of gradients with respect to them, while the block runs."""
    counts = Counts()

    def count_backward(gradient: Tensor) -> None:
        counts.backwards += len(gradient)

    def count_forward(_: nn.Module, __: object, output: Tensor) -> None:
        counts.forwards += len(output)
        if output.requires_grad:
            output.register_hook(count_backward)

    handle = module.register_forward_hook(count_forward)
    try:
        yield counts
    finally:
        handle.remove()


class _Stop(BaseException):
    """Ends a forward pass; no Exception, so that modules which catch those do not catch it."""


@contextmanager
def replace_forward(module: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Let `function` compute a module's output while the block runs."""
    own = module.__dict__.get("forward")
    module.forward = function
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


@contextmanager
def record_calls(module: nn.Module) -> Iterator[list[tuple[str, Any]]]:
    """Record name and output of each call of a submodule, in the order in which they return."""
    calls: list[tuple[str, Any]] = []
    with ExitStack() as hooks:
        for name, child in module.named_modules():
            hooks.callback(
                child.register_forward_hook(lambda _, __, output, name=name: calls.append((name, output))).remove
            )
        yield calls


def run_part(
    module: nn.Module,
    images: Tensor,
    until: Sequence[nn.Module] = (),
    values: Sequence[tuple[nn.Module, Any]] = (),
    earlier: Mapping[nn.Module, Sequence[Any]] = MappingProxyType({}),
) -> Any:
    """The output of a module, or a list of the outputs of the layers `until`, after the last of which it stops.

    Args:
        module: any module.
        images: its input.
        until: layers in the order in which they run; none for the module's output.
        values: layers whose outputs are replaced, with what replaces them.
        earlier: modules whose calls return these outputs and compute nothing, until the first layer of `values` runs.

    Raises:
        LookupError: if a layer of `until` does not run, or they do not run in this order.
    """
    outputs: list[Any] = []
    reached = False

    def record(index: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if index == len(outputs):
            outputs.append(output)
        if len(outputs) == len(until):
            raise _Stop
        return output

    def give(value: Any, *_: Any, **__: Any) -> Any:
        nonlocal reached
        reached = True
        return value

    def skip(known: Iterator[Any], forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not reached:
            for output in known:
                return output
        return forward(*args, **kwargs)

    with ExitStack() as stack:
        for child, known in earlier.items():
            stack.enter_context(replace_forward(child, partial(skip, iter(known), child.forward)))
        for layer, value in values:
            stack.enter_context(replace_forward(layer, partial(give, value)))
        for index, layer in enumerate(until):
            stack.enter_context(replace_forward(layer, partial(record, index, layer.forward)))
        try:
            output = module(images)
        except _Stop:
            return outputs
    if until:
        raise LookupError(f"layer {len(outputs) + 1} of {len(until)} does not run")
    return output
