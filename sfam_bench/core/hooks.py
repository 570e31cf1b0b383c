"""The only forward hooks of the package: to record layers inside the trunk and to count passes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

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
