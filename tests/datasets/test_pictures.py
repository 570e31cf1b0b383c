"""One picture in every form in which pictures are stored: the map of the plain one, or refused in one line."""

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import PIL.ImageOps
import pytest
import torch

from sfam_bench.api import explain, score
from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.core.similarity import Cosine
from sfam_bench.datasets.own import from_csv
from sfam_bench.datasets.pictures import sample
from sfam_bench.metrics.localisation import EnergyPointingGame
from sfam_bench.models.build import build
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import SimilarityModel

Pil = PIL.Image.Image
SIZE = 32
GEOMETRY = Geometry(SIZE, SIZE)  # of planted_net at this size


@cache
def model() -> SimilarityModel:
    torch.manual_seed(0)
    return build("small", planted_net((4, 6), (2, 2)), GAP(), Cosine(), image_size=SIZE)


def drawn(seed: int) -> Pil:
    """A smooth picture, different in every corner."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return PIL.Image.fromarray(coarse).resize((60, 46), PIL.Image.Resampling.BICUBIC)


PLAIN, REFERENCE = drawn(0), drawn(1)
GREY = PLAIN.convert("L")
LEVELS = np.asarray(GREY)
HIDDEN = np.zeros((46, 60), dtype=np.uint8)
HIDDEN[:, 20:] = 255
MASK = PIL.Image.fromarray(HIDDEN)
OVER_WHITE = PIL.Image.composite(PLAIN, PIL.Image.new("RGB", PLAIN.size, "white"), MASK)
GREY_OVER_WHITE = PIL.Image.composite(GREY, PIL.Image.new("L", GREY.size, 255), MASK)
PALETTE = PLAIN.quantize(16)


def stored(image: Pil, kind: str = "PNG", **how: object) -> bytes:
    content = io.BytesIO()
    image.copy().save(content, kind, **how)  # a copy, since PIL leaves settings of one format in what it saves
    return content.getvalue()


def two() -> dict[str, object]:
    """How to save a second picture in one file."""
    return {"save_all": True, "append_images": [REFERENCE.copy()]}


def with_alpha(image: Pil, mode: str) -> Pil:
    clear = image.convert(mode)
    clear.putalpha(MASK)
    return clear


def keyed(image: Pil, colour: tuple[int, ...]) -> Pil:
    """A picture whose hidden part has one colour, that a tRNS chunk names."""
    return PIL.Image.composite(image, PIL.Image.new(image.mode, image.size, colour), MASK)


def one_bit() -> Pil:
    return GREY.point(lambda level: 255 * (level > 127)).convert("1")


def turned(tag: int, kind: str = "PNG") -> bytes:
    """The plain picture as a camera stores it that writes this EXIF tag."""
    exif = PIL.Image.Exif()
    exif[0x0112] = tag
    one = PIL.Image.new("RGB", PLAIN.size)
    one.paste(PLAIN)
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # FLIP_LEFT_RIGHT ... as PIL numbers them
    return stored(one.transpose(PIL.Image.Transpose(back[tag])) if tag > 1 else one, kind, exif=exif)


def indexed() -> Pil:
    """A palette in which the hidden colour, index 0, is transparent."""
    found = np.where(HIDDEN > 0, 1 + np.asarray(PALETTE) % 15, 0).astype(np.uint8)
    image = PIL.Image.fromarray(found, "P")
    image.putpalette(PALETTE.getpalette()[:48])
    return image


INDEXED = indexed()
INDEXED_OVER_WHITE = PIL.Image.composite(INDEXED.convert("RGB"), PIL.Image.new("RGB", PLAIN.size, "white"), MASK)
SIXTEEN = LEVELS.astype(np.uint16) * 257
LOW_BITS = np.random.default_rng(2).integers(-128, 129, LEVELS.shape)

SAME: dict[str, tuple[str, Callable[[], bytes], Pil]] = {  # by form: ending, file, the plain picture that it is
    "grey": ("png", lambda: stored(GREY), GREY),
    "16-bit grey": ("png", lambda: stored(PIL.Image.fromarray(SIXTEEN)), GREY),
    "16-bit grey with low bits": (
        "png",
        lambda: stored(PIL.Image.fromarray((SIXTEEN + LOW_BITS).clip(0, 65535).astype(np.uint16))),
        GREY,
    ),
    "16-bit grey TIFF": ("tiff", lambda: stored(PIL.Image.fromarray(SIXTEEN), "TIFF"), GREY),
    "16-bit PGM (mode I)": ("pgm", lambda: stored(PIL.Image.fromarray(SIXTEEN), "PPM"), GREY),
    "floats in [0, 1]": ("tiff", lambda: stored(PIL.Image.fromarray(LEVELS / np.float32(255)), "TIFF"), GREY),
    "CMYK": ("tiff", lambda: stored(PLAIN.convert("CMYK"), "TIFF"), PLAIN),
    "YCbCr": ("tiff", lambda: stored(PLAIN.convert("YCbCr"), "TIFF"), PLAIN.convert("YCbCr").convert("RGB")),
    "palette": ("png", lambda: stored(PALETTE), PALETTE.convert("RGB")),
    "palette with transparency": ("png", lambda: stored(INDEXED, transparency=0), INDEXED_OVER_WHITE),
    "1 bit": ("png", lambda: stored(one_bit()), one_bit().convert("RGB")),
    "LA": ("png", lambda: stored(with_alpha(GREY, "LA")), GREY_OVER_WHITE),
    "RGBA": ("png", lambda: stored(with_alpha(PLAIN, "RGBA")), OVER_WHITE),
    "RGBA in WebP": ("webp", lambda: stored(with_alpha(PLAIN, "RGBA"), "WEBP", lossless=True, exact=True), OVER_WHITE),
    "RGB with tRNS": ("png", lambda: stored(keyed(PLAIN, (1, 2, 3)), transparency=(1, 2, 3)), OVER_WHITE),
    "grey with tRNS": ("png", lambda: stored(keyed(GREY, 0), transparency=0), keyed(GREY, 255)),
    **{f"EXIF {tag}": ("png", lambda tag=tag: turned(tag), PLAIN) for tag in range(1, 9)},
    "EXIF 6 in TIFF": ("tiff", lambda: turned(6, "TIFF"), PLAIN),
    "EXIF 0, which means nothing": ("png", lambda: turned_by_nothing(), PLAIN),
    "a phone's MPO": ("jpg", lambda: stored(PLAIN, "MPO", quality=100, subsampling=0, **two()), PLAIN),
    "JPEG": ("jpg", lambda: stored(PLAIN, "JPEG", quality=100, subsampling=0), PLAIN),
}
LOSSY = {"a phone's MPO", "JPEG"}
REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {  # by form: ending, file, what is said
    "32-bit integers": (
        "tiff",
        lambda: stored(PIL.Image.fromarray(LEVELS.astype(np.int32)), "TIFF"),
        "32-bit integers",
    ),
    "floats to 255": (
        "tiff",
        lambda: stored(PIL.Image.fromarray(LEVELS.astype(np.float32)), "TIFF"),
        "holds floats from",
    ),
    "floats with NaN": (
        "tiff",
        lambda: stored(PIL.Image.fromarray(np.full((9, 9), np.nan, "f4")), "TIFF"),
        "floats from",
    ),
    "8 bits in 16": ("png", lambda: stored(PIL.Image.fromarray(LEVELS.astype(np.uint16))), "so it may hold 8"),
    "16-bit grey with tRNS": ("png", lambda: stored(PIL.Image.fromarray(SIXTEEN), transparency=7), "colour of 16 bits"),
    "animated GIF": ("gif", lambda: stored(PLAIN, "GIF", **two()), "holds 2 pictures"),
    "animated PNG": ("png", lambda: stored(PLAIN, "PNG", **two()), "holds 2 pictures"),
    "animated WebP": ("webp", lambda: stored(PLAIN, "WEBP", **two()), "holds 2 pictures"),
    "TIFF of two pages": ("tiff", lambda: stored(PLAIN, "TIFF", **two()), "holds 2 pictures"),
    "PNG with a damaged checksum": ("png", lambda: miscounted(), "cannot read"),
    "half a PNG": ("png", lambda: stored(PLAIN)[:900], "cannot read"),
}


def miscounted() -> bytes:
    """The picture with one bit turned in the checksum of its last chunk of pixels: decoding alone sees nothing."""
    content = bytearray(stored(PLAIN))
    content[content.index(b"IEND") - 5] ^= 1
    return bytes(content)


def turned_by_nothing() -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = 0
    return stored(PLAIN, exif=exif)


def map_of(picture: object) -> torch.Tensor:
    return explain(model(), picture, REFERENCE, ["sfam"]).query_maps["sfam"]


def folder(root: Path, *names: str, **options: object):
    """A data set of these files, the first of which may have a box."""
    rows = [{"label": n, "path": name, "split": "validation"} for n, name in enumerate(names)]
    box = options.pop("box", None)
    table = pd.DataFrame(rows).assign(is_query=True, is_gallery=True)
    if box:
        table[["x_1", "y_1", "x_2", "y_2"]] = [box, *[(None,) * 4] * (len(names) - 1)]
    table.to_csv(root / "own.csv", index=False)
    return from_csv(root / "own.csv", root, GEOMETRY, **options)


def written(root: Path, ending: str, content: bytes) -> Path:
    file = root / f"picture.{ending}"
    file.write_bytes(content)
    return file


def differences(form: str, root: Path) -> tuple[float, float]:
    """How far the map of a file is from that of the plain picture, by explain and in a folder."""
    ending, made, plain = SAME[form]
    file, expected = written(root, ending, made()), map_of(plain.convert("RGB"))
    own = map_of(folder(root, file.name).sample(file.name).image)
    return float((map_of(file) - expected).abs().max()), float((own - expected).abs().max())


@pytest.mark.parametrize("form", SAME)
def test_the_map_is_that_of_the_plain_picture(form: str, tmp_path: Path) -> None:
    apart = map_of(SAME[form][2].convert("RGB")) - map_of(SAME[form][2].convert("RGB").rotate(180))
    assert apart.abs().max() > 0.1  # so that a picture taken otherwise would be seen
    assert max(differences(form, tmp_path)) <= (0.02 if form in LOSSY else 0)


@pytest.mark.parametrize("form", REFUSED)
def test_what_can_be_read_in_several_ways_is_refused(form: str, tmp_path: Path) -> None:
    ending, made, said = REFUSED[form]
    file = written(tmp_path, ending, made())
    for read in (lambda: map_of(file), lambda: folder(tmp_path, file.name).sample(file.name)):
        with pytest.raises(UserError, match=said) as error:
            read()
        assert "\n" not in str(error.value)
        assert file.name in str(error.value)


def test_pil_images_and_arrays_are_read_as_files_are(tmp_path: Path) -> None:
    expected, grey = map_of(PLAIN), map_of(GREY)
    assert torch.equal(map_of(PIL.Image.open(written(tmp_path, "png", turned(8)))), expected)
    assert torch.equal(map_of(np.asarray(PLAIN)), expected)
    assert torch.equal(map_of(np.asarray(PLAIN) / 255), expected)
    assert torch.equal(map_of(np.asarray(PLAIN).astype(np.uint16) * 257), expected)
    assert torch.equal(map_of(LEVELS), grey)
    assert torch.equal(map_of(np.asarray(with_alpha(PLAIN, "RGBA"))), map_of(OVER_WHITE))
    assert torch.equal(map_of(LEVELS > 127), map_of(one_bit()))


def test_tensors_are_scaled_by_their_type() -> None:
    eight = torch.from_numpy(np.array(PLAIN)).permute(2, 0, 1)
    expected = sample(eight / 255, "query", GEOMETRY).image
    for values in (eight, (eight.to(torch.int32) * 257).to(torch.uint16), eight.double() / 255):
        assert torch.equal(sample(values, "query", GEOMETRY).image, expected)
    assert torch.equal(sample(eight > 127, "query", GEOMETRY).image, (eight > 127).float())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (torch.full((3, 8, 8), 1.0000001), r"query lies in \[1.000000119\d*, 1.000000119\d*\]: give RGB"),
        (torch.full((3, 8, 8), -1e-9), r"query lies in \[-1e-09, -1e-09\]"),
        (np.full((8, 8, 3), 1.5), r"query lies in \[1.5, 1.5\]"),
        (np.full((8, 8, 3), np.nan), "NaN or infinite"),
        (np.full((8, 8, 3), 7), "query is of int64: give uint8"),
        (np.zeros((2, 8, 8)), r"query is an array of \(2, 8, 8\): expected \(rows, cols\)"),
        (np.zeros((3, 8, 3)), r"query is an array of \(3, 8, 3\), whose channels may be first or last: give a PIL"),
        (np.zeros((0, 8)), r"query is an array of \(0, 8\)"),
    ],
)
def test_values_out_of_range_are_refused(values: np.ndarray | torch.Tensor, said: str) -> None:
    with pytest.raises(UserError, match=said):
        map_of(values)


def test_the_background_is_chosen_by_name(tmp_path: Path) -> None:
    file = written(tmp_path, "png", stored(with_alpha(PLAIN, "RGBA")))
    over = PIL.Image.composite(PLAIN, PIL.Image.new("RGB", PLAIN.size, "#336699"), MASK)
    found = explain(model(), file, REFERENCE, ["sfam"], background="#336699")
    assert torch.equal(found.query_maps["sfam"], map_of(over))
    own = folder(tmp_path, file.name, background="#336699").sample(file.name).image
    assert torch.equal(own, found.query)
    assert score(model(), file, REFERENCE, ["sfam"], background="#336699").attrs["score"] == pytest.approx(found.score)
    for wrong in ("whit", "#33669900"):
        with pytest.raises(UserError, match="give an opaque colour"):
            explain(model(), file, REFERENCE, background=wrong)
        with pytest.raises(UserError, match="give an opaque colour"):
            folder(tmp_path, file.name, background=wrong)


@pytest.mark.parametrize("tag", [1, 3, 6])
def test_marks_on_a_turned_photo_are_refused_unless_pixels_are_as_stored(tag: int, tmp_path: Path) -> None:
    file = written(tmp_path, "png", turned(tag))
    box = (5, 4, 30, 20)
    whole = {"box": box}, {"foreground": np.ones((46, 60), dtype=bool)}
    metrics = {"energy": EnergyPointingGame()}
    if tag == 1:
        assert folder(tmp_path, file.name, box=box).sample(file.name).masks["box"].any()
        assert all(score(model(), file, REFERENCE, "sfam", metrics, **marks).notna().all().all() for marks in whole)
        return
    for marks in whole:
        with pytest.raises(UserError, match=r"turned by its EXIF tag.*save it upright"):
            score(model(), file, REFERENCE, "sfam", metrics, **marks)
    with pytest.raises(UserError, match=r"picture.png is turned by its EXIF tag.*orientation=stored"):
        folder(tmp_path, file.name, box=box).sample(file.name)
    kept = folder(tmp_path, file.name, box=box, orientation="stored")
    assert np.array_equal(np.asarray(kept.image(file.name)), np.asarray(PIL.Image.open(file)))
    assert kept.sample(file.name).masks["box"].any()


SQUARE = np.zeros((46, 60), dtype=np.uint8)
SQUARE[10:30, 20:50] = 1
SHARE = SQUARE * 204
SHARE[12, 20:50] = 51  # one of five annotators
EMPTY = np.zeros_like(SQUARE)


def inside(region: object) -> np.ndarray:
    """The mask before the geometry: a picture as large as the model takes it is not cut."""
    return sample(torch.zeros(3, 46, 60), "query", GEOMETRY, foreground=region).masks["foreground"].numpy()


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (SQUARE, SQUARE),
        (SQUARE * 255, SQUARE),
        (SQUARE.astype(np.uint16), SQUARE),
        (SQUARE.astype(np.uint16) * 65535, SQUARE),
        (SHARE, SHARE > 127),
        (EMPTY, EMPTY),
        (EMPTY + 1, EMPTY + 1),
    ],
)
def test_masks_of_levels(levels: np.ndarray, expected: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "mask.png"
    PIL.Image.fromarray(levels).save(file)
    signed = levels.astype(np.int32)
    bits = PIL.Image.fromarray(expected.astype(bool))
    arrays = (levels, signed.astype(float), expected.astype(bool), torch.from_numpy(signed))
    for region in (file, PIL.Image.open(file), bits, bits.convert("RGB"), bits.convert("P"), *arrays):
        assert np.array_equal(inside(region), expected.astype(bool))


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (PIL.Image.fromarray(SQUARE * 2), "foreground has the levels 0, 2, which may be labels"),
        (PIL.Image.fromarray(SQUARE * 51), "may be labels"),
        (PIL.Image.fromarray(np.where(SHARE == 51, 255, SQUARE)), "levels 0, 1, 255, which may be labels"),
        (with_alpha(MASK, "LA"), "transparent pixels"),
        (PIL.ImageOps.colorize(PIL.Image.fromarray(SQUARE * 255), "black", "red"), "in colours"),
        (SQUARE * 0.7, "give bools, such as mask > 0.5"),
        (SQUARE * -1.0, "give bools"),
        (SQUARE * np.nan, "give bools"),
        (SQUARE.astype(str), "give bools"),
    ],
)
def test_what_may_be_no_mask_is_refused(mask: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        inside(mask)
