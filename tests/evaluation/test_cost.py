"""What a map costs is counted, not declared."""

import pytest
import torch

from sfam_bench.core.targets import Similarity
from sfam_bench.evaluation.cost import try_explainers
from sfam_bench.explainers.grad_cam import GradCAM
from sfam_bench.explainers.input_x_gradient import InputXGradient
from sfam_bench.explainers.le_grad import LeGrad
from sfam_bench.explainers.rise import RISE
from tests.contract import only, pairs, tiny


def test_passes_and_memory_of_a_map():
    model, batch = tiny("cosine", "gap", "none"), only(pairs(), [0])
    methods = {"grad_cam": GradCAM(), "input_x_gradient": InputXGradient(), "rise": RISE(masks=32)}
    costs, why = try_explainers(methods, model, Similarity(), batch)
    assert not why
    assert (costs["grad_cam"].forwards, costs["grad_cam"].backwards) == (0, 0)
    assert (costs["input_x_gradient"].forwards, costs["input_x_gradient"].backwards) == (1, 1)
    assert (costs["rise"].forwards, costs["rise"].backwards) == (32, 0)
    image = batch.query.nbytes / 1e6
    assert costs["grad_cam"].megabytes < costs["input_x_gradient"].megabytes
    assert costs["rise"].megabytes > 16 * image  # one batch of masked images at least


def test_what_does_not_fit_is_named_and_costs_nothing():
    model = tiny("cosine", "gap", "none")
    costs, why = try_explainers({"le_grad": LeGrad(), "grad_cam": GradCAM()}, model, Similarity(), pairs(1))
    assert list(costs) == ["grad_cam"]
    assert list(why) == ["le_grad"]


@pytest.mark.parametrize("count", [1, 3])
def test_cost_is_of_one_map_whatever_the_batch(count):
    torch.manual_seed(0)
    model = tiny("cosine", "gap", "none")
    costs, _ = try_explainers({"input_x_gradient": InputXGradient()}, model, Similarity(), pairs(count))
    assert costs["input_x_gradient"].forwards == 1
