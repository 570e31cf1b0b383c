"""Splits: by class (zero-shot, few-shot), by image (closed-set), or none: every image is a test image."""

import logging

import pandas as pd

from sfam_bench.core.errors import UserError

SPLITS = ("zero_shot", "closed_set", "few_shot", "none")
SIDES = {True: "train", False: "test"}
# Chen et al., ICLR 2019, filelists/CUB/write_CUB_filelist.py of their code: by class index modulo 4
FEW_SHOT = {0: "train", 1: "validation", 2: "train", 3: "test"}


def assign_splits(rows: pd.DataFrame, split: str, title: str) -> tuple[pd.Series, str]:
    """Return "train", "validation" or "test" for each row, and the name of the split.

    `rows` has `label` and, if the official files hold them, the booleans `train_class` and `train_image`, and
    `class_index`, the position of the class in the complete data set. zero_shot splits by class: officially, or if one
    official side is empty, into halves of the sorted class ids. closed_set splits by image, so that both sides have the
    same classes. few_shot splits by class index i as Chen et al. (ICLR 2019) split CUB: train i % 2 = 0, validation
    i % 4 = 1, test i % 4 = 3; without `class_index` i counts the sorted classes present. Raises UserError for an
    unknown split, or one that the files do not hold.
    """
    if split not in SPLITS:
        raise UserError(f"no split {split!r}: expected {', '.join(SPLITS)}; set dataset.split")
    if split == "none":
        return pd.Series("test", rows.index), "none, all images are test images"
    if split == "few_shot":
        return _split_few_shot(rows, title)
    train, name = rows.get("train_class" if split == "zero_shot" else "train_image"), split.replace("_", "-")
    if train is not None and train.nunique() == 2:
        return train.map(SIDES), f"{name}, official"
    if split == "closed_set":
        raise UserError(f"{title} has no image-level split here: set dataset.split=zero_shot")
    classes = sorted(rows.label.unique())
    if len(classes) < 2:
        raise UserError(f"{title} has {len(classes)} class here: a zero-shot split needs two: add class folders")
    name = f"{name}, halves of the {len(classes)} classes present"
    logging.getLogger(__name__).warning("%s: one side of the official class split is empty; using %s", title, name)
    return rows.label.isin(classes[: len(classes) // 2]).map(SIDES), name


def _split_few_shot(rows: pd.DataFrame, title: str) -> tuple[pd.Series, str]:
    official = "class_index" in rows
    places = rows["class_index"] if official else rows.label.rank(method="dense").astype(int) - 1
    sides = places.astype(int).mod(4).map(FEW_SHOT)
    counts = rows.label.groupby(sides).nunique()
    if absent := [side for side in ("train", "test") if side not in counts]:
        raise UserError(f"{title} has {rows.label.nunique()} classes here, none for {absent[0]}: few_shot needs four")
    found = "/".join(str(counts.get(side, 0)) for side in ("train", "validation", "test"))
    return sides, f"few-shot, {found} classes by {'official ' if official else ''}index"
