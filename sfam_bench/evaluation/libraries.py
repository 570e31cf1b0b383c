"""Small networks with random weights, made by the code of other libraries, where these are installed."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from sfam_bench.core.errors import UserError

BLOCKS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT = {**BLOCKS, "intermediate_size": 64, "image_size": 64, "patch_size": 16}
DINO = {**BLOCKS, "image_size": 56, "patch_size": 14}
SWIN = {"embed_dim": 16, "depths": [1, 1, 2], "num_heads": [1, 2, 2], "window_size": 4, "image_size": 64}
CONVNEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "image_size": 64}
TRANSFORMERS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {  # model, config and its settings
    "vit": ("ViTModel", "ViTConfig", VIT),
    "dinov2": ("Dinov2Model", "Dinov2Config", DINO),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", DINO),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", {**VIT, "num_register_tokens": 4}),
    "clip": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", {**VIT, "projection_dim": 24}),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", VIT),
    "swin": ("SwinModel", "SwinConfig", SWIN),
    "convnext": ("ConvNextModel", "ConvNextConfig", CONVNEXT),
}
OPEN_CLIP: Mapping[str, tuple[str, str, tuple[Any, ...], Mapping[str, Any]]] = {  # module, class and its arguments
    "transformer": ("transformer", "VisionTransformer", (64, 16, 32, 2, 2, 4.0), {"output_dim": 24}),
    "modified_resnet": ("modified_resnet", "ModifiedResNet", ([1] * 4, 24, 4, 64, 8), {}),
    "timm_model": ("timm_model", "TimmModel", ("resnet10t", 24, 64), {"pool": "avg", "proj": "linear"}),
}
TORCHREID = {  # file and function
    "osnet_x0_25": "osnet",
    "osnet_ibn_x1_0": "osnet",
    "osnet_ain_x0_25": "osnet_ain",
    "mlfn": "mlfn",
    "mobilenetv2_x1_0": "mobilenetv2",
}
SIZES: Mapping[str, int | tuple[int, int]] = {"open_clip": 64, "torchreid": (256, 128)}
NETWORKS = (
    *(f"transformers/{name}" for name in TRANSFORMERS),
    *(f"open_clip/{name}" for name in OPEN_CLIP),
    "facenet_pytorch/inception_resnet_v1",
    *(f"torchreid/{name}" for name in TORCHREID),
)


def make(name: str) -> nn.Module:
    """A network of NETWORKS in eval mode; seed torch beforehand for the same weights.

    Raises:
        UserError: if the library is not installed, or has no such network.
    """
    source, _, member = name.partition("/")
    if name not in NETWORKS:
        raise UserError(f"there is no network '{name}': choose from {', '.join(NETWORKS)}")
    return MAKERS[source](member).eval()


def read(output: Any) -> Tensor:
    """What these libraries call the embedding, in what their networks return."""
    if isinstance(output, Tensor):
        return output
    found = getattr(output, "image_embeds", None)
    chosen: Tensor = output.pooler_output if found is None else found
    return chosen.flatten(1)


def _transformers(member: str) -> nn.Module:
    library = _import("transformers")
    model, config, settings = TRANSFORMERS[member]
    made: nn.Module = getattr(library, model)(getattr(library, config)(**settings))
    return made


def _open_clip(member: str) -> nn.Module:
    module, kind, arguments, settings = OPEN_CLIP[member]
    made: nn.Module = getattr(_import(f"open_clip.{module}"), kind)(*arguments, **settings)
    return made


def _facenet(_: str) -> nn.Module:
    made: nn.Module = _import("facenet_pytorch").InceptionResnetV1(pretrained=None)
    return made


def _torchreid(member: str) -> nn.Module:
    """Of the file of the network, since the package imports a downloader and a video library."""
    found = importlib.util.find_spec("torchreid")
    if found is None or not found.submodule_search_locations:
        raise UserError("torchreid is not installed")
    file = Path(found.submodule_search_locations[0]) / "reid" / "models" / f"{TORCHREID[member]}.py"
    spec = importlib.util.spec_from_file_location(f"torchreid_{TORCHREID[member]}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: nn.Module = getattr(module, member)(num_classes=5, loss="softmax", pretrained=False)
    return made


def _import(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{module.partition('.')[0]} is not installed ({error})") from error


MAKERS: Mapping[str, Callable[[str], nn.Module]] = {
    "transformers": _transformers,
    "open_clip": _open_clip,
    "facenet_pytorch": _facenet,
    "torchreid": _torchreid,
}
