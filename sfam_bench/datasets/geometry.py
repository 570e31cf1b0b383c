"""Random crops for training."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import PIL.Image
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.geometry import TO_UNIT, Geometry, Size, sides
from sfam_bench.core.ranges import Share
from sfam_bench.core.types import Image

__all__ = ["Augmentation", "Geometry"]  # configs of earlier runs name Geometry in this module


@dataclass(frozen=True)
class Augmentation(Checked):
    """Random crop of an area share in `scale`, resized to `crop`, and random flips; for training.

    crop: px of both sides, or (rows, cols); None stands for the size of the model's images.
    jitter: largest relative change of brightness, contrast and saturation, each drawn at random.
    """

    crop: Size | None = 224
    scale: Sequence[Share] = (0.16, 1.0)
    flip: bool = True
    jitter: Share = 0.0

    @cached_property
    def transform(self) -> v2.Transform:
        """The torchvision transform; it uses torch's global generator."""
        if self.crop is None:
            raise UserError("Augmentation.crop is None: give the size of the images")
        steps = [v2.RandomResizedCrop(sides(self.crop), scale=tuple(self.scale), antialias=True)]
        jitter = [v2.ColorJitter(self.jitter, self.jitter, self.jitter)] if self.jitter else []
        return v2.Compose([*steps, *jitter, v2.RandomHorizontalFlip(0.5 if self.flip else 0.0), TO_UNIT])

    def __call__(
        self, image: PIL.Image.Image | UInt8[Tensor, "3 height width"] | Float[Tensor, "3 height width"]
    ) -> Image:
        """Draw one augmented view (3, rows, cols) in [0, 1] from an RGB image of any size."""
        return self.transform(tv_tensors.Image(image)).as_subclass(Tensor)
