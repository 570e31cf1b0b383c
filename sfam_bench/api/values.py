"""Measure maps with metrics: a table of one pair, or the records of many."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from itertools import chain, islice
from typing import Any

import pandas as pd
from torch import nn

from sfam_bench.api.maps import BATCH
from sfam_bench.api.models import find_model
from sfam_bench.api.pairs import Pair, Pairs, Reference, load_batches, read_pairs, target_of
from sfam_bench.core.errors import UserError, check_object
from sfam_bench.core.geometry import Geometry
from sfam_bench.core.metric_card import metric_facts
from sfam_bench.core.records import PairBatch, Passes, Record
from sfam_bench.core.references import MEAN, Prototype
from sfam_bench.core.stream import progress
from sfam_bench.core.targets import Margin, Similarity, Target
from sfam_bench.datasets.pictures import Corners, Picture, Region
from sfam_bench.evaluation.evaluate import PAIR
from sfam_bench.evaluation.evaluate import evaluate as evaluate_batches
from sfam_bench.evaluation.named import Explainers, Metrics, explainers_of, metrics_of
from sfam_bench.metrics.shared.base import NOT_DRAWN
from sfam_bench.retrieval.recall import Catalogue

METRICS = (  # default metrics, names of conf/metric
    "insertion_minus_deletion_mean_colour",
    "deletion_mean_colour",
    "insertion_mean_colour",
    "average_drop",
    "energy_pointing_game",
    "energy_pointing_game_ratio",
    "pointing_game",
    "iou_50",
    "gini",
    "completeness",
)
GIVE = {"foreground": "give foreground= or box=", "box": "give box=", "negative": "give negative="}


def score(
    model: nn.Module | None,
    query: Picture | Pairs,
    reference: Reference | Pairs | None = None,
    explainers: Explainers = None,
    metrics: Metrics = None,
    foreground: Region | Sequence[Region] | None = None,
    box: Corners | Sequence[Corners] | None = None,
    background: str = "white",
    negative: Reference | Pairs | None = None,
    how: Prototype = MEAN,
    batch_size: int = BATCH,
) -> pd.DataFrame:
    """Measure the maps of a pair, or of many.

    Args:
        model: the model to explain, or any module from images to embeddings (`SimilarityModel.wrap`); None for
            `default_model()`.
        query: as in `explain`.
        reference: as in `explain`.
        explainers: as in `explain`.
        metrics: names of metrics, objects, a list of both, or a mapping from names to them; None for deletion,
            insertion, their difference, average drop, Gini index and completeness, and with `foreground` or `box` the
            localisation metrics that apply.
        foreground: mask of the query's object, as large as the query's file: booleans, 0 and 1, or grey levels of which
            those above half of white are inside; one for each of many queries.
        box: box of the query's object, x1, y1, x2, y2 in pixels of the query's file; one for each of many queries.
        background: colour behind transparent pixels.
        negative: as in `explain`: the margin is explained and measured.
        how: as in `explain`.
        batch_size: as in `explain`.

    Returns:
        A row for each method and a column for each metric, NaN where a metric is undefined. `attrs["score"]` is the
        similarity of the pair (or its margin), `attrs["flags"]` the reason for each NaN by method and metric,
        `attrs["metrics"]` the direction, label and meaning of each metric. Of many pairs the rows are indexed by the
        number of the pair and the method, and `attrs` holds a list of scores and a list of flags.

    Raises:
        UserError: if an image or mask cannot be read, a name is unknown, a metric needs a region or a negative that was
            not given, a pair is given twice, the mask's levels may be class labels, or a photo with an EXIF rotation
            comes with a mask or box (which may refer to it before or after the rotation).
    """
    measured = metrics_of(metrics, METRICS)
    pairs, are_many = read_pairs(query, reference, negative, foreground, box)
    _check_unique(pairs)
    for name, metric in [*measured.items()]:
        missing = [need for need in metric.needs if not all(pair.has(need) for pair in pairs)]
        if missing and metrics is not None:
            how_to = GIVE.get(missing[0], "leave it out, or use sfam-bench evaluate")
            raise UserError(f"{name} needs {missing[0]}, which is not known of this pair: {how_to}")
        if missing:
            del measured[name]
    chosen, used = explainers_of(explainers), find_model(model)
    batches = load_batches(pairs, used.geometry, background, how, batch_size)
    shards = evaluate_batches(used, target_of(pairs), batches, chosen, measured, "pair", keep_curves=False)
    total = math.ceil(len(pairs) / batch_size)
    records = [
        record
        for shard in (progress(shards, "score", total, "batch") if are_many else shards)
        for record in shard.records
    ]
    cells = {(*_ids(record), record.explainer, record.metric): (record.value, record.flag) for record in records}
    tables, flags = [], []
    for pair in pairs:
        rows = {
            name: [cells.get((*pair.ids[:2], name, metric), (math.nan, NOT_DRAWN)) for metric in measured]
            for name in chosen
        }
        table = [[value for value, _ in row] for row in rows.values()]
        tables.append(pd.DataFrame(table, [*chosen], [*measured]))
        flags.append(
            {
                name: {key: flag for key, (_, flag) in zip(measured, row, strict=True) if flag}
                for name, row in rows.items()
            }
        )
    scores = [cells[(*pair.ids[:2], PAIR, "s_full")][0] for pair in pairs]
    if not are_many:
        whole = tables[0].rename_axis(index="explainer", columns="metric")
        whole.attrs.update(score=scores[0], flags=flags[0], metrics=metric_facts(measured))
        return whole
    whole = pd.concat(dict(enumerate(tables)), names=["pair", "explainer"]).rename_axis(columns="metric")
    whole.attrs.update(score=scores, flags=flags, metrics=metric_facts(measured))
    return whole


def evaluate(
    model: nn.Module | None,
    pairs: Pairs | Iterable[PairBatch],
    explainers: Explainers = None,
    metrics: Metrics = None,
    target: Target | None = None,
    gallery: Catalogue | None = None,
    dataset: str = "pairs",
    background: str = "white",
    how: Prototype = MEAN,
    batch_size: int = BATCH,
    passes: Passes | None = None,
) -> pd.DataFrame:
    """Explain and measure many pairs: the records that `sfam-bench evaluate` writes, as a frame.

    Args:
        model: as in `explain`.
        pairs: a list, a frame or a CSV of pairs, as in `explain`; a frame may have the columns foreground and box too.
            Or batches of a data set (`datasets.pairs.load_batches`), with its masks, parts and keypoints.
        explainers: as in `explain`.
        metrics: as in `score`.
        target: what is explained and measured; None for the margin if the pairs have negatives, else the similarity.
        gallery: the embeddings that metrics of retrieval search; without it they have no records.
        dataset: name of the data set in the records.
        background: colour behind transparent pixels.
        how: as in `explain`.
        batch_size: as in `explain`.
        passes: how perturbed images are embedded; None for float32 eager.

    Returns:
        A row for each metric, method and pair, with the columns of [records](api.md#records). A metric whose needs are
        not met has no rows, and is named in `attrs["skipped"]`; `attrs["metrics"]` describes the metrics.

    Raises:
        UserError: as `score`, except for needs that are not met.
    """
    if target is not None:
        check_object(target, "target", Target)
    chosen, used, measured = explainers_of(explainers), find_model(model), metrics_of(metrics, METRICS)
    batches, total, explained = _read_batches(pairs, used.geometry, background, how, batch_size)
    shards = evaluate_batches(
        *(used, target or explained, batches, chosen, measured, dataset),
        passes=passes,
        gallery=gallery,
        keep_curves=False,
    )
    records = [asdict(record) for shard in progress(shards, "evaluate", total, "batch") for record in shard.records]
    frame = pd.DataFrame(records, columns=[field.name for field in fields(Record)])
    there = {*frame["metric"]}
    frame.attrs.update(metrics=metric_facts(measured), skipped=[name for name in measured if name not in there])
    return frame


def _read_batches(
    pairs: Any, geometry: Geometry, background: str, how: Prototype, batch_size: int
) -> tuple[Iterable[PairBatch], int | None, Target]:
    """The batches, their number if it is known, and what is explained by default."""
    total = len(pairs) if isinstance(pairs, list | tuple) else None
    if isinstance(pairs, Iterator | list | tuple):
        stream = iter(pairs)
        first = [*islice(stream, 1)]
        if first and isinstance(first[0], PairBatch):
            return chain(first, stream), total, Similarity() if first[0].negative is None else Margin()
        pairs = [*first, *stream]
    listed, _ = read_pairs(pairs)
    _check_unique(listed)
    batches = load_batches(listed, geometry, background, how, batch_size)
    return batches, math.ceil(len(listed) / batch_size), target_of(listed)


def _ids(record: Record) -> tuple[str, str]:
    return record.query_id, record.reference_id


def _check_unique(pairs: Sequence[Pair]) -> None:
    """Raise UserError if two pairs cannot be told apart in records."""
    first: dict[tuple[str, ...], int] = {}
    for at, pair in enumerate(pairs):
        if (earlier := first.setdefault(pair.ids[:2], at)) != at:
            raise UserError(
                f"pair {at} has query and reference of pair {earlier} ({', '.join(pair.ids[:2])}): remove one"
            )
