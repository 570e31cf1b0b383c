"""The manifest of a run folder, read and checked."""

from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import read_json
from sfam_bench.core.protocol import CHOICES

EACH = "*"  # in a mapping of what a manifest may hold: every key
NUMBER, TEXT, NONE = (int, float), (str,), type(None)
SAID: Mapping[str, Any] = {  # of a metric
    **{"higher_is_better": (bool, NONE), "threshold": (*NUMBER, NONE)},
    **dict.fromkeys(("group", "label", "meaning", "family", "role", "chance"), TEXT),
    **dict.fromkeys(("baseline", "steps"), (str, NONE)),
    "needs": [TEXT],
}
MAY_HOLD: Mapping[str, Any] = {  # types of a value; of a list, its items; of a mapping, its values by key
    **dict.fromkeys(
        ("kind", "dataset", "model", "embedding", "target", "similarity", "git", "code", "config_hash"), TEXT
    ),
    **{
        "done": (bool,),
        "shards": (int,),
        "merged": {"batches": (int,)},
        "digests": {EACH: TEXT},
        "files": {EACH: TEXT},
    },
    **{"metrics": {EACH: SAID}, "cost": {EACH: {EACH: NUMBER}}},
    "explainer_settings": {EACH: {}},
    **{"blind": [TEXT], "explainers": [TEXT], "skipped": [TEXT], "unsupported": {EACH: TEXT}},
    **{"split": {"name": TEXT, "hash": TEXT}, "image_counts": {EACH: (int,)}, "retrieval": {EACH: NUMBER}},
    "episodes": {EACH: NUMBER},
    "protocol": {
        **{"source": (str, NONE), "chosen": (*CHOICES, NONE), "weights": (str, NONE), "allowed": {EACH: TEXT}},
        "trained_on": {"dataset": TEXT, "name": TEXT, "hash": TEXT, "classes": (int,)},
    },
    "passes": {
        **{"mode": TEXT, "batch": (int,), "threads": (int,), "device": TEXT, "images_per_second": {EACH: NUMBER}},
        **{"score_differences": {EACH: (*NUMBER, NONE)}, "refused": {EACH: TEXT}},
    },
    "tuned": {EACH: {"chosen": {}, "budget": {"completed": (int,)}, "objective": {"metric": TEXT}}},
    **{"steps": {}, "prepared": {EACH: {}}, "codes": {EACH: TEXT}, "resumed": [{"code": TEXT, "git": TEXT}]},
}
NEEDED: Mapping[str, tuple[str, ...]] = {  # keys that a part has wherever it is there
    **{"merged": ("batches",), "protocol": ("source", "chosen", "allowed")},
    **{"protocol.trained_on": ("dataset", "name", "hash", "classes")},
    **{
        "tuned.*": ("chosen", "budget", "objective"),
        "tuned.*.budget": ("completed",),
        "tuned.*.objective": ("metric",),
    },
}


def read_manifest(root: Path) -> dict[str, Any]:
    """Read the manifest of a run folder; UserError if it is missing, damaged, or not a manifest."""
    if not Path(root).is_dir():
        raise UserError(f"no run folder {root}: check the path")
    if not (path := Path(root) / "manifest.json").is_file():
        raise UserError(f"{root} is not a run folder (no manifest.json): pass the folder of an evaluation")
    state = path.stat()
    return deepcopy(_read(path.absolute(), state.st_size, state.st_mtime_ns, state.st_ino))


@lru_cache(maxsize=1000)
def _read(path: Path, *state: int) -> dict[str, Any]:
    """Read a manifest, cached while its file does not change: an old one is warned of once."""
    manifest = read_json(path, "restore it, or evaluate again into another run_dir")
    if wrong := find_misfit(manifest, MAY_HOLD):
        raise UserError(f"{path} is not the manifest of an evaluation: {wrong}; pass the folder of an evaluation")
    return manifest


def find_misfit(value: Any, expected: Any, name: str = "", place: str = "") -> str:
    """The first value of an unexpected type, by its place; empty if there is none."""
    if isinstance(expected, Mapping):
        return "" if value is None else _find_mapping_misfit(value, expected, name, place)
    if isinstance(expected, list):
        if value is not None and not isinstance(value, list):
            return f"{name} is {_short(value)}, not a list"
        return next(
            filter(None, (find_misfit(one, expected[0], f"{name}[{i}]", place) for i, one in enumerate(value or []))),
            "",
        )
    kinds = tuple(one for one in expected if isinstance(one, type))
    right = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
    return "" if right or value in [one for one in expected if isinstance(one, str)] else f"{name} is {_short(value)}"


def _find_mapping_misfit(value: Any, expected: Mapping[str, Any], name: str, place: str) -> str:
    if not isinstance(value, Mapping):
        return f"{name} is {_short(value)}, not a mapping"
    if absent := [key for key in NEEDED.get(place, ()) if key not in value]:
        return f"{name} has no {absent[0]}"
    found = []
    for key, one in value.items():
        if (own := expected.get(key, expected.get(EACH))) is not None:
            at = EACH if key not in expected else key
            found.append(find_misfit(one, own, f"{name}.{key}".lstrip("."), f"{place}.{at}".lstrip(".")))
    return next(filter(None, found), "")


def _short(value: Any) -> str:
    return repr(value)[:60]
