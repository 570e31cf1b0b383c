"""Perturbation-based methods beside xaitk-saliency, distance_explainer, dianna and captum."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.differential.comparison import Comparison, Sides
from benchmarks.differential.perturbation_by_definition import MASKS, SIMILARITIES, SIZE, masks_of, mean_colour, small
from benchmarks.differential.settings import ScoreOf, Setting
from sfam_bench.core.similarity import Cosine
from sfam_bench.explainers.distance_explainer import DistanceExplainer
from sfam_bench.explainers.kernel_shap import KernelSHAP
from sfam_bench.explainers.sbsm import SBSM
from sfam_bench.explainers.shared.masking import Grids


def captums() -> Iterator[Sides]:
    """captum's exact Shapley values, with our patches as its features."""
    from captum.attr import ShapleyValues

    rows, cols = (torch.arange(side) * 2 // side for side in SIZE)
    features = (rows[:, None] * 2 + cols)[None, None].expand(1, 3, *SIZE).contiguous()
    for setting in map(small, SIMILARITIES):
        theirs = []
        for pair, image in enumerate(setting.pairs.query):
            wrapped = ScoreOf(setting.model, setting.model.similarity, setting.references[pair : pair + 1])
            found = ShapleyValues(wrapped).attribute(
                image[None], baselines=mean_colour(image)[None], target=0, feature_mask=features
            )
            theirs.append(torch.stack([found[features == feature][0] for feature in range(4)]).view(2, 2))
        yield setting.name, setting.ours(KernelSHAP(grid=2, samples=16)), torch.stack(theirs)


def xaitks() -> Iterator[Sides]:
    """xaitk-saliency's sliding window and score of similarity, before its scale."""
    from xaitk_saliency.impls.gen_descriptor_sim_sal import similarity_scoring
    from xaitk_saliency.impls.perturb_image.sliding_window import SlidingWindow
    from xaitk_saliency.utils.masking import occlude_image_batch

    setting = small(Cosine())
    for window, stride in ((0.3, 0.1), (0.25, 0.14), (0.2, 0.2)):
        theirs = []
        for pair, image in enumerate(setting.pairs.query):
            shown = image.permute(1, 2, 0).numpy()
            (down, row_step), (right, col_step) = ((round(window * side), round(stride * side)) for side in SIZE)
            masks = SlidingWindow((down, right), (row_step, col_step)).perturb(shown)
            inputs = torch.from_numpy(occlude_image_batch(shown, masks)).permute(0, 3, 1, 2)
            with torch.no_grad():
                masked = setting.model(inputs)
            scoring = similarity_scoring.SimilarityScoring("cosine")
            with patch.object(similarity_scoring, "maxabs_scale", lambda values, axis: values):
                found = scoring.generate(
                    setting.encoded.query.embeddings[pair].numpy(),
                    setting.references[pair : pair + 1].numpy(),
                    masked.numpy(),
                    masks,
                )
            theirs.append(torch.from_numpy(found[0]))
        yield f"window {window}, stride {stride}", setting.ours(SBSM(window, stride)), torch.stack(theirs)


def theirs_with(setting: Setting, masks: Callable[[int], Any], **fields: Any) -> Tensor:
    """Maps of distance_explainer's package with the given masks."""
    package: Any = import_module("distance_explainer")

    def model(images: Any) -> Any:
        with torch.no_grad():
            return setting.model(torch.as_tensor(np.asarray(images))).numpy()

    maps = []
    for pair, image in enumerate(setting.pairs.query):
        explainer = package.DistanceExplainer(n_masks=MASKS, axis_labels={0: "channels"}, batch_size=MASKS, **fields)
        with patch("distance_explainer.tqdm", lambda steps, **_: steps):
            found = explainer.explain_image_distance(
                model, image.numpy(), setting.references[pair].numpy(), masks=masks(pair)
            )
        maps.append(torch.as_tensor(np.asarray(found)).view(SIZE))
    return torch.stack(maps)


def distance_explainers(softness: float) -> Iterator[Sides]:
    """The package, with our masks, black behind them."""
    setting = small(Cosine())
    masking = Grids(MASKS, 8, 0.5, 0)

    def ours_to_theirs(pair: int) -> Any:
        return masks_of(masking, setting.pairs.query_ids[pair])[..., None].numpy()

    one_sided = {"mask_selection_negative_range_min": 0, "mask_selection_negative_range_max": 0}
    for name, ours, theirs in (
        ("two-sided", {}, {}),
        ("nearest alone", {"farthest": 0.0}, one_sided),
        (
            "a quarter",
            {"nearest": 0.25, "farthest": 0.25},
            {"mask_selection_range_max": 0.25, "mask_selection_negative_range_min": 0.75},
        ),
    ):
        explainer: Any = partial(DistanceExplainer, masks=MASKS, baseline="zeros", softness=softness)
        yield name, setting.ours(explainer(**ours)), theirs_with(setting, ours_to_theirs, **theirs)


def masks_alike() -> Iterator[Sides]:
    """The masks themselves, from the same cells and shifts."""
    package: Any = import_module("dianna.utils.maskers")
    drawn = Grids(MASKS, 8, 0.5, 0).draw("a", SIZE)
    shifts = torch.stack([drawn.row_shifts, drawn.col_shifts], dim=1).flatten().tolist()
    with (
        patch("numpy.random.choice", lambda **_: drawn.cells.numpy().astype(bool)),
        patch("numpy.random.randint", lambda *_: shifts.pop(0)),
    ):
        theirs = package.generate_interpolated_float_masks_for_image(SIZE, 0.5, MASKS, 8)
    yield "19 x 14", drawn.make(0, MASKS), torch.from_numpy(theirs[..., 0]).double()


COMPARISONS = (
    Comparison("rise", "dianna's masks", masks_alike, package="dianna"),
    Comparison(
        "distance_explainer",
        "distance_explainer DistanceExplainer, softness 0",
        partial(distance_explainers, 0.0),
        package="distance_explainer",
    ),
    Comparison(
        "distance_explainer",
        "distance_explainer DistanceExplainer",
        partial(distance_explainers, DistanceExplainer().softness),
        cause="with our softness, masks at the edge of the nearest and the farthest sets count in part",
        package="distance_explainer",
    ),
    Comparison("sbsm", "xaitk-saliency SimilarityScoring, SlidingWindow", xaitks, package="xaitk_saliency"),
    Comparison("kernel_shap", "captum ShapleyValues", captums, package="captum"),
)
