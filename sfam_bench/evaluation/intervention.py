"""The intervention check: does repainting the planted evidence, and no other part, change the retrieved class?"""

from collections.abc import Callable, Iterable
from math import isnan
from typing import Any

import numpy as np
import pandas as pd
import torch

from sfam_bench.core.records import Sample
from sfam_bench.core.stream import split_chunks
from sfam_bench.core.types import Embeddings, Images
from sfam_bench.datasets.planted.dataset import Planted

CHUNK = 64
FLIPS = 0.5  # least share of queries that a cause must flip for a model to count
MARGIN = 2.0  # how many times as often as any part that is not a cause


def intervention_check(
    embed: Callable[[Images], Embeddings], dataset: Planted, count: int = 100, seed: int = 0
) -> pd.DataFrame:
    """Repaint each part of test queries in turn; one row for each part: `part`, `evidence`, `flips`, `count`.

    Queries are up to `count` random test images whose nearest neighbour by cosine among the other test images has their
    class. `flips` is the share of them whose nearest neighbour has another class after repainting.
    """
    test = dataset.index[dataset.index["split"] == "test"]
    labels = torch.tensor(test["label"].to_numpy())
    gallery = _embed(embed, (dataset.sample(image_id) for image_id in test.index))
    right = torch.nonzero(_nearest_label(gallery, gallery, labels, torch.arange(len(test))) == labels).ravel()
    draw = np.random.default_rng(seed)
    chosen = right[torch.from_numpy(draw.permutation(len(right))[:count])]
    rows = []
    for part in (*dataset.parts, *dataset.aspects):
        repainted = _embed(embed, [_repaint(dataset, test.index[int(k)], part, draw) for k in chosen])
        flips = _nearest_label(repainted, gallery, labels, chosen) != labels[chosen]
        share = float(flips.double().mean()) if len(chosen) else float("nan")
        rows.append((part, part in dataset.causes, share, len(chosen)))
    return pd.DataFrame(rows, columns=["part", "evidence", "flips", "count"])


def intervention_facts(frame: pd.DataFrame, dataset: Planted) -> dict[str, Any]:
    """The check for a manifest: flips by part, the number of queries, the causes, and why the model does not count.

    `states` are the parts, and changes without a region, on which a class may depend.
    """
    flips = {part: None if isnan(share) else share for part, share in zip(frame["part"], frame["flips"], strict=True)}
    count, states = int(frame["count"].iloc[0]), [*dict.fromkeys((*dataset.with_states, *dataset.aspects))]
    facts = {"flips": flips, "queries": count, "causes": [*dataset.causes], "states": states}
    return {**facts, "fails": why_not(frame, dataset)}


def why_not(frame: pd.DataFrame, dataset: Planted) -> str:
    """Why a model does not count in tables of known answers, by the frame of `intervention_check`; empty if it does.

    Each cause of the world must change the retrieved class of at least half of the queries, and more than twice as
    often as any part without states, on which no class depends.
    """
    flips = frame.set_index("part")["flips"]
    if flips.isna().any():
        return "it retrieves the class of no query"
    weakest = flips[[*dataset.causes]]
    part, share = weakest.idxmin(), weakest.min()
    if share < FLIPS:
        return f"repainting the {part} changes {share:.0%} of the retrieved classes, not {FLIPS:.0%}"
    others = flips.drop([*{*dataset.with_states, *dataset.aspects}])
    if share <= MARGIN * others.max():
        other = f"repainting the {others.idxmax()}, on which no class depends, changes {others.max():.0%}"
        return f"{other} of the retrieved classes, the {part} {share:.0%}"
    return ""


def _repaint(dataset: Planted, image_id: str, part: str, draw: np.random.Generator) -> Sample:
    """Give a part with states another of them, and any other part another appearance."""
    if part in dataset.with_states:
        others = [state for state in range(dataset.count_states(part)) if state != dataset.index.loc[image_id, part]]
        return dataset.repaint(image_id, part, int(draw.choice(others)))
    return dataset.repaint(image_id, part, int(draw.integers(1, 2**31)))


def _embed(embed: Callable[[Images], Embeddings], samples: Iterable[Sample]) -> torch.Tensor:
    """Unit embeddings (images, dims), a chunk at a time."""
    chunks = [embed(torch.stack([sample.image for sample in chunk])) for chunk in split_chunks(samples, CHUNK)]
    embeddings = torch.cat(chunks).detach().cpu() if chunks else torch.zeros(0, 1)
    return torch.nn.functional.normalize(embeddings, dim=1)


def _nearest_label(
    queries: torch.Tensor, gallery: torch.Tensor, labels: torch.Tensor, own: torch.Tensor
) -> torch.Tensor:
    """Label (queries,) of each query's nearest gallery item, without the query itself at position `own`."""
    if not len(queries):
        return labels[:0]
    scores = queries @ gallery.T
    scores[torch.arange(len(queries)), own] = -torch.inf
    return labels[scores.argmax(dim=1)]
