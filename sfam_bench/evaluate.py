"""Pairs x explainers x metrics -> records. Knows no path and no config."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from sfam_bench.errors import UserError
from sfam_bench.explainers.forms import Explainer
from sfam_bench.maps import flagged, normalise, upsample
from sfam_bench.metrics.base import Explained, Metric, Scene
from sfam_bench.models.similarity_model import SimilarityModel, encode_pairs
from sfam_bench.records import Encoded, PairBatch, Record
from sfam_bench.targets import Target, swapped
from sfam_bench.types import RawMaps

PAIR = "pair"  # stands for the explainer where a value belongs to the pair itself


@dataclass(frozen=True)
class Shard:
    """What one batch of pairs gave: records, and raw maps by "<explainer>/query" and "<explainer>/reference"."""

    records: list[Record]
    maps: dict[str, Tensor] = field(default_factory=dict)


def evaluate(
    model: SimilarityModel,
    target: Target,
    batches: Iterable[PairBatch],
    explainers: Mapping[str, Explainer],
    metrics: Mapping[str, Metric],
    dataset: str,
    keep_maps: bool = False,
) -> Iterator[Shard]:
    """Explain and measure batch by batch; a metric whose regions the batch lacks gives no record for it."""
    for pairs in batches:
        scene = Scene(model, encode_pairs(model, target, pairs.query, pairs.reference, pairs.negative), pairs)
        same = self_pairs(pairs)
        shard = Shard([])
        names = (dataset, model.name, target.name)
        size = (pairs.query.shape[-2], pairs.query.shape[-1])
        for name, explainer in explainers.items():
            raw = raw_maps(explainer, model, scene.encoded, pairs)
            flags = reasons(raw, same)
            explained = Explained(scene, upsample(normalise(raw), size))
            for metric_name, metric in metrics.items():
                if all(region in pairs.masks for region in metric.needs):
                    undefined = {reason: flag.tolist() for reason, flag in metric.undefined(explained).items()}
                    why = [flag or first_true(undefined, i) for i, flag in enumerate(flags)]
                    values = metric(explained).cpu()
                    shard.records.extend(rows((*names, name, metric_name), pairs, values, why))
            if keep_maps:
                shard.maps[f"{name}/query"] = raw.cpu()
                if len(scene.encoded.terms) == 1:
                    shard.maps[f"{name}/reference"] = raw_maps(explainer, model, swapped(scene.encoded), pairs).cpu()
        scene.full()
        if not isinstance(model.embedder.projection, nn.Identity):
            scene.headless()
        for fact, values in scene.facts.items():
            shard.records.extend(rows((*names, PAIR, fact), pairs, values.cpu(), same))
        yield shard


def raw_maps(explainer: Explainer, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
    """One map a pair, or UserError: an explainer that returns fewer would silently shift the rows."""
    raw = explainer(model, encoded, pairs)
    if raw.ndim != 3 or len(raw) != len(pairs):
        raise UserError(f"{explainer} returned {tuple(raw.shape)} for {len(pairs)} pairs: expected (batch, rows, cols)")
    return raw.detach()


def self_pairs(pairs: PairBatch) -> list[str]:
    """Flag pairs of an image with itself, by id or by pixels."""
    equal = (pairs.query == pairs.reference).flatten(1).all(dim=1).tolist()
    ids = zip(pairs.query_ids, pairs.reference_ids, strict=True)
    return [
        "self_pair" if query == reference or same else "" for (query, reference), same in zip(ids, equal, strict=True)
    ]


def reasons(raw: RawMaps, same: list[str]) -> list[str]:
    """Why a pair's map cannot be measured, or nothing."""
    nonfinite, constant = (flags.tolist() for flags in flagged(raw))
    return [
        pair or ("nonfinite_map" if bad else "constant_map" if flat else "")
        for pair, bad, flat in zip(same, nonfinite, constant, strict=True)
    ]


def first_true(flags: dict[str, list[bool]], pair: int) -> str:
    """The first reason that holds for a pair, or nothing."""
    return next((reason for reason, holds in flags.items() if holds[pair]), "")


def rows(names: tuple[str, str, str, str, str], pairs: PairBatch, values: Tensor, flags: list[str]) -> Iterator[Record]:
    """Records of one metric; a flagged value is NaN and a NaN value is flagged."""
    for query, reference, value, flag in zip(pairs.query_ids, pairs.reference_ids, values.tolist(), flags, strict=True):
        reason = flag or ("" if math.isfinite(value) else "nonfinite_value")
        yield Record(*names, query, reference, float("nan") if reason else value, reason)
