"""Series of many images, methods and metrics, packed into batches of constant size."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.engine.series import Series

Key = TypeVar("Key")


@dataclass(frozen=True)
class Passes:
    """Forward passes by a function of `batch` inputs with one output row for each; `facts` describe the mode."""

    function: Callable[[Tensor], Tensor]
    batch: int = 16
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise UserError(f"passes.batch is {self.batch}: expected at least 1, or null")

    def __call__(self, asked: Iterable[tuple[Key, Series]]) -> Iterator[tuple[Key, Tensor]]:
        """The outputs of each series with its key, in order.

        Holds one batch of inputs and the outputs of incomplete series; takes the next series from `asked` only when the
        batch has room for it. The last batch is padded with rows that are not used.
        """
        pending: deque[_Open[Key]] = deque()
        buffer, filled = torch.empty(0), 0
        for key, series in asked:
            pending.append(_Open(key, len(series)))
            written = 0
            while written < len(series):
                rows = min(len(series) - written, self.batch - filled)
                with (
                    torch.inference_mode(False),
                    torch.no_grad(),
                ):  # a generator shares its caller's modes
                    if not len(buffer):
                        buffer = series.like.new_zeros(self.batch, *series.like.shape)
                    series.write(written, buffer[filled : filled + rows])
                written, filled = written + rows, filled + rows
                if filled == self.batch:
                    yield from _hand_out(self.function(buffer), pending)
                    filled = 0
        if filled:
            yield from _hand_out(self.function(buffer)[:filled], pending)
        yield from _hand_out(torch.empty(0), pending)  # series without any input


@dataclass
class _Open(Generic[Key]):
    """A series with missing outputs."""

    key: Key
    missing: int
    parts: list[Tensor] = field(default_factory=list)


def _hand_out(outputs: Tensor, pending: deque[_Open[Key]]) -> Iterator[tuple[Key, Tensor]]:
    """Assign the rows to pending series, and yield those that are complete."""
    while pending and (len(outputs) or not pending[0].missing):
        first = pending[0]
        part, outputs = outputs[: first.missing], outputs[first.missing :]
        first.parts.append(part.clone())  # a function may return its input, or the same tensor at every call
        first.missing -= len(part)
        if not first.missing:
            pending.popleft()
            yield first.key, torch.cat(first.parts)
