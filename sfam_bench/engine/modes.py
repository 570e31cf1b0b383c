"""Modes of computing the same function of a batch; each takes a model in eval mode and a batch for its shape."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from shutil import which
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

Function: TypeAlias = Callable[[Tensor], Tensor]
Mode = Literal["eager", "compiled", "half", "openvino"]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module and all its children into eval mode, and restore each of them afterwards."""
    training = [child for child in module.modules() if child.training]
    if training:  # `eval` costs a millisecond
        module.eval()
    try:
        yield
    finally:
        for child in training:
            child.training = True


def without_grad(model: nn.Module, function: Function) -> Function:
    """`function` without gradient and with its model in eval mode, in any mode of the caller."""

    def run(batch: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad(), evaluating(model):
            return function(batch)

    return run


def eager(model: nn.Module, batch: Tensor) -> Function:
    """Eager PyTorch."""
    return without_grad(model, model)


def compiled(model: nn.Module, batch: Tensor) -> Function:
    """torch.compile with frozen weights, which folds batch norms into convolutions; CUDA graphs on CUDA."""
    options: dict[str, Any] = {"freezing": True, "triton.cudagraphs": batch.is_cuda}
    return without_grad(model, torch.compile(model, dynamic=False, options=options))


def half(model: nn.Module, batch: Tensor) -> Function:
    """`compiled` in half precision: float16 on CUDA, bfloat16 on CPUs."""
    dtype = torch.float16 if batch.is_cuda else torch.bfloat16
    fast = compiled(deepcopy(model).to(dtype), batch)
    return lambda images: fast(images.to(dtype)).float()


def openvino(model: nn.Module, batch: Tensor) -> Function:
    """OpenVINO in float32 on as many threads as PyTorch has."""
    import openvino as ov
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # not ov.convert_model, which sends telemetry
    frontend = FrontEndManager().load_by_framework("pytorch")
    with warnings.catch_warnings(), evaluating(model):  # tracing leaves the model in eval mode
        warnings.simplefilter("ignore")  # tracing is deprecated in PyTorch
        traced = TorchScriptPythonDecoder(model, example_input=batch)
    graph = frontend.convert(frontend.load(traced))
    graph.reshape(list(batch.shape))
    # unpinned, since concurrent processes would all be pinned to the first cores
    settings = {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
    settings["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
    fast = ov.compile_model(graph, "CPU", settings)
    return lambda images: torch.from_numpy(fast(images.numpy(), share_inputs=True)[0])


MODES: dict[Mode, Callable[[nn.Module, Tensor], Function]] = {
    "eager": eager,
    "compiled": compiled,
    "half": half,
    "openvino": openvino,
}


# About the seconds of one core to build a mode and time it, and a bound of its rate over that of eager mode, by device:
# measured for Lite0 and ResNet-50 on CPUs, guessed for half precision and CUDA
SETUP: dict[Mode, float] = {"openvino": 10.0, "compiled": 20.0, "half": 20.0}
GAIN: dict[str, dict[Mode, float]] = {
    "cpu": {"openvino": 2.0, "compiled": 1.5, "half": 4.0},
    "cuda": {"compiled": 4.0, "half": 8.0},
}


def available(device: torch.device) -> list[Mode]:
    """The modes that may be fastest on a device: half only with hardware support."""
    if device.type == "cuda":
        return ["eager", "compiled", "half"]
    if device.type != "cpu":
        return ["eager"]
    compiler = ["compiled"] if which("c++") or which("g++") or which("clang++") else []
    tiles = ["half"] if compiler and torch.cpu._is_amx_tile_supported() else []
    return ["eager", *compiler, *tiles, *(["openvino"] if find_spec("openvino") else [])]  # type: ignore[list-item]
