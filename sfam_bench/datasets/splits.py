"""Train and test splits: by class (zero-shot, the protocol of metric learning) or by image (closed-set)."""

import logging

import pandas as pd

from sfam_bench.core.errors import UserError

SPLITS = ("zero_shot", "closed_set")


def assign_splits(rows: pd.DataFrame, split: str, title: str) -> tuple[pd.Series, str]:
    """Return "train" or "test" for each row, and the name of the split.

    `rows` has `label` and, if the official files hold them, the booleans `train_class` and `train_image`.
    Raises UserError for an unknown split, or one that the files do not hold.
    """
    if split == "zero_shot":
        return zero_shot(rows.label, rows.get("train_class"), title)
    if split == "closed_set":
        return closed_set(rows.get("train_image"), title)
    raise UserError(f"no split {split!r}: expected {' or '.join(SPLITS)}; set dataset.split")


def zero_shot(label: pd.Series, official: pd.Series | None, title: str) -> tuple[pd.Series, str]:
    """Split by class: the official split, or if one side of it is empty, the first half of the sorted class ids."""
    if official is not None and official.nunique() == 2:
        return _name_sides(official), "zero-shot, official"
    classes = sorted(label.unique())
    if len(classes) < 2:
        raise UserError(f"{title} has {len(classes)} class here: a zero-shot split needs two: add class folders")
    name = f"zero-shot, halves of the {len(classes)} classes present"
    logging.getLogger(__name__).warning("%s: one side of the official class split is empty; using %s", title, name)
    return _name_sides(label.isin(classes[: len(classes) // 2])), name


def closed_set(official: pd.Series | None, title: str) -> tuple[pd.Series, str]:
    """Split by image as in the official files; both sides have the same classes, so this is not zero-shot."""
    if official is None or official.nunique() < 2:
        raise UserError(f"{title} has no image-level split here: set dataset.split=zero_shot")
    return _name_sides(official), "closed-set, official"


def _name_sides(train: pd.Series) -> pd.Series:
    return train.map({True: "train", False: "test"})
