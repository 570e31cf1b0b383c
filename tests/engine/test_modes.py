"""Real compilers and converters on a small network: the same function, and a model that is left as it was."""

import sys
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from shutil import which

import pytest
import torch
from torch import nn

from sfam_bench.core.baselines import MeanColour
from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import Similarity
from sfam_bench.engine import calibration, modes
from sfam_bench.engine.calibration import Calibration
from sfam_bench.engine.modes import MODES, available, evaluating, without_grad
from sfam_bench.evaluation.evaluate import evaluate
from sfam_bench.explainers.controls import LaFAM
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.metrics.perturbation import Midpoint, Perturbation
from sfam_bench.models.build import build
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP

BATCH = 4
CALLERS = [torch.inference_mode, torch.no_grad, torch.enable_grad]
needs_compiler = pytest.mark.skipif(
    not any(map(which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler"
)
needs_openvino = pytest.mark.skipif(not find_spec("openvino"), reason="openvino is not installed")


def network():
    """Batch norm with statistics and a layer of its own mind, so that train and eval mode differ a lot."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    for value, low in ((norm.running_mean, -1), (norm.running_var, 0.5), (norm.weight, 0.5), (norm.bias, -1)):
        nn.init.uniform_(value, low, 1.0)
    convolution = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    return nn.Sequential(convolution, norm, nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def images(seed, count=BATCH):
    return torch.rand(count, 3, 12, 10, generator=torch.Generator().manual_seed(seed))


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@contextmanager
def left_alone(model):
    """Weights, statistics, modes and hooks are afterwards what they were."""
    weights, training = state(model), [module.training for module in model.modules()]
    asked = [parameter.requires_grad for parameter in model.parameters()]
    yield
    assert [module.training for module in model.modules()] == training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == asked
    assert not any("forward" in vars(module) or module._forward_hooks for module in model.modules())


@pytest.fixture(scope="module")
def built():
    """Each mode, built once, from a model in train mode all but for one layer: `built(name)` is (model, function)."""
    known = {}

    def build(name):
        if name not in known:
            model = network().train()
            model[0].eval()
            with left_alone(model):
                function = MODES[name](model, images(0))
                function(images(0))
            known[name] = model, function
        return known[name]

    return build


COMPILED = (needs_compiler, pytest.mark.slow)
TRUE = ["eager", pytest.param("compiled", marks=COMPILED), pytest.param("openvino", marks=needs_openvino)]
ALL = [*TRUE, pytest.param("half", marks=COMPILED)]


def expected(batch):
    with torch.no_grad():
        return network().eval()(batch)


@pytest.mark.parametrize("name", TRUE)
def test_a_mode_computes_what_the_model_does_in_eval_mode(built, name):
    model, function = built(name)
    with left_alone(model):
        for seed in (0, 1):
            torch.testing.assert_close(function(images(seed)), expected(images(seed)), rtol=0, atol=1e-5)
    assert (network().train()(images(1)) - expected(images(1))).abs().max() > 0.1  # the test could tell


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("caller", CALLERS)
def test_the_callers_mode_does_not_matter(built, name, caller):
    _, function = built(name)
    with caller():
        inside = function(images(2))
    assert not inside.requires_grad
    torch.testing.assert_close(inside, function(images(2)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_outputs_are_not_overwritten_by_the_next_call_nor_inputs_by_this_one(built, name):
    _, function = built(name)
    batch = images(3)
    first = function(batch)
    kept = first.clone()
    assert torch.equal(batch, images(3))
    batch.copy_(images(4))  # as the next batch is written over this one
    function(batch)
    assert torch.equal(first, kept)


@needs_compiler
@pytest.mark.slow
def test_half_differs_a_little(built):
    model, function = built("half")
    with left_alone(model):
        found = function(images(1))
    assert found.dtype == torch.float32
    assert next(model.parameters()).dtype == torch.float32
    assert 1e-6 < (found - expected(images(1))).abs().max() < 3e-2


def chosen(built, monkeypatch, name, model=None, **fields):
    """A calibration with the functions that are built already."""
    model = model or built(name)[0]
    monkeypatch.setattr(calibration, "MODES", {"eager": MODES["eager"], name: lambda *_: built(name)[1]})
    monkeypatch.setattr(calibration, "available", lambda device: ["eager", name])
    score = lambda items, others: items @ others.T  # noqa: E731
    with left_alone(model):
        return Calibration(seconds=0.0, batch=BATCH, **fields)(model, score, images(0), 10**9)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["half", "auto"])
def test_half_is_refused_where_it_must_be_exact(built, monkeypatch, mode):
    facts = chosen(built, monkeypatch, "half", mode=mode, tolerance=1e-6).facts
    assert facts["mode"] == "eager"
    assert facts["score_differences"]["half"] > 1e-6
    assert "scores differ by" in facts["refused"]["half"]
    assert chosen(built, monkeypatch, "half", mode="half", tolerance=1.0).facts["mode"] == "half"


@pytest.mark.parametrize("name", TRUE[1:])
def test_true_modes_are_true_to_the_calibration_too(built, monkeypatch, name):
    passes = chosen(built, monkeypatch, name, mode=name, tolerance=1e-5)
    assert passes.facts["mode"] == name
    assert passes.facts["refused"] == {}
    torch.testing.assert_close(passes.function(images(5)), expected(images(5)), rtol=0, atol=1e-5)


@needs_openvino
@pytest.mark.parametrize("caller", CALLERS)
def test_openvino_is_built_in_any_mode_and_reports_nothing(monkeypatch, caller):
    import openvino

    def reports(*_, **__):
        raise AssertionError("it reports its use over the network")

    monkeypatch.setattr(openvino, "convert_model", reports)
    if find_spec("openvino_telemetry"):
        import openvino_telemetry

        for name in ("send_event", "start_session", "send_error", "_update_opt_in_status"):
            monkeypatch.setattr(openvino_telemetry.Telemetry, name, reports, raising=False)
    monkeypatch.setattr("socket.socket.connect", reports)
    model = network().train()
    with left_alone(model), caller():
        found = MODES["openvino"](model, images(0))(images(1))
    torch.testing.assert_close(found, expected(images(1)), rtol=0, atol=1e-5)


def test_a_package_that_is_absent_makes_no_mode(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "openvino" not in available(torch.device("cpu"))
    with pytest.raises(ImportError):
        MODES["openvino"](network(), images(0))


@pytest.mark.parametrize("compiler", [None, "c++", "g++", "clang++"])
def test_without_a_compiler_nothing_is_compiled(monkeypatch, compiler):
    monkeypatch.setattr(modes, "which", lambda name: f"/usr/bin/{name}" if name == compiler else None)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    found = available(torch.device("cpu"))
    assert found[0] == "eager"
    assert ("compiled" in found) == ("half" in found) == (compiler is not None)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert "half" not in available(torch.device("cpu"))


def test_other_devices_have_their_own_modes():
    assert available(torch.device("cuda")) == ["eager", "compiled", "half"]
    assert available(torch.device("mps")) == ["eager"]


@pytest.mark.parametrize("caller", [*CALLERS, nullcontext])
def test_quietly_computes_in_eval_mode_without_gradient_and_leaves_the_model_as_it_was(caller):
    model = network().train()
    model[1].eval()
    with left_alone(model), caller():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        found = without_grad(model, model)(images(1))
        assert before == (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    assert not found.requires_grad
    assert not found.is_inference()
    torch.testing.assert_close(found, expected(images(1)))


def test_modes_of_layers_come_back_after_an_error():
    model = network().train()
    model[3].eval()

    def fails():
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            raise RuntimeError

    with left_alone(model), pytest.raises(RuntimeError):
        fails()


@needs_openvino
def test_records_do_not_hang_on_how_passes_are_taken():
    torch.manual_seed(0)
    model = build("small", planted_net((4, 6), (2, 2)), GAP(), Cosine(), image_size=32)
    pairs = PairBatch(tuple("abc"), tuple("def"), *torch.rand(2, 3, 3, 32, 24))
    fast = Calibration("openvino", seconds=0.01)(model, model.similarity.matrix, pairs.query, 1)
    assert fast.facts["mode"] == "openvino"
    metrics = {"area": Perturbation("insertion_minus_deletion", MeanColour(), Midpoint(5), min_range=-9.0)}
    explainers = {"sfam": SFAM(), "lafam": LaFAM()}

    def values(passes):
        shards = evaluate(model, Similarity(), [pairs], explainers, metrics, "made", passes=passes)
        return [record.value for shard in shards for record in shard.records]

    assert values(fast) == pytest.approx(values(None), abs=1e-5)
