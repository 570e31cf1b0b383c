"""Pairs x explainers x metrics -> records; without paths and configs."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain

import torch
from torch import Tensor, nn

from sfam_bench.core.cache import Cache
from sfam_bench.core.columns import MATCHES, POINT_TO_POINT
from sfam_bench.core.errors import UserError
from sfam_bench.core.maps import find_flaws, normalise, upsample
from sfam_bench.core.method_card import card_of
from sfam_bench.core.records import PAIR, Curve, Encoded, PairBatch, Passes, Record, Side, check_names
from sfam_bench.core.targets import Target, can_swap, swap_sides
from sfam_bench.core.types import RawMaps
from sfam_bench.engine.clock import choose_clock
from sfam_bench.engine.series import Comparable, Series
from sfam_bench.explainers.shared.forms import Explainer, Sampling
from sfam_bench.explainers.shared.points import PointPairs, PointToPoint, point_to_point
from sfam_bench.metrics.shared.base import (
    NOT_DRAWN,
    Explained,
    Metric,
    Probe,
    Probing,
    Question,
    Reading,
    Scene,
    no_reason,
)
from sfam_bench.metrics.shared.walks import curves
from sfam_bench.models.similarity_model import SimilarityModel, encode_batch
from sfam_bench.retrieval.recall import Catalogue

KEPT_MATCHES = 12  # of each pair of images, the strongest
POSITIONS = 256  # of an image's grid, at most, whose point-to-point map (the square of that) is kept


@dataclass(frozen=True)
class BatchResult:
    """The results of one batch of pairs: records, curves, and raw maps "<explainer>/query" and "<explainer>/reference".

    The map "point_to_point" holds the joint contribution of each position of the query and each of the reference, and
    "<explainer>/matches" the strongest matches of a method that has them.
    `seconds` are the times of the queries' maps by explainer, separate from records, which are reproducible bit by bit.
    """

    records: list[Record]
    maps: dict[str, Tensor] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    curves: list[Curve] = field(default_factory=list)


def evaluate(
    model: SimilarityModel,
    target: Target,
    batches: Iterable[PairBatch],
    explainers: Mapping[str, Explainer],
    metrics: Mapping[str, Metric],
    dataset: str,
    keep_maps: bool = False,
    passes: Passes | None = None,
    gallery: Catalogue | None = None,
    keep_curves: bool = True,
) -> Iterator[BatchResult]:
    """Explain and measure batch by batch; a metric whose needs a pair or the run does not meet gives no record."""
    check_names(explainers, metrics)
    searched = gallery.to(model.device) if gallery and any("gallery" in m.needs for m in metrics.values()) else None
    for pairs in batches:
        encoded = encode_batch(model, target, pairs, passes)
        if searched:
            searched.check_width(encoded.query.embeddings)
        scene = Scene(model, encoded, pairs, gallery=searched)
        same = self_pairs(pairs)
        shard = BatchResult([], maps=joint_maps(model, encoded) if keep_maps else {})
        names = (dataset, model.name, target.name)
        applied = {name: metric for name, metric in metrics.items() if all(map(scene.has, metric.needs))}
        lacking = {name: pairs.lack(metric.needs) for name, metric in applied.items()}
        for method in answer_questions(make_methods(scene, explainers, same), applied.values(), encoded.passes):
            for name, metric in applied.items():
                found = metric(method.explained)
                holding = {reason: flags.tolist() for reason, flags in found.reasons.items()}
                missed = [*map(any, zip(lacking[name], holding.pop(NOT_DRAWN, lacking[name]), strict=True))]
                why = [
                    NOT_DRAWN if missed[i] else flag or first_true(holding, i) for i, flag in enumerate(method.flags)
                ]
                shard.records.extend(make_records((*names, method.name, name), pairs, found.values.cpu(), why))
            shard.seconds[method.name] = method.seconds
            if keep_curves:
                shard.curves.extend(record_curves(method, pairs, applied.values()))
            if keep_maps:
                shard.maps[f"{method.name}/query"] = method.raw.cpu()
                joint = None if method.explained.expensive else method.explained.point_pairs
                if joint and has_small_grids(encoded):
                    shard.maps[f"{method.name}/{MATCHES}"] = strongest_matches(joint()).cpu()
                if can_swap(encoded):
                    other = raw_maps(explainers[method.name], model, *swap_pairs(encoded, pairs))
                    shard.maps[f"{method.name}/reference"] = other.cpu()
        scene.full()
        if scene.has_images and not isinstance(model.embedder.projection, nn.Identity):
            scene.headless()
        for fact, values in scene.facts.items():
            shard.records.extend(make_records((*names, PAIR, fact), pairs, values.cpu(), same))
        yield shard


@dataclass(frozen=True)
class Method:
    """One explainer's maps of a batch of pairs, and the reason for each that cannot be measured."""

    name: str
    raw: RawMaps
    scaled: RawMaps
    flags: list[str]
    explained: Explained
    seconds: float


