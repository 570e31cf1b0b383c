"""The values of a submission on its track, and the controls that every submission undergoes."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.core.maps import normalise, upsample
from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import RawMaps
from sfam_bench.datasets.batches import load_batch, load_batches
from sfam_bench.evaluation.evaluate import evaluate
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.explainers.similarity_decomposition import SimilarityDecomposition
from sfam_bench.metrics.causal import CausalAgreement, compare_parts, read_relevance
from sfam_bench.metrics.randomisation import ModelRandomisation
from sfam_bench.metrics.shared.base import Explained, Metric
from sfam_bench.metrics.shared.effects import measure_effects, read_effects
from sfam_bench.metrics.shared.scene import Scene
from sfam_bench.models.similarity_model import SimilarityModel, encode_batch
from sfam_bench.tracks.maps import Maps
from sfam_bench.tracks.track import Track, list_ids, without_answers

EXACT = "similarity decomposition"  # no name of a submission
RANDOMISED = "model_randomisation"
ByPair: TypeAlias = Mapping[tuple[str, str], Float[Tensor, "grid_rows grid_cols"]]
Controls: TypeAlias = dict[str, list[float]]


@dataclass(frozen=True, eq=False)
class GivenMaps:
    """map(query, reference), out of those that were submitted."""

    card: ClassVar[Card] = Card(remakes=False)

    by_pair: ByPair = field(repr=False)

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        ids = zip(pairs.query_ids, pairs.reference_ids, strict=True)
        return torch.stack([self.by_pair[pair] for pair in ids]).to(encoded.query.images)


@dataclass(frozen=True)
class Values:
    """Values by metric, a row for each scored pair of a track; NaN where undefined.

    reasons: how many are undefined, by metric and reason.
    """

    table: pd.DataFrame
    reasons: Mapping[str, Mapping[str, int]]


def sort_by_pair(track: Track, maps: Maps) -> ByPair:
    """The maps by query_id and reference_id."""
    return dict(zip(list_ids(track.explained), maps.raw, strict=True))


def measure(track: Track, maps: Mapping[str, Maps]) -> dict[str, Values]:
    """Measure the maps of submissions, by name, by the metrics of their track, in float32 eager."""
    given = {name: GivenMaps(sort_by_pair(track, one)) for name, one in maps.items()}
    frame = run(track, track.pairs, given, track.metrics)
    found = {}
    for name in maps:
        own = frame[frame["explainer"] == name]
        reasons = {
            str(metric): {str(flag): int(count) for flag, count in part["flag"].value_counts().items()}
            for metric, part in own[own["flag"] != ""].groupby("metric")
        }
        table = pivot(track.pairs, own).reindex(columns=[*track.metrics]).reset_index(drop=True)
        found[name] = Values(table, reasons)
    return found


def run(
    track: Track, pairs: pd.DataFrame, explainers: Mapping[str, Explainer], metrics: Mapping[str, Metric]
) -> pd.DataFrame:
    """The records of `evaluate` on some pairs of a track; methods see ids and images alone if no metric sees more."""
    batches: Iterable[PairBatch] = load_batches(track.dataset, track.batches(pairs))
    if not any(metric.needs for metric in metrics.values()):
        batches = map(without_answers, batches)
    shards = evaluate(track.model, track.target, batches, explainers, metrics, track.dataset.name, keep_curves=False)
    return pd.DataFrame([vars(record) for shard in shards for record in shard.records])


def pivot(pairs: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """The values of one method: a row for each pair in order, a column for each metric."""
    keys = ["query_id", "reference_id"]
    table = records.pivot(index=keys, columns="metric", values="value")
    return table.reindex(pd.MultiIndex.from_frame(pairs[keys]))


def control(track: Track, maps: Mapping[str, Maps], methods: Mapping[str, Explainer]) -> dict[str, Controls]:
    """The values of each control by submission, one for each controlled pair; without those that do not apply.

    change_other, change_self: the Euclidean distance of the query's normalised maps with two references, the pair's own
        and another one or the query itself, over the length of the first; 0 for a map that is blind to the reference.
    follows: see `measure_following`; on tracks whose parts can be redrawn.
    randomised, randomised_exact: similarity of the map to that of the model with random weights, of the method and of
        the exact decomposition; for submissions in `methods` that take no forward passes.
    """
    by_pair = {name: sort_by_pair(track, one) for name, one in maps.items()}
    following, randomised = measure_following(track, by_pair), randomise(track, methods)
    return {
        name: {**measure_change(track, by_pair[name]), **following.get(name, {}), **randomised.get(name, {})}
        for name in maps
    }


def measure_change(track: Track, by_pair: ByPair) -> Controls:
    """The change of the maps of one submission with the reference; see `control`."""
    pairs = track.controlled
    own, other, same = (
        normalise(torch.stack([by_pair[pair] for pair in list_ids(pairs.assign(reference_id=pairs[f"{side}_id"]))]))
        for side in ("reference", "other", "query")
    )
    length = own.flatten(1).norm(dim=1).clamp_min(1e-12)
    changed = {"change_other": other, "change_self": same}
    return {name: ((own - maps).flatten(1).norm(dim=1) / length).tolist() for name, maps in changed.items()}


def measure_following(track: Track, by_pair: Mapping[str, ByPair]) -> dict[str, Controls]:
    """How much better each of two maps of a query agrees with the effects of its own reference than of the other's.

    With maps M, N and effects e, f of two references: (r(M, e) + r(N, f) - r(M, f) - r(N, e)) / 2, r the causal
    agreement. It is 0 for maps that are equal, and on average for maps that differ at random. Undefined terms count as
    0, no agreement. Empty where the track has no parts to redraw.
    """
    metric = next((one for one in track.metrics.values() if isinstance(one, CausalAgreement)), None)
    if metric is None:
        return {}
    found: dict[str, Controls] = {name: {"follows": []} for name in by_pair}
    for frame in track.batches(track.controlled):
        frames = frame, frame.assign(reference_id=frame["other_id"])
        scenes = [open_scene(track, one) for one in frames]
        first = measure_effects(scenes[0], metric.repeats)
        effects = first, read_effects(scenes[0], scenes[1].encoded.terms, metric.repeats)  # by the same passes
        for name, maps in by_pair.items():
            agreement = torch.zeros(2, 2, len(frame), dtype=torch.float64)
            for row, (scene, one) in enumerate(zip(scenes, frames, strict=True)):
                raw = normalise(torch.stack([maps[pair] for pair in list_ids(one)]))
                size = (scene.pairs.query.shape[-2], scene.pairs.query.shape[-1])
                explained = Explained(scene, upsample(raw, size))
                for column, of in enumerate(effects):
                    relevance = read_relevance(explained, of, metric.of)
                    values = compare_parts(relevance, of.means, of, metric.measure).values
                    agreement[row, column] = values.nan_to_num(0)
            crossed = agreement[0, 0] + agreement[1, 1] - agreement[0, 1] - agreement[1, 0]
            found[name]["follows"] += (crossed / 2).tolist()
    return found


def open_scene(track: Track, pairs: pd.DataFrame) -> Scene:
    """A batch of pairs, encoded."""
    batch = load_batch(track.dataset, pairs)
    return Scene(track.model, encode_batch(track.model, track.target, batch), batch)


def randomise(track: Track, methods: Mapping[str, Explainer]) -> dict[str, Controls]:
    """Similarity of the maps to those of the model with random weights, of methods and of the exact decomposition."""
    if not methods:
        return {}
    explainers, copied = {**methods, EXACT: SimilarityDecomposition()}, replace(track, model=deepcopy(track.model))
    frame = run(copied, track.controlled, explainers, {RANDOMISED: ModelRandomisation(value="full")})
    frame = frame[frame["metric"] == RANDOMISED]
    values = {
        str(name): pivot(track.controlled, part)[RANDOMISED].tolist() for name, part in frame.groupby("explainer")
    }
    return {name: {"randomised": values[name], "randomised_exact": values[EXACT]} for name in methods if name in values}


def describe_values(table: pd.DataFrame) -> dict[str, list[float | None]]:
    """A table as JSON: the values of each metric in the order of the pairs, null where undefined."""
    return {
        str(name): [None if np.isnan(value) else float(f"{value:.6g}") for value in column.to_numpy(dtype=float)]
        for name, column in table.items()
    }


def restore_values(values: Mapping[str, Any]) -> pd.DataFrame:
    """The table of `describe_values`, without its index; UserError where columns differ in length."""
    if len({len(column) for column in values.values()}) > 1:
        lengths = ", ".join(f"{len(column)} of {name}" for name, column in values.items())
        raise UserError(f"the numbers of values differ ({lengths}): score the method again")
    return pd.DataFrame({name: np.array(column, dtype=float) for name, column in values.items()})
