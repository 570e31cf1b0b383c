"""A cache whose values are computed once."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Value = TypeVar("Value")


class Cache(dict[Hashable, Any]):
    """Values by keys that name everything they depend on; a tensor in a key is compared by identity."""

    def once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key, computed by `make` at the first call."""
        if key not in self:
            self[key] = make()
        found: Value = self[key]
        return found
