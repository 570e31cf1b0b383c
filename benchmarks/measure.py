"""What the speed benchmark measures; each returns figures for the JSON."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import peers
from benchmarks.subjects import SIX, first, network
from benchmarks.timing import interleaved, ratio, spread
from sfam_bench.core.baselines import MeanColour
from sfam_bench.core.maps import ranks as rank
from sfam_bench.core.records import PairBatch, Reference, Side, Term
from sfam_bench.core.targets import Similarity
from sfam_bench.core.types import Images, Maps, RawMaps, Scores
from sfam_bench.engine.calibration import Calibration, ModeTrial
from sfam_bench.engine.modes import Function, Mode, available
from sfam_bench.engine.passes import Passes
from sfam_bench.evaluation.evaluate import answer_questions, make_methods
from sfam_bench.explainers.ablation_cam import AblationCAM, drops_by_passes
from sfam_bench.explainers.controls import Chance
from sfam_bench.explainers.grad_cam import GradCAM
from sfam_bench.explainers.grad_cam_pp import GradCAMPlusPlus
from sfam_bench.explainers.hirescam import HiResCAM
from sfam_bench.explainers.layer_cam import LayerCAM
from sfam_bench.explainers.shared.forms import Explainer, combine
from sfam_bench.explainers.xgrad_cam import XGradCAM
from sfam_bench.metrics.perturbation import Direction, Midpoint, Perturbation, Steps, Trapezoid, Walk
from sfam_bench.metrics.road import Imputed, Imputing
from sfam_bench.metrics.shared.base import Explained, Scene
from sfam_bench.metrics.shared.walks import take_order
from sfam_bench.models.similarity_model import SimilarityModel, encode_pairs

DELETION: tuple[Direction, ...] = ("deletion",)
BOTH: tuple[Direction, ...] = (*DELETION, "insertion")
ACTIVATION: Mapping[str, Explainer] = {
    **{"grad_cam": GradCAM(relu=False), "hirescam": HiResCAM(), "xgrad_cam": XGradCAM(relu=False)},
    **{"grad_cam_pp": GradCAMPlusPlus(epsilon=1e-6, relu=False), "layer_cam": LayerCAM(relu=False)},
    "ablation_cam": AblationCAM(relu=False),
}


@dataclass(frozen=True)
class Setting:
    """One model as it is used here and as its user would have it, its fastest passes, and pairs."""

    model: SimilarityModel
    plain: SimilarityModel
    passes: Passes
    pairs: PairBatch
    modes: Mapping[Mode, Function] = field(default_factory=dict)

    def scene(self) -> Scene:
        """The pairs, encoded."""
        sides = self.pairs.query, self.pairs.reference_images
        return Scene(self.model, encode_pairs(self.model, Similarity(), *sides, passes=self.passes), self.pairs)

    def walk(
        self,
        scene: Scene,
        explainers: Mapping[str, Explainer],
        steps: Steps,
        directions: tuple[Direction, ...] = BOTH,
    ) -> None:
        """Deletion and insertion areas of each method's maps, in one stream."""
        metrics = [Perturbation(name, MeanColour(), steps, min_range=-9) for name in directions]
        for method in answer_questions(make_methods(scene, explainers, [""] * len(self.pairs)), metrics, self.passes):
            for metric in metrics:
                metric(method.explained)

    def sfam(self) -> tuple[Scene, Maps]:
        """SFAM's maps of the pairs."""
        scene = self.scene()
        (method,) = make_methods(scene, {"sfam": SIX["sfam"]}, [""] * len(self.pairs))
        return scene, method.explained.maps


@dataclass(frozen=True)
class Ready:
    """Maps made before the clock runs."""

    raw: RawMaps

    def __call__(self, model: SimilarityModel, encoded: object, pairs: PairBatch) -> RawMaps:
        return self.raw


