"""Rules for models that may be evaluated: selected without test classes, evaluated on unseen classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from sfam_bench.core.errors import UserError

OURS = "sfam_bench"
CHOICES = {  # how weights were chosen: value in a checkpoint -> description in a table
    "last epoch": "last epoch",
    "validation": "epoch chosen on held-out training classes",
    "test": "chosen on the test classes",
    "unknown": "not known how it was chosen",
}
FAULTS = ("test_selected", "closed_set", "random_weights")
RANDOM = "random"  # weights that nobody trained
NEEDED = ("dataset", "name", "hash")  # strings of a split


@dataclass(frozen=True)
class Evaluated:
    """The classes evaluated, with their data set and split; `closed` if train and test share classes.

    `names` are those of the classes: their numbers may be ranks among the classes that are there.
    """

    dataset: str
    split_hash: str
    classes: frozenset[int]
    closed: bool
    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, dataset: str, split_hash: str, index: pd.DataFrame, image_ids: Sequence[str]) -> "Evaluated":
        """Describe the images `image_ids` of an index of datasets.base."""
        train, test = (set(index.loc[index["split"] == side, "label"]) for side in ("train", "test"))
        own = index.loc[list(image_ids), ["label", "class_name"]].drop_duplicates()
        classes = frozenset(int(label) for label in own["label"])
        return cls(dataset, split_hash, classes, bool(train & test), frozenset(own["class_name"].astype(str)))


@dataclass(frozen=True)
class Protocol:
    """Evaluate on unseen classes; select on held-out training classes or not at all (Musgrave et al., ECCV 2020).

    allow: faults that are recorded with the results instead of refused: test_selected, closed_set, random_weights.
    """

    allow: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.allow if name not in FAULTS]:
            raise UserError(f"protocol.allow holds '{unknown[0]}': choose from {', '.join(FAULTS)}")

    def admit(self, name: str, origin: Mapping[str, Any], evaluated: Evaluated) -> dict[str, Any]:
        """Return source, selection, faults and training split of a model, in JSON types; UserError if it is refused.

        `name` is the model or its file, `origin` that of a SimilarityModel. `allowed` holds the faults that it has.
        """
        if why := describe_damage(origin):
            raise UserError(f"{name}: the record of its training is damaged: {why}; restore the JSON, or train again")
        wrong = list_faults(origin, evaluated)
        if refused := [why for fault, why in wrong.items() if fault not in self.allow]:
            raise UserError(
                f"{name} breaks the protocol: {'; '.join(refused)}; take another checkpoint or split, or set "
                f"protocol.allow=[{','.join(wrong)}], which every table then states"
            )
        facts: dict[str, Any] = {name: origin.get(name) for name in ("source", "chosen", "weights")} | {
            "allowed": wrong
        }
        if split := origin.get("split"):
            known = {name: split[name] for name in NEEDED}
            facts["trained_on"] = {**known, "classes": len(set(split["train_classes"]))}
        return facts


def list_faults(origin: Mapping[str, Any], evaluated: Evaluated) -> dict[str, str]:
    """The faults of an undamaged origin on these classes: descriptions by name in FAULTS."""
    found = {}
    if parts := origin.get("random"):
        inside = "" if "trunk" in parts else f" in its {' and '.join(parts)}"
        found["random_weights"] = f"RANDOM WEIGHTS{inside}"
    if origin.get("chosen") == "test":
        found["test_selected"] = "it was chosen on the test classes"
    split = origin.get("split") or {}
    shared: frozenset[int] | frozenset[str] = frozenset()
    # equal hashes mean the same images with the same labels, whatever the name of the data set
    if split and split["hash"] == evaluated.split_hash:
        shared = evaluated.classes & {*split["train_classes"]}
    elif split and split["dataset"] == evaluated.dataset:  # other images may have moved the numbers of the classes
        numbers, names = evaluated.classes & {*split["train_classes"]}, split.get("class_names")
        shared = numbers if names is None else evaluated.names & {*names}
    if shared:
        other = "" if split["hash"] == evaluated.split_hash else f" under another split (hash {split['hash']})"
        found["closed_set"] = (
            f"it was trained on {len(shared)} of the {len(evaluated.classes)} classes evaluated{other}"
        )
    elif evaluated.closed:
        found["closed_set"] = f"the split of {evaluated.dataset} has the same classes on both sides"
    return found


def describe_damage(origin: Mapping[str, Any]) -> str:
    """Describe what is wrong with the format of an origin; empty if nothing, or if there is no origin."""
    if not origin.keys() - {"weights", "random"}:
        return ""
    chosen, source, split = origin.get("chosen"), origin.get("source"), origin.get("split")
    if not isinstance(chosen, str) or chosen not in CHOICES:
        return f"'chosen' is {chosen!r}, not one of {', '.join(CHOICES)}"
    if not isinstance(source, str):
        return f"'source' is {source!r}, not a string"
    if split is None:
        return "it has no 'split'" if source == OURS and chosen != "unknown" else ""
    if not isinstance(split, Mapping):
        return f"'split' is {split!r}, not a mapping"
    if bad := [name for name in NEEDED if not (isinstance(split.get(name), str) and split[name])]:
        return f"'split.{bad[0]}' is {split.get(bad[0])!r}, not a non-empty string"
    classes = split.get("train_classes")
    if not isinstance(classes, list) or not classes or not all(type(label) is int for label in classes):
        return "'split.train_classes' is not a list of class numbers"
    names = split.get("class_names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return "'split.class_names' is not a list of names"
    return ""
