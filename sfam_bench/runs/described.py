"""Descriptions of metrics for older manifests, which lack them, by the keys that they used."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

RENAMED = {"Metrics that see the pair": "Metrics that depend on the pair"}  # groups
LIST = Path(__file__).with_name("older_metrics.json")


def add_descriptions(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with descriptions added for known metrics; its own entries are kept, groups under their new names.

    Curves whose steps the list leaves open were sampled by the steps of the run.
    """
    metrics = manifest.get("metrics") or {}
    if not any("group" not in facts or facts["group"] in RENAMED for facts in metrics.values()):
        return dict(manifest)
    target, *values = (manifest.get("steps") or {"_target_": ""}).values()
    steps = " ".join([str(target).rpartition(".")[2], *map(str, values)])
    found = {name: {**older_metrics().get(name, {}), **facts} for name, facts in metrics.items()}
    for facts in found.values():
        facts["group"] = RENAMED.get(group := str(facts.get("group", "")), group)
    return {**manifest, "metrics": {n: {**f, "steps": steps} if f.get("steps") == "" else f for n, f in found.items()}}


@cache
def older_metrics() -> dict[str, dict[str, Any]]:
    """The metrics of older runs by key, whose manifests do not describe them."""
    known: dict[str, dict[str, Any]] = json.loads(LIST.read_text(encoding="utf-8"))
    return known
