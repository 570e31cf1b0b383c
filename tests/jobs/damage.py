"""Damaged copies of a file."""

import random
from collections.abc import Iterator

BLOCK = 512  # bytes that a disk loses at once


def damaged(whole: bytes, kind: str, count: int, seed: int = 0) -> Iterator[bytes]:
    """So many copies with one flipped bit, cut off, or with a block of zeros; each differs from the whole."""
    draw = random.Random(seed)
    while count:
        at = draw.randrange(len(whole))
        if kind == "flipped":
            copy = whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :]
        elif kind == "cut":
            copy = whole[: min(at, len(whole.rstrip()) - 1)]  # without its last line break a text is whole
        else:
            copy = whole[:at] + bytes(min(BLOCK, len(whole) - at)) + whole[at + BLOCK :]
        if copy != whole:
            count -= 1
            yield copy