def make_methods(scene: Scene, explainers: Mapping[str, Explainer], same: list[str]) -> Iterator[Method]:
    """The maps of each explainer, computed lazily."""
    size, clock = (scene.pairs.query.shape[-2], scene.pairs.query.shape[-1]), choose_clock(scene.model.device)
    for name, explainer in explainers.items():
        start = clock()
        raw = raw_maps(explainer, scene.model, scene.encoded, scene.pairs)
        if raw.is_cuda:
            torch.cuda.synchronize(raw.device)
        seconds = clock() - start
        scaled = normalise(raw)
        remake = partial(raw_maps, explainer) if card_of(explainer).remakes else None
        expensive = isinstance(explainer, Sampling) or card_of(explainer).expensive
        joint = joint_values(explainer, scene)
        explained = Explained(scene, upsample(scaled, size), name, raw, remake, expensive=expensive, point_pairs=joint)
        yield Method(name, raw, scaled, find_flags(raw, same), explained, seconds)


def answer_questions(methods: Iterable[Method], metrics: Iterable[Metric], passes: Passes) -> Iterator[Method]:
    """The methods in turn, each after the scores of all probes of its maps are computed.

    One stream of passes serves all methods and metrics, with at most two methods in progress. Where the maps of two
    methods give the same images (Grad-CAM, HiResCAM and XGrad-CAM under GAP) the later one uses the scores of the
    earlier; maps that differ by rounding alone may give others, so that they are not compared themselves.
    """
    probing = [metric for metric in metrics if isinstance(metric, Probing)]
    if not probing:
        yield from methods
        return
    in_progress: deque[tuple[Method, dict[Question, Cache]]] = deque()

    def questions() -> Iterator[tuple[tuple[Method, Question], Series]]:
        known: dict[tuple[Question, bytes], Cache] = {}
        for method in methods:
            needed = dict.fromkeys(chain.from_iterable(list_questions(metric, method.explained) for metric in probing))
            lent: dict[Question, Cache] = {}
            in_progress.append((method, lent))
            for question, series in method.explained.ask(needed):
                if isinstance(series, Comparable) and not isinstance(question[0], Reading):
                    answers = known.setdefault((question, series.digest()), method.explained.answers)
                    if answers is not method.explained.answers:
                        lent[question] = answers
                        continue
                yield (method, question), series

    def finish_first() -> Method:
        method, lent = in_progress.popleft()
        method.explained.answers.update({question: answers[question] for question, answers in lent.items()})
        return method

    for (method, question), embeddings in passes(questions()):
        while in_progress[0][0] is not method:
            yield finish_first()
        method.explained.answer(question, embeddings)
    while in_progress:
        yield finish_first()


def list_questions(metric: Probing, method: Explained) -> Iterator[Question]:
    """Each probe of a metric, with each pair that has a value."""
    pairs = no_reason(metric.reasons(method)).nonzero()[:, 0].tolist()
    return ((probe, pair) for probe in metric.probes for pair in pairs)


def count_passes(metrics: Iterable[Metric], methods: int, pairs: int, pixels: int, own: int = 0) -> int:
    """The greatest number of passes of an evaluation; `own` are the passes of all explainers for a pair."""
    shares: dict[Probe, float] = {}
    for metric in metrics:
        if isinstance(metric, Probing):
            shares.update({probe: max(metric.share, shares.get(probe, 0)) for probe in metric.probes})
    return pairs * own + round(methods * pairs * sum(share * probe.count(pixels) for probe, share in shares.items()))


def own_passes(explainers: Iterable[Explainer], query: Side, keep_maps: bool = False) -> int:
    """The number of passes of the explainers for a pair, twice that where the reference's map is kept too."""
    passes = sum(explainer.forwards(query) for explainer in explainers if isinstance(explainer, Sampling))
    return passes * (2 if keep_maps else 1)


