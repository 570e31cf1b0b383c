"""The only forward hooks: for methods that must see inside the trunk, and to count passes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn


@contextmanager
def record_outputs(*modules: nn.Module) -> Iterator[dict[nn.Module, Tensor]]:
    """Record the outputs of modules while the block runs; the hooks are gone after it, also when it raises.

    Later layers read a copy, so that what works in place does not change what is recorded.
    """
    outputs: dict[nn.Module, Tensor] = {}
    handles = []

    def record(module: nn.Module, _: object, output: Tensor) -> Tensor:
        outputs[module] = output
        return output.clone() if isinstance(output, Tensor) else output

    try:
        for module in modules:
            handles.append(module.register_forward_hook(record))
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class Counts:
    """Rows that passed through a module."""

    forwards: int = 0
    backwards: int = 0


@contextmanager
def count_rows(module: nn.Module) -> Iterator[Counts]:
    """Count the rows that pass through a module while the block runs, and those of gradients that come back to it."""
    counts = Counts()

    def back(gradient: Tensor) -> None:
        counts.backwards += len(gradient)

    def forth(_: nn.Module, __: object, output: Tensor) -> None:
        counts.forwards += len(output)
        if output.requires_grad:
            output.register_hook(back)

    handle = module.register_forward_hook(forth)
    try:
        yield counts
    finally:
        handle.remove()