def rates(setting: Setting, rounds: int) -> dict[str, Any]:
    """Images a second of each way to take passes, and how much faster it is than a user's eager passes one by one."""
    sixteen = setting.pairs.query[:1].expand(16, -1, -1, -1).contiguous()
    tasks: dict[str, Callable[[], object]] = {
        mode: partial(function, sixteen) for mode, function in setting.modes.items()
    }
    tasks["one by one"] = lambda: [setting.plain(image[None]) for image in sixteen[:4]]
    with torch.no_grad():
        seconds = interleaved(tasks, rounds)
    each = {name: [s / (4 if name == "one by one" else 16) for s in found] for name, found in seconds.items()}
    return {
        "images_per_second": {name: spread([1 / s for s in found]) for name, found in each.items()},
        "speed_up": {name: ratio(each["one by one"], found) for name, found in each.items() if name != "one by one"},
    }


def overhead(setting: Setting, methods: int, rounds: int) -> dict[str, float]:
    """The engine from raw maps to areas, over as many passes of the same function and nothing else."""
    batch = setting.pairs.query[:1].expand(setting.passes.batch, -1, -1, -1).contiguous()
    count = 2 * methods * len(setting.pairs) * Midpoint().intervals
    if count % len(batch):
        raise SystemExit(f"{count} passes are no whole number of batches of {len(batch)}: the last would be filled up")
    scene = setting.scene()
    scene.full(), scene.base(MeanColour())
    chosen = list(SIX.items())[:methods]
    ready = {name: Ready(explainer(setting.model, scene.encoded, setting.pairs)) for name, explainer in chosen}
    tasks: dict[str, Callable[[], object]] = {
        "ours": lambda: setting.walk(scene, ready, Midpoint()),
        "raw": lambda: [setting.passes.function(batch) for _ in range(count // len(batch))],
    }
    seconds = interleaved(tasks, rounds)
    return ratio(seconds["ours"], seconds["raw"])


def curves(setting: Setting, rounds: int, rise: Any) -> dict[str, Any]:
    """A deletion of one map by RISE, by us at its steps, and by us at our points for six methods."""
    scene, maps = setting.sfam()
    image, reference = setting.pairs.query, scene.encoded.terms[0].side.embeddings

    def score(images: Images) -> Scores:
        return setting.plain.similarity(setting.plain(images), reference)

    walks = [
        peers.CausalCurve(score, name, 224, MeanColour(), stable=True) for name in DELETION
    ]  # with our order of ties
    points: list[np.ndarray] = []

    def restated() -> None:
        points[:] = [walk(image, maps[0].numpy()) for walk in walks]

    def original() -> None:
        for walk in walks:
            peers.original_curve(rise, walk, image, maps[0].numpy())

    tasks: dict[str, Callable[[], object]] = {
        "rise": original if rise else restated,
        "same steps": lambda: setting.walk(setting.scene(), {"sfam": SIX["sfam"]}, Trapezoid(224), DELETION),
        "our points": lambda: setting.walk(setting.scene(), SIX, Midpoint(), DELETION),
    }
    seconds = interleaved(tasks, rounds)
    if rise:  # its ties fall in another order, and maps at 7 x 7 have ties at the borders
        restated()
    asked = torch.ones(1, dtype=torch.bool)
    ours = [Walk(name, MeanColour(), Trapezoid(224)).scores(Explained(scene, maps), asked)[0] for name in DELETION]
    apart = max(float(np.abs(a.numpy() - b).max()) for a, b in zip(ours, points, strict=True))
    return {
        "rise": "its own code" if rise else "re-stated",
        "largest_difference_of_points_under_the_same_ties": float(f"{apart:.1e}"),
        "speed_up_at_the_same_steps": ratio(seconds["rise"], seconds["same steps"]),
        "speed_up_at_our_points": ratio(seconds["rise"], seconds["our points"], scale=len(SIX)),
    }


def activation_maps(setting: Setting, rounds: int) -> dict[str, Any]:
    """Six methods from one encode of the query, against packages that make one method's maps a call.

    The references are embedded beforehand for all.
    """
    model, pairs = setting.model, setting.pairs
    beforehand = encode_pairs(model, Similarity(), pairs.query, pairs.reference_images)
    references = beforehand.terms[0].side.embeddings
    query = pairs.query.clone().requires_grad_()  # without it grad-cam and torchcam fail on frozen models

    def ours() -> dict[str, RawMaps]:
        encoded = replace(beforehand, query=model.encode(pairs.query))
        return {name: explainer(model, encoded, pairs) for name, explainer in ACTIVATION.items()}

    tasks: dict[str, Callable[[], object]] = {
        "ours": ours,
        "grad-cam": lambda: peers.grad_cam_maps(model, query, references),
        "torchcam": lambda: peers.torchcam_maps(model, query, references),
        "captum": lambda: peers.captum_maps(model, query, references),
    }
    methods = {"ours": len(ACTIVATION), "grad-cam": len(peers.GRAD_CAM), "torchcam": len(peers.TORCHCAM), "captum": 2}
    theirs = peers.grad_cam_raw_maps(model, query, references)
    apart = {name: largest(torch.from_numpy(theirs[name]), raw) for name, raw in ours().items()}
    each = {name: [s / methods[name] for s in found] for name, found in interleaved(tasks, rounds).items()}
    return {
        "maps_per_second": {name: spread([len(pairs) / s for s in found]) for name, found in each.items()},
        "speed_up": {name: ratio(found, each["ours"]) for name, found in each.items() if name != "ours"},
        "differences_to_grad_cam": apart,
        "ablation_cam_to_float64": to_float64(model, pairs),
    }


def to_float64(model: SimilarityModel, pairs: PairBatch) -> float:
    """Ablation-CAM in closed form and float32 against every channel removed in turn in float64, from one encode."""
    encoded = encode_pairs(model, Similarity(), pairs.query[:1], pairs.reference_images[:1])
    double = deepcopy(model).double()

    def exactly(side: Side) -> Side:
        activations = side.activations.double()
        with torch.no_grad():
            return Side(side.images.double(), activations, double.embedder(activations))

    exact = replace(
        encoded,
        query=exactly(encoded.query),
        terms=(Term(1.0, Reference.of(exactly(encoded.terms[0].side.side_for("the benchmark")))),),
    )
    expected = combine(drops_by_passes(double, exact), exact.query.activations)
    ours = AblationCAM(relative=False, relu=False)(model, encoded, first(pairs, 1))
    return largest(expected, ours.double())


def largest(theirs: Tensor, ours: Tensor) -> float:
    """The largest difference as a share of the largest value."""
    return float(f"{(theirs - ours).abs().max() / ours.abs().max():.1e}")


def peer_metrics(setting: Setting) -> dict[str, Any]:
    """What a pass costs in Quantus' pixel flipping, and one image in grad-cam's ROAD, in eager passes one by one."""
    scene, maps = setting.sfam()
    image, reference = setting.pairs.query, scene.encoded.terms[0].side.embeddings
    step = 7 * 224
    tasks: dict[str, Callable[[], object]] = {
        "pass": lambda: [setting.plain(image) for _ in range(20)],
        "quantus": lambda: peers.quantus_pixel_flipping(setting.plain, image, reference, maps, features=step),
        "road": lambda: peers.grad_cam_road(setting.plain, image, reference, maps),
    }
    with torch.no_grad():
        seconds = interleaved(tasks, 3)
    return {
        "quantus_a_score": ratio(seconds["quantus"], seconds["pass"], scale=20 / (image.numel() / step)),
        "road_an_image": ratio(seconds["road"], seconds["pass"], scale=20),
    }


def imputation(setting: Setting) -> dict[str, Any]:
    """ROAD's images of one map, both orders, compared with a sparse direct solve of each."""
    _, maps = setting.sfam()
    image, ranks = setting.pairs.query[0], rank(maps)[0]
    counts = tuple(Imputing("most", 9, 0, 0).removed_counts(ranks.numel()))
    orders = [take_order(ranks, order) for order in ("most", "least")]

    def directly() -> Images:
        made = []
        for order, count in product(orders, counts):
            removed = (order < count).numpy()
            made.append(image.clone())
            made[-1][:, removed] = torch.from_numpy(peers.impute_directly(image.numpy(), removed)).float()
        return torch.stack(made)

    def together() -> Images:
        return torch.cat([Imputed(image, order, counts, 0, 0).images for order in orders])

    seconds = interleaved({"directly": directly, "together": together}, 3)
    return {
        "speed_up": ratio(seconds["directly"], seconds["together"]),
        "largest_difference": float(f"{(directly() - together()).abs().max():.1e}"),
    }


def scaling(setting: Setting) -> dict[str, dict[str, float]]:
    """Milliseconds a pass as pairs, methods and points grow, and with the resolution."""
    found: dict[str, dict[str, float]] = {}

    def measure(name: str, value: int, subject: Setting, methods: int = 2, points: int = 20) -> None:
        scene, explainers = subject.scene(), {f"chance {seed}": Chance(seed) for seed in range(methods)}
        started = time.process_time()
        subject.walk(scene, explainers, Midpoint(points))
        each = (time.process_time() - started) / (2 * methods * len(subject.pairs) * points)
        found.setdefault(name, {})[str(value)] = float(f"{1e3 * each:.3g}")

    one = with_pairs(setting, 1)
    for count in (1, 2, 4):
        measure("pairs", count, with_pairs(setting, count))
    for methods in (1, 4, 16):
        measure("methods", methods, one, methods)
    for points in (8, 40, 224):
        measure("points", points, one, points=points)
    for size in (128, 224, 320):
        query, reference = (F.interpolate(side, (size, size)) for side in (one.pairs.query, one.pairs.reference_images))
        passes = Calibration("eager", seconds=0.1)(one.model, one.model.similarity.matrix, one.pairs.query, 0)
        measure(
            "resolution, eager",
            size,
            Setting(one.model, one.plain, passes, PairBatch(("q",), ("r",), query, reference)),
        )
    return found


def with_pairs(setting: Setting, count: int) -> Setting:
    """The same with the first pairs alone."""
    return Setting(setting.model, setting.plain, setting.passes, first(setting.pairs, count))


def memory() -> dict[str, Any]:
    """Peak memory in MiB of processes that differ in the number of methods or points alone; medians of two."""
    root = Path(__file__).parents[1]

    def peak(methods: int, points: int) -> float:
        command = [sys.executable, "-m", "benchmarks.memory", str(methods), str(points)]
        runs = [subprocess.run(command, check=True, capture_output=True, text=True, cwd=root) for _ in range(2)]
        return spread([float(run.stdout) for run in runs])["median"]

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # memory does not depend on the load
        found = [pool.submit(peak, *given) for given in ((1, 8), (40, 8), (1, 10), (1, 1000))]
    few, many, short, long = (each.result() for each in found)
    methods, points = {"1": few, "40": many}, {"10": short, "1000": long}
    growth = {"methods": methods["40"] / methods["1"], "points": points["1000"] / points["10"]}
    return {"methods": methods, "points": points, "growth": {k: float(f"{v:.4g}") for k, v in growth.items()}}


def setting(name: str, pairs: PairBatch) -> Setting:
    """A model with the fastest passes that calibration finds, and the same model as a user would have it."""
    model = network(name)
    trial = ModeTrial(model, model.similarity.matrix, pairs.query)
    for mode in available(pairs.query.device):
        trial.time(mode, 0.5, Calibration.tolerance)
    passes = trial.passes(max(trial.rates, key=lambda mode: trial.rates[mode]))
    plain = network(name).to(memory_format=torch.contiguous_format)
    return Setting(model, plain, passes, pairs, {mode: trial.functions[mode] for mode in trial.rates})