def raw_maps(explainer: Explainer, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
    """One map for each pair; raises UserError for another number, which would shift the rows, or no tensor."""
    raw = explainer(model, encoded, pairs)
    if not isinstance(raw, Tensor):
        raise UserError(f"{explainer} returned {type(raw).__name__}: expected a tensor, (batch, rows, cols)")
    if raw.ndim != 3 or len(raw) != len(pairs):
        raise UserError(f"{explainer} returned {tuple(raw.shape)} for {len(pairs)} pairs: expected (batch, rows, cols)")
    return raw.detach()


def swap_pairs(encoded: Encoded, pairs: PairBatch) -> tuple[Encoded, PairBatch]:
    """Exchange query and reference, with their ids, which seed random methods: a map of them is the reference's."""
    swapped = swap_sides(encoded)
    return swapped, PairBatch(pairs.reference_ids, pairs.query_ids, swapped.query.images, encoded.query.images)


def joint_values(explainer: Explainer, scene: Scene) -> Callable[[], PointPairs] | None:
    """Computes the values of the pairs of positions of both images once; None for methods that have none."""
    if not isinstance(explainer, PointToPoint) or not can_swap(scene.encoded):
        return None
    return cache(partial(explainer.point_pairs, scene.model, scene.encoded, scene.pairs))


def joint_maps(model: SimilarityModel, encoded: Encoded) -> dict[str, Tensor]:
    """The point-to-point maps of a target with one reference image, in half precision; none for large grids."""
    if not has_small_grids(encoded):
        return {}
    reference = encoded.terms[0].side.side_for("a point-to-point map")
    return {POINT_TO_POINT: point_to_point(model, encoded.query, reference).cpu().half()}


def has_small_grids(encoded: Encoded) -> bool:
    """Whether values for all pairs of positions are small enough to be computed for a whole batch and kept."""
    if not can_swap(encoded):
        return False
    sides = encoded.query, encoded.terms[0].side.side_for("a point-to-point map")
    return all(side.activations[0, 0].numel() <= POSITIONS for side in sides)


def strongest_matches(joint: PointPairs) -> Tensor:
    """The positions that contribute most together, (batch, matches, 5), the strongest first.

    Each is the place in the query (down, across), in the reference (down, across), as shares of height and width, and
    the value.
    """
    flat = joint.flatten(1)
    places = flat.abs().topk(min(KEPT_MATCHES, flat.shape[1]), dim=1).indices
    cells = torch.stack(torch.unravel_index(places, joint.shape[1:]), dim=2)
    shares = (cells.float() + 0.5) / torch.tensor(joint.shape[1:], device=joint.device)
    return torch.cat([shares, flat.gather(1, places)[:, :, None]], dim=2)


def self_pairs(pairs: PairBatch) -> list[str]:
    """A flag for each pair of an image with itself, by id or by pixels; empty for other pairs."""
    if not isinstance(pairs.reference, Tensor):  # prototypes and vectors; a query among its supports is refused
        return [""] * len(pairs)
    equal = (pairs.query == pairs.reference).flatten(1).all(dim=1).tolist()
    ids = zip(pairs.query_ids, pairs.reference_ids, strict=True)
    return [
        "self_pair" if query == reference or same else "" for (query, reference), same in zip(ids, equal, strict=True)
    ]


def record_curves(method: Method, pairs: PairBatch, metrics: Iterable[Metric]) -> Iterator[Curve]:
    """The raw curves of the metrics, for the pairs that have values."""
    for name, (fraction, scores) in curves(method.explained, metrics).items():
        whole = scores.isfinite().all(dim=1).tolist()
        for i, score in enumerate(scores.tolist()):
            if whole[i] and not method.flags[i]:
                yield Curve(method.name, name, pairs.query_ids[i], pairs.reference_ids[i], fraction, score)


def find_flags(raw: RawMaps, same: list[str]) -> list[str]:
    """The reason why each pair's map cannot be measured; empty where it can."""
    nonfinite, constant = (flags.tolist() for flags in find_flaws(raw))
    return [
        pair or ("nonfinite_map" if bad else "constant_map" if flat else "")
        for pair, bad, flat in zip(same, nonfinite, constant, strict=True)
    ]


def first_true(flags: dict[str, list[bool]], pair: int) -> str:
    """The first reason that holds for a pair; empty where none does."""
    return next((reason for reason, holds in flags.items() if holds[pair]), "")


def make_records(
    names: tuple[str, str, str, str, str], pairs: PairBatch, values: Tensor, flags: list[str]
) -> Iterator[Record]:
    """Records of one metric; flagged values are NaN, NaN values are flagged, and pairs not drawn are left out."""
    for query, reference, value, flag in zip(pairs.query_ids, pairs.reference_ids, values.tolist(), flags, strict=True):
        if flag == NOT_DRAWN:
            continue
        reason = flag or ("" if math.isfinite(value) else "nonfinite_value")
        yield Record(*names, query, reference, float("nan") if reason else value, reason)
