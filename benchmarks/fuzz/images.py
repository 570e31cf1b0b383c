"""Pictures in every format and mode that a file can have: the same map as of the plain picture, or refused."""

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import PIL.Image
import torch

from benchmarks.fuzz import image_modes
from benchmarks.fuzz.attempt import Attempt
from benchmarks.fuzz.damage_bytes import damage
from benchmarks.fuzz.data_files import huge_png
from benchmarks.fuzz.image_modes import SIDE, Way, pixels
from sfam_bench.api import explain, score
from sfam_bench.core.similarity import Cosine
from sfam_bench.metrics.localisation import EnergyPointingGame
from sfam_bench.models.build import build
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import SimilarityModel

NEAR, ROUGH = 0.02, 0.1  # greatest difference of a map where a format rounds colours
Maps = torch.Tensor


def broken(plain: np.ndarray, random: Random, folder: Path) -> tuple[str, Any, Any]:
    """No picture, or half of one."""
    how = random.choice(
        ("cut", "cut", "empty", "text", "folder", "missing", "huge", "damaged", "SVG", "one pixel", "moving")
    )
    path = folder / f"picture.{random.choice(('png', 'jpg'))}"
    image = PIL.Image.fromarray(plain)
    image.save(path)
    expected = None
    if how == "cut":
        path.write_bytes(path.read_bytes()[: random.randrange(1, path.stat().st_size * 9 // 10)])
    elif how == "damaged":
        path = path.with_suffix(".png")
        image.save(path)
        damage(path, random.randrange(6), random)
        expected = plain
    elif how in ("folder", "missing"):
        path.unlink()
        if how == "folder":
            path.mkdir()
    elif how == "one pixel":
        image.resize((1, 1)).save(path)
        with PIL.Image.open(path) as again:
            expected = np.asarray(again.convert("RGB"))
    elif how == "moving":
        path = path.with_suffix(".gif")
        image.save(path, save_all=True, append_images=[image.rotate(90)])
        with PIL.Image.open(path) as again:
            expected = np.asarray(again.convert("RGB"))
    else:
        texts = {
            "empty": b"",
            "text": b"<html>",
            "huge": huge_png(),
            "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        }
        path.write_bytes(texts[how])
    return f"{path.suffix} {how}", path, expected


def tensors(plain: np.ndarray, random: Random, folder: Path) -> tuple[str, Any, Any]:
    """Tensors and objects that are no RGB in [0, 1]."""
    whole = torch.from_numpy(plain).permute(2, 0, 1)[:, :, :SIDE].float() / 255
    bad: dict[str, Any] = {
        "in 0 to 255": whole * 255,
        "bytes": (whole * 255).byte(),
        "NaN": whole / 0 * 0,
        "negative": whole - 0.5,
        "channels last": whole.permute(1, 2, 0),
        "a batch": whole[None],
        "one channel": whole[:1],
        "empty": whole[:, :0],
        "ones and a little": torch.ones_like(whole) * 1.001,
        "an array": plain,
        "None": None,
        "a number": 7,
        "a list": [1, 2],
        "complex": whole.to(torch.complex64),
    }
    how = random.choice(sorted(bad))
    return f"tensor: {how}", bad[how], {"an array": plain, "bytes": whole}.get(how)


def masks(plain: np.ndarray, random: Random, folder: Path) -> tuple[str, Any, bool]:
    """The object's mask in other modes than light on dark in 8 bits, and whether it must be refused."""
    inside = np.zeros(plain.shape[:2], bool)
    inside[10:40, 20:60] = True
    one = inside.astype(np.uint8)
    made: dict[str, tuple[Any, bool]] = {
        "booleans": (inside, False),
        "booleans of torch": (torch.from_numpy(inside), False),
        "0 and 1": (PIL.Image.fromarray(one), False),
        "0 and 255": (PIL.Image.fromarray(one * 255), False),
        "bits": (PIL.Image.fromarray(inside), False),
        "16 bits": (PIL.Image.fromarray(one.astype(np.uint16) * 65535), False),
        "mode I": (PIL.Image.fromarray(one.astype(np.int32)), False),
        "mode F": (PIL.Image.fromarray(one.astype(np.float32)), False),
        "palette": (PIL.Image.fromarray(np.dstack([one * 255] * 3)).quantize(2), False),
        "RGBA": (PIL.Image.fromarray(one * 255).convert("RGBA"), False),
        "0 and 7": (PIL.Image.fromarray(one * 7), False),
        "another size": (PIL.Image.fromarray(one[:-1] * 255), True),
        "empty": (PIL.Image.fromarray(one * 0), True),
        "an array of numbers": (one, False),
        "real numbers": (one.astype(float), False),
        "text": ("nowhere.png", True),
        "a number": (7, True),
    }
    how = random.choice(sorted(made))
    mask, refused = made[how]
    if isinstance(mask, PIL.Image.Image) and random.random() < 0.5:
        path = folder / f"mask.{'tiff' if mask.mode in 'FI' else 'png'}"
        mask.save(path)
        mask = path
    return f"foreground: {how}{' in a file' if isinstance(mask, Path) else ''}", mask, refused


WAYS: tuple[Way, ...] = (*image_modes.WAYS, broken, tensors)


def attempt(number: int, random: Random, shared: Path, folder: Path) -> Attempt:
    """Make the picture of this number."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = build("planted_net", planted_net(), GAP(), Cosine(), image_size=SIDE)
    plain = pixels()
    if number % (len(WAYS) + 1) == len(WAYS):
        return with_mask(model, plain, random, folder)
    what, picture, expected = WAYS[number % (len(WAYS) + 1)](plain, random, folder)

    def maps(of: Any) -> Maps:
        reference = PIL.Image.fromarray(plain[::-1].copy())
        found = explain(model, of, reference, ["lafam", "similarity_decomposition"])
        return torch.cat([found.query, torch.stack(list(found.query_maps.values()))])

    def read() -> Maps:
        return maps(picture)

    def wrong(found: Maps) -> str:
        if expected is None:
            return f"accepted: {tuple(found.shape)}"
        known = maps(expected if isinstance(expected, torch.Tensor) else PIL.Image.fromarray(expected))
        apart = float((found - known).abs().max())
        return "" if apart < (ROUGH if "LAB" in what else NEAR) else f"pixels or maps differ by {apart:.3g}"

    names = (picture.name,) if isinstance(picture, Path) else ("query",)
    return Attempt(what, read, wrong, names)


def with_mask(model: SimilarityModel, plain: np.ndarray, random: Random, folder: Path) -> Attempt:
    """A mask in some mode: the same localisation as by true and false, or refused."""
    what, mask, refused = masks(plain, random, folder)
    query, reference = (PIL.Image.fromarray(one.copy()) for one in (plain, plain[::-1]))

    def read(of: Any = mask) -> float:
        table = score(model, query, reference, ["lafam"], {"inside": EnergyPointingGame()}, foreground=of)
        return float(table.loc["lafam", "inside"])  # type: ignore[arg-type]

    def wrong(found: float) -> str:
        inside = np.zeros(plain.shape[:2], bool)
        inside[10:40, 20:60] = True
        if refused:
            # an empty mask may be a NaN with its reason, as everywhere in the benchmark
            return "" if "empty" in what and np.isnan(found) else f"accepted: {found}"
        return "" if abs(found - read(inside)) < 1e-6 else f"{found:.4f} of the map inside, expected {read(inside):.4f}"

    return Attempt(what, read, wrong, ("foreground", "nowhere.png", "mask.", "mask"))
