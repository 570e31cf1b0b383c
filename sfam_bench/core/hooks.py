"""The only forward hooks of the package, to record layers and count passes; and forward passes of parts of a module."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
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


def run_until(module: nn.Module, images: Tensor, layers: Sequence[nn.Module]) -> list[Any]:
    """The outputs of `layers` in a forward pass of a module, which stops at the last of them.

    Raises:
        LookupError: if a layer does not run, or they do not run in this order.
    """
    outputs: list[Any] = []

    def record(index: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if index == len(outputs):
            outputs.append(output)
        if len(outputs) == len(layers):
            raise _Stop
        return output

    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            stack.enter_context(replace_forward(layer, partial(record, index, layer.forward)))
        try:
            module(images)
        except _Stop:
            return outputs
    raise LookupError(f"layer {len(outputs)} of {len(layers)} does not run")


def run_from(
    module: nn.Module,
    images: Tensor,
    values: Sequence[tuple[nn.Module, Any]],
    earlier: Mapping[nn.Module, Sequence[Any]],
) -> Any:
    """The output of a module with the outputs of some layers replaced by `values`.

    Until the first of them has run, the calls of the modules in `earlier` return these outputs and compute nothing.
    """
    reached = False

    def give(value: Any, *_: Any, **__: Any) -> Any:
        nonlocal reached
        reached = True
        return value

    def skip(outputs: Iterator[Any], forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not reached:
            for output in outputs:
                return output
        return forward(*args, **kwargs)

    with ExitStack() as stack:
        for child, outputs in earlier.items():
            stack.enter_context(replace_forward(child, partial(skip, iter(outputs), child.forward)))
        for layer, value in values:
            stack.enter_context(replace_forward(layer, partial(give, value)))
        return module(images)
