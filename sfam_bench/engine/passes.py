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
    """A way to take forward passes: a function of `batch` inputs, one output row for each; `facts` say which."""

    function: Callable[[Tensor], Tensor]
    batch: int = 16
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise UserError(f"passes.batch is {self.batch}: expected at least 1, or null")

    def __call__(self, asked: Iterable[tuple[Key, Series]]) -> Iterator[tuple[Key, Tensor]]:
        """The outputs of each series under its key, in order.

        Holds one batch of inputs, and the outputs of the series that are under way; takes the next series from
        `asked` only when there is room for it. The last batch is filled up with rows that nobody reads.
        """
        waiting: deque[_Open[Key]] = deque()
        buffer, filled = torch.empty(0), 0
        for key, series in asked:
            waiting.append(_Open(key, len(series)))
            written = 0
            while written < len(series):
                rows = min(len(series) - written, self.batch - filled)
                with torch.inference_mode(False), torch.no_grad():  # here alone: a generator shares its caller's modes
                    if not len(buffer):
                        buffer = series.like.new_zeros(self.batch, *series.like.shape)
                    series.write(written, buffer[filled : filled + rows])
                written, filled = written + rows, filled + rows
                if filled == self.batch:
                    yield from _hand_out(self.function(buffer), waiting)
                    filled = 0
        if filled:
            yield from _hand_out(self.function(buffer)[:filled], waiting)
        yield from _hand_out(torch.empty(0), waiting)  # series without any input


@dataclass
class _Open(Generic[Key]):
    """A series some of whose outputs are still to come."""

    key: Key
    missing: int
    parts: list[Tensor] = field(default_factory=list)


def _hand_out(outputs: Tensor, waiting: deque[_Open[Key]]) -> Iterator[tuple[Key, Tensor]]:
    """Give the rows to the series that wait for them, and release those that have all."""
    while waiting and (len(outputs) or not waiting[0].missing):
        first = waiting[0]
        part, outputs = outputs[: first.missing], outputs[first.missing :]
        first.parts.append(part.clone())  # a function may give its input, or the same tensor at every call
        first.missing -= len(part)
        if not first.missing:
            waiting.popleft()
            yield first.key, torch.cat(first.parts)
