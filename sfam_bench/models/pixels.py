"""What modules of other libraries read: standardisation, resize and crop, recognised by the module."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry, Size, sides
from sfam_bench.models.networks import IMAGENET_MEAN, IMAGENET_STD, Standardise, timm_pixels

HALF = ((0.5,) * 3, (0.5,) * 3)
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
BY_CLASS = {  # facenet-pytorch, ArcFace (insightface), torchreid: mean, std, geometry
    "InceptionResnetV1": ((127.5 / 255,) * 3, (128 / 255,) * 3, Geometry((160, 160), 160)),
    "IResNet": (*HALF, Geometry((112, 112), 112)),
    "OSNet": (IMAGENET_MEAN, IMAGENET_STD, Geometry((256, 128), (256, 128))),
}
# transformers' models that were not trained on ImageNet's mean and deviation, for folders without a processor's file
TRANSFORMERS = {"clip": CLIP, "clip_vision_model": CLIP, "vit": HALF, "siglip": HALF, "siglip_vision_model": HALF}
PROCESSOR = "preprocessor_config.json"  # of transformers
PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers of interpolations

log = logging.getLogger(__name__)


def pixels_of(module: nn.Module) -> Standardise | None:
    """Standardisation and geometry of a module of timm, transformers, open_clip or BY_CLASS; None for others.

    Those of a module around one network of timm are that network's, which is logged.
    """
    if settings := getattr(module, "pretrained_cfg", None):
        return timm_pixels(settings)
    if isinstance(settings := getattr(module, "preprocess_cfg", None), Mapping):
        return _open_clip_pixels(settings)
    if hasattr(module, "config") and hasattr(module.config, "model_type"):
        return _transformers_pixels(module.config)
    if found := BY_CLASS.get(type(module).__name__):
        mean, std, geometry = found
        return Standardise(mean, std, geometry=geometry)
    parts = ((name, getattr(part, "pretrained_cfg", None)) for name, part in module.named_modules())
    inner = {name: settings for name, settings in parts if settings}
    if len(inner) != 1:
        return None
    ((name, settings),) = inner.items()
    log.warning(
        "%s: pixels are standardised, and pictures resized, as for its part '%s'; give standardise= for others "
        "(torch.nn.Identity() where forward standardises)",
        *(type(module).__name__, name),
    )
    return timm_pixels(settings)


def _open_clip_pixels(settings: Mapping[str, Any]) -> Standardise:
    """Of open_clip's `visual.preprocess_cfg`."""
    size = sides(settings["size"])
    resize: Size = size if settings["resize_mode"] == "squash" else min(size)
    crop = size[0] if size[0] == size[1] else size
    geometry = Geometry(resize, crop, settings["interpolation"])
    return Standardise(settings["mean"], settings["std"], geometry=geometry)


def _transformers_pixels(config: Any) -> Standardise:
    """Of a model of transformers: of the processor's file in its folder, else of its architecture."""
    file = Path(getattr(config, "_name_or_path", "") or "") / PROCESSOR
    given: dict[str, Any] = {}
    if file.is_file():
        try:
            given = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"cannot read {file} ({error}): restore it, or give standardise=") from error
    mean, std = TRANSFORMERS.get(config.model_type, (IMAGENET_MEAN, IMAGENET_STD))
    own = getattr(getattr(config, "vision_config", config), "image_size", None) or 224
    size, crop = given.get("size") or own, given.get("crop_size") if given.get("do_center_crop", True) else None
    if isinstance(size, int):
        size = {"height": size, "width": size}
    resize: Size = size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])
    if (share := given.get("crop_pct")) and isinstance(resize, int) and not crop:  # ConvNeXt's processor
        crop, resize = resize, int(resize / share)
    cropped = crop if crop is not None else resize
    target = sides((cropped["height"], cropped["width"]) if isinstance(cropped, Mapping) else cropped)
    interpolation: Any = PILLOW.get(given.get("resample", 3), "bicubic")
    geometry = Geometry(resize, target[0] if target[0] == target[1] else target, interpolation)
    return Standardise(given.get("image_mean") or mean, given.get("image_std") or std, geometry=geometry)
