"""Planted images that only who has a private key can draw."""

import hashlib
from dataclasses import dataclass, field, replace

from sfam_bench.core.errors import UserError
from sfam_bench.datasets.planted.dataset import Planted
from sfam_bench.datasets.planted.scene import PlantedScene

SHORTEST = 32  # characters of a key, so that its published digest does not give it away


@dataclass(frozen=True)
class Hidden(Planted):
    """The classes and ids of `Planted` with the same seed, in images drawn by a private key.

    A network that was trained on `Planted` may be evaluated on them: its training classes are the same.

    key: a random string of at least 32 characters; see `commitment`.
    """

    key: str = field(default="", repr=False)
    name: str = "planted-hidden"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.key) < SHORTEST:
            raise UserError(f"the key of hidden images has {len(self.key)} characters: give at least {SHORTEST}")

    def _scene(self, image_id: str) -> PlantedScene:
        drawn = hashlib.sha256(f"{self.key}\0{image_id}".encode()).digest()
        return replace(super()._scene(image_id), key=(self.seed, int.from_bytes(drawn[:8])))


def commitment(key: str) -> str:
    """The SHA-256 of a key, which is published so that the key cannot be changed later."""
    return hashlib.sha256(key.encode()).hexdigest()
