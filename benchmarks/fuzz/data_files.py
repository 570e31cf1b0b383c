"""Broken images, masks and .mat files of a data set."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image

from benchmarks.fuzz.damage_bytes import damage
from benchmarks.fuzz.expected import FOREGROUND, Judge, content, either, less, refused, same, without
from benchmarks.fuzz.layouts import CAR_NAMES, CLASSES, EACH, Layout, Snapshot, annotate, car

Change = Callable[[Layout, Snapshot, Random], tuple[str, Judge, tuple[str, ...]]]


def huge_png() -> bytes:
    """A PNG whose header says 60,000 x 60,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


def image_file(layout: Layout, truth: Snapshot, random: Random) -> tuple[str, Judge, tuple[str, ...]]:
    """One image is not what it was."""
    name = random.choice(sorted(truth))
    path, data = layout.images[name], layout.images[name].read_bytes()
    ways = (
        "missing",
        "empty",
        "cut",
        "text",
        "folder",
        "pipe",
        "huge",
        "dangling",
        "link out",
        "link in",
        "PNG",
        "RGBA",
    )
    how = random.choice(ways)
    path.unlink()
    outside = layout.home.parent / "outside" / path.name
    outside.parent.mkdir(exist_ok=True)
    judge = either(without(truth, [name]), refused())
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how in ("dangling", "link out"):
        if how == "link out":
            outside.write_bytes(data)
        path.symlink_to(outside)
        judge = judge if how == "dangling" else refused()
    elif how == "link in":
        path.with_name("there.bin").write_bytes(data)
        path.symlink_to("there.bin")
        judge = same(truth)
    elif how in ("PNG", "RGBA"):
        outside.write_bytes(data)
        with PIL.Image.open(outside) as image:
            image.convert("RGB" if how == "PNG" else "RGBA").save(path, format="PNG")
        judge = same(truth)
    elif how != "missing":
        short = data[: random.randrange(1, len(data) * 9 // 10)]
        path.write_bytes({"empty": b"", "cut": short, "text": b"<html>404</html>", "huge": huge_png()}[how])
    return f"image {path.name}: {how}", judge, (path.name, name)


def mask_file(layout: Layout, truth: Snapshot, random: Random) -> tuple[str, Judge, tuple[str, ...]]:
    """One mask is not what it was."""
    name = random.choice(sorted(truth))
    path = layout.masks[name]
    how = random.choice(
        ("0 and 1", "missing", "cut", "another size", "text", "RGBA", "bits", "16 bits", "empty", "link out")
    )
    data, pixels = path.read_bytes(), np.asarray(PIL.Image.open(path))
    judge = refused()
    path.unlink()
    if how in ("0 and 1", "RGBA", "bits", "16 bits"):
        light = pixels > 0
        modes: dict[str, np.ndarray] = {
            "0 and 1": light.astype(np.uint8),
            "16 bits": light.astype(np.uint16) * 65535,
            "bits": light,
        }
        image = PIL.Image.fromarray(pixels).convert("RGBA") if how == "RGBA" else PIL.Image.fromarray(modes[how])
        image.save(path)
        judge = same(truth)
    elif how == "another size":
        PIL.Image.fromarray(pixels.T.copy()).save(path)
    elif how == "link out":
        outside = layout.home.parent / path.name
        outside.write_bytes(data)
        path.symlink_to(outside)
    elif how == "missing":
        judge = less(truth, FOREGROUND)
    else:
        path.write_bytes({"cut": data[: len(data) // 2], "text": b"no image", "empty": b""}[how])
    return f"mask {path.name}: {how}", judge, (path.name, name)


def mat_bytes(layout: Layout, truth: Snapshot, random: Random) -> tuple[str, Judge, tuple[str, ...]]:
    """Bytes of a .mat file are damaged: right or refused, since it is compressed with a checksum."""
    path = layout.mats["annotations"]
    return damage(path, random.randrange(7), random), same(truth), (path.name,)


def mat_content(layout: Layout, truth: Snapshot, random: Random) -> tuple[str, Judge, tuple[str, ...]]:
    """A well-formed .mat file says what cannot be."""
    rows = [car(at, label) for at, label in enumerate(label for label in CLASSES for _ in range(EACH))]
    rows = [{**row, "file": f"car_ims/{row['file']}"} for row in rows]
    row, path = random.choice(rows), layout.mats["annotations"]
    values: dict[str, list[Any]] = {
        "class": [0, -3, np.nan, 1.5, 10**9, "Audi", np.array([1, 2])],
        "bbox_x1": [np.nan, 10**6, np.inf, "left", np.array([])],
        "bbox_x2": [-5, 0, np.nan, 10**18],
        "file": ["../outside.jpg", "/etc/hostname", "", rows[0]["file"] if row is not rows[0] else rows[1]["file"], 7],
        "test": [np.nan, 7, "yes"],
    }
    key = random.choice(sorted(values))
    row[key] = random.choice(values[key])
    annotate(path, "relative_im_path", rows, class_names=np.array(CAR_NAMES, dtype=object)[None])
    harmless = key == "test"  # of the split by image, which is not asked for
    return (
        f"annotations: {key} is {row[key]!r}",
        same(truth) if harmless else refused(),
        (path.name, "/outside.jpg", "hostname", "image '0"),
    )


def mat_file(layout: Layout, truth: Snapshot, random: Random) -> tuple[str, Judge, tuple[str, ...]]:
    """The .mat file is none, or lacks what is read of it."""
    path = layout.mats["annotations"]
    how = random.choice(
        ("empty", "folder", "HDF5", "text", "no class_names", "no annotations", "no class", "few names")
    )
    rows = [{**car(at, label), "file": f"car_ims/{at + 1:06d}.jpg"} for at, label in enumerate(sorted(CLASSES * EACH))]
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how in ("empty", "HDF5", "text"):
        path.write_bytes(
            {"empty": b"", "HDF5": b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n", "text": b"1 2"}[how]
        )
    else:
        kept = [{k: v for k, v in row.items() if how != "no class" or k != "class"} for row in rows]
        names = np.array(CAR_NAMES[: 3 if how == "few names" else None], dtype=object)[None]
        more = {} if how == "no class_names" else {"class_names": names}
        annotate(path, "relative_im_path", kept, **more)
        if how == "no annotations":
            from scipy.io import savemat

            savemat(path, more)
    judge = either(refused(), less(truth, 1)) if how == "few names" else refused()
    return f"cars_annos.mat: {how}", judge, (path.name, str(layout.home))


def own_index(layout: Layout, truth: Snapshot, random: Random) -> tuple[str, Judge, tuple[str, ...]]:
    """An index of one's own says what cannot be."""
    path = layout.home / "index.pkl"
    table: pd.DataFrame = pd.read_pickle(path)  # noqa: S301 - of layouts.own
    at = random.choice(list(table.index))
    values: dict[str, list[Any]] = {
        "label": [-1, 1.5, None, "one", np.nan],
        "box": [
            (22.0, 3.0, 2.0, 20.0),
            (np.nan,) * 4,
            (0.0, 0.0, np.inf, 9.0),
            (100.0, 100.0, 120.0, 120.0),
            (1.0, 2.0),
            "box",
        ],
        "path": ["../photos/00.png", "/etc/hostname", None, 3],
        "split": ["validation", None, "Train"],
        "mask_path": ["../photos/00.png", "/etc/hostname", 5],
        "keypoints": [np.zeros((3, 2), np.float32), "left"],
        "id": [None],
    }
    key = random.choice(sorted(values))
    value = random.choice(values[key])
    if key == "id":
        table.index = pd.Index([*table.index[:-1], table.index[0]], name="image_id")
    else:
        column = table[key].astype(object)
        column.loc[at] = None
        table[key] = [value if name == at else old for name, old in column.items()]
    table.to_pickle(path)
    return f"index: {key} of {at} is {value!r}", refused(), (str(at), key, table.index[0], "hostname", "photos")


def class_folders(layout: Layout, truth: Snapshot, random: Random) -> tuple[str, Judge, tuple[str, ...]]:
    """CUB in class folders alone, one of which is odd."""
    (layout.home / "images.txt").unlink()
    del layout.tables["attributes"]  # of the official ids, which class folders do not have
    folders = sorted((layout.home / "images").iterdir())
    folder = random.choice(folders)
    how = random.choice(
        ("as it is", "a link out", "without a number", "number 000", "twice the number", "empty", "a file")
    )
    judge: Judge = content(truth)
    images = {name for name, path in layout.images.items() if path.parent == folder}
    rest = content({name: row for name, row in truth.items() if name not in images})
    if how == "a link out":
        folder.rename(layout.home.parent / folder.name)
        folder.symlink_to(layout.home.parent / folder.name)
        judge = refused()
    elif how == "without a number":
        folder.rename(folder.with_name("Some_bird"))
        judge = rest
    elif how in ("number 000", "twice the number"):
        number = "000" if how == "number 000" else folders[folders.index(folder) - 1].name[:3]
        folder.rename(folder.with_name(f"{number}.Some_bird"))
        judge = refused()
    elif how in ("empty", "a file"):
        for path in folder.iterdir():
            path.unlink()
        if how == "a file":
            folder.rmdir()
            folder.write_text("no folder")
        judge = rest
    return f"class folders: {folder.name} {how}", judge, (folder.name, "Some_bird", str(Path(folder.parent)))
