"""The only forward hook, for methods that must see inside the trunk."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def tap(*modules: nn.Module) -> Iterator[dict[nn.Module, Tensor]]:
    """Record the outputs of modules while the block runs; the hooks are gone after it, also when it raises."""
    outputs: dict[nn.Module, Tensor] = {}
    handles = []
    try:
        for module in modules:
            handles.append(module.register_forward_hook(lambda m, _, output: outputs.__setitem__(m, output)))
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
