"""Train and test splits: by class (zero-shot, the protocol of metric learning) or by image (closed-set)."""

import logging

import pandas as pd

from sfam_bench.core.errors import UserError

SPLITS = ("zero_shot", "closed_set")
SIDES = {True: "train", False: "test"}


def assign_splits(rows: pd.DataFrame, split: str, title: str) -> tuple[pd.Series, str]:
    """Return "train" or "test" for each row, and the name of the split.

    `rows` has `label` and, if the official files hold them, the booleans `train_class` and `train_image`. zero_shot
    splits by class: officially, or if one official side is empty, into halves of the sorted class ids. closed_set
    splits by image, so that both sides have the same classes. Raises UserError for an unknown split, or one that the
    files do not hold.
    """
    if split not in SPLITS:
        raise UserError(f"no split {split!r}: expected {' or '.join(SPLITS)}; set dataset.split")
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
