"""Values that are made once."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Value = TypeVar("Value")


class Cache(dict[Hashable, Any]):
    """Values by keys that say all that they depend on; a tensor in a key is compared by identity."""

    def once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, made at the first call."""
        if key not in self:
            self[key] = make()
        found: Value = self[key]
        return found
