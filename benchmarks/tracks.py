"""Freeze a track: draw its pairs, copy its weights, and write the digests of everything that decides a value.

python -m benchmarks.tracks NAME [--weights RUN/model.safetensors] [--data CUB_200_2011] [--key KEY]

sfam_bench/tracks/frozen/NAME/track.yaml is written by hand, without `weights` and `images`. A frozen track never
changes: another one gets another name.
"""

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from sfam_bench.app.tracks import build_parts
from sfam_bench.core.errors import UserError
from sfam_bench.core.files import read_json, write_json
from sfam_bench.datasets.base import Dataset
from sfam_bench.explainers.controls import Chance
from sfam_bench.models.build import origin_of
from sfam_bench.models.checkpoint import content_digest, read_ours, weights, write_weights
from sfam_bench.tracks.maps import compute_maps
from sfam_bench.tracks.measure import measure
from sfam_bench.tracks.track import (
    CHANCE,
    DIGESTS,
    FROZEN,
    PAIRS,
    SPEC,
    WEIGHTS,
    Spec,
    Track,
    find_pairs,
    folder_digest,
    images_digest,
    name_by_path,
)

KEPT = ("git", "code", "versions", "chosen", "split", "loss", "miner", "recipe", "retrieval", "weights_sha256")
SEED = 0


def main() -> None:
    """Read the arguments, and freeze."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--key")
    given = parser.parse_args()
    freeze(given.name, given.weights, given.data, given.key)


def freeze(name: str, source: Path | None, data: str | None, key: str | None, frozen: Path = FROZEN) -> None:
    """Complete the folder of a track; raises UserError where it is frozen already."""
    if name in read_digests(frozen):
        raise UserError(f"{name} is frozen: give a new track another name")
    folder = frozen / name
    if source is not None:
        copy_weights(source, folder / WEIGHTS)
    text = (folder / SPEC).read_text()
    spec = Spec(name, folder, "", yaml.safe_load(text))
    dataset, model, target, metrics = build_parts(spec, data, key)
    dataset = name_by_path(dataset)
    given, shares = spec.settings, spec.settings.get("shares")
    pairs = (
        draw_partial_matches(dataset, shares, given.get("classes"))
        if shares
        else draw_positives(dataset, given["count"])
    )
    pairs.to_csv(folder / PAIRS, index=False)
    track = Track(spec, dataset, model, target, metrics, find_pairs(spec, dataset), spec.settings["batch"])
    facts = {"weights": content_digest(weights(model)), "images": images_digest(dataset, track.image_ids)}
    (folder / SPEC).write_text(text + "".join(f"{what}: {value}\n" for what, value in facts.items()))
    values = measure(track, {"chance": compute_maps(track, Chance())})["chance"]
    values.table.to_csv(folder / CHANCE, index=False, float_format="%.6g")
    known = {**read_digests(frozen), name: folder_digest(folder)}
    (frozen / DIGESTS).write_text("".join(f"{one}: {value}\n" for one, value in known.items()))


def read_digests(frozen: Path) -> dict[str, str]:
    """The digests of the tracks that are frozen."""
    file = frozen / DIGESTS
    return yaml.safe_load(file.read_text()) if file.is_file() else {}


def copy_weights(source: Path, to: Path) -> None:
    """Copy weights, and of the facts of their training those that do not name this machine."""
    write_weights(read_ours(source), to)
    facts: dict[str, Any] = read_json(source.with_suffix(".json"), "train again")
    write_json(to.with_suffix(".json"), {name: facts[name] for name in KEPT})
    origin_of(to)


def draw_partial_matches(dataset: Dataset, shares: list[str], classes: int | None) -> pd.DataFrame:
    """Two queries of each of the first test classes; the reference shares the state of one part alone.

    The parts are those of `shares`, in turn; `other` of the first query shares the next one.
    """
    index, draw = dataset.index[dataset.index["split"] == "test"], np.random.default_rng(SEED)
    states = index[list(dataset.with_states)]  # type: ignore[attr-defined]
    rows = []
    for start, (_, own) in enumerate(islice(index.groupby("label"), classes)):
        for number, query in enumerate(draw.permutation(own.index)[:2]):
            equal = states == states.loc[query]
            alone = equal[equal.sum(axis=1) == 1]
            wanted = [shares[(start + number + more) % len(shares)] for more in (0, 1)]
            reference, other = (str(draw.choice(alone.index[alone[part]])) for part in wanted)
            rows.append((query, reference, "" if number else other))
    return pd.DataFrame(rows, columns=["query", "reference", "other"])


def draw_positives(dataset: Dataset, count: int) -> pd.DataFrame:
    """Pairs of two images of a test class, each in one pair alone; every second has an `other` of another class."""
    index, draw = dataset.index[dataset.index["split"] == "test"], np.random.default_rng(SEED)
    orders = [iter(draw.permutation(sorted(own.index))) for _, own in index.groupby("label")]
    rows = []
    for number in range(count):
        query, reference = islice(orders[number % len(orders)], 2)
        others = index.index[index["label"] != index["label"][query]]
        rows.append((query, reference, "" if number % 2 else draw.choice(sorted(others))))
    return pd.DataFrame(rows, columns=["query", "reference", "other"])


if __name__ == "__main__":
    main()
