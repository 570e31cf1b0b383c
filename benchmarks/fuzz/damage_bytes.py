"""Damage to the bytes of a file, as disks, networks and editors do it."""

from collections.abc import Callable
from pathlib import Path
from random import Random

Damage = Callable[[bytes, Random], bytes]


def flip_bit(data: bytes, random: Random) -> bytes:
    """One bit turned."""
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :]


def flip_bytes(data: bytes, random: Random) -> bytes:
    """Some bytes replaced."""
    found = bytearray(data)
    for _ in range(random.choice((1, 2, 8, 64))):
        found[random.randrange(len(found))] ^= random.randrange(1, 256)
    return bytes(found)


def truncate(data: bytes, random: Random) -> bytes:
    """The end lost."""
    return data[: random.randrange(len(data))]


def zero_block(data: bytes, random: Random) -> bytes:
    """A block of zeros, as after a power cut."""
    size = min(len(data), random.choice((1, 16, 512, 4096)))
    at = random.randrange(len(data) - size + 1)
    return data[:at] + bytes(size) + data[at + size :]


def lose(data: bytes, random: Random) -> bytes:
    """Some bytes in the middle lost."""
    at = random.randrange(len(data))
    return data[:at] + data[at + random.choice((1, 2, 16, 100)) :]


def insert(data: bytes, random: Random) -> bytes:
    """Some bytes put in between."""
    at = random.randrange(len(data))
    return data[:at] + random.randbytes(random.choice((1, 2, 16))) + data[at:]


def digit(data: bytes, random: Random) -> bytes:
    """One digit of a text changed: still well-formed."""
    places = [at for at, byte in enumerate(data) if 48 <= byte <= 57]
    if not places:
        return flip_bit(data, random)
    at = random.choice(places)
    return data[:at] + bytes([48 + (data[at] - 48 + random.randrange(1, 10)) % 10]) + data[at + 1 :]


DAMAGES: tuple[Damage, ...] = (flip_bit, flip_bytes, truncate, zero_block, lose, insert, digit)


def damage(path: Path, number: int, random: Random) -> str:
    """Damage a file in the way of this number, so that it differs; what was done."""
    how, before = DAMAGES[number % len(DAMAGES)], path.read_bytes()
    after = before
    while before and after == before:
        after = how(before, random)
    path.write_bytes(after)
    return f"{path.name}: {how.__doc__.rstrip('.').lower()}"  # type: ignore[union-attr]
