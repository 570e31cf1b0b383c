"""Random crops of training images, and images without a random patch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import PIL.Image
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from sfam_bench.core.baselines import Baseline, MeanColour
from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.geometry import TO_UNIT, Geometry, Size, number_patches, sides
from sfam_bench.core.ranges import Count, Share
from sfam_bench.core.types import Image

__all__ = ["Augmentation", "Geometry"]  # configs of earlier runs name Geometry in this module


@dataclass(frozen=True)
class PatchDeletion(Checked):
    """Replaces one random patch in a `share` of the images, so that a model knows images without a patch.

    The fine-tuning of IDSDS (Hesse et al., NeurIPS 2024, and their train.py), after which metric=single_deletion asks
    the model about images as in its training.

    grid: patches on each side; that of the metric.
    baseline: of the pixels of the patch; that of the metric.
    """

    share: Share = 0.5
    grid: Count = 4
    baseline: Baseline = field(default=MeanColour())

    def __call__(self, image: Image) -> Image:
        """The image, (3, rows, cols) in [0, 1]; draws from torch's global generator."""
        chosen, patch = torch.rand(()) < self.share, torch.randint(self.grid**2, ())
        hidden = (number_patches((image.shape[-2], image.shape[-1]), self.grid) == patch) & chosen
        return torch.where(hidden, self.baseline(image[None])[0], image)


@dataclass(frozen=True)
class Augmentation(Checked):
    """Random crop of an area share in `scale`, resized to `crop`, and random flips; for training.

    crop: px of both sides, or (rows, cols); None stands for the size of the model's images.
    jitter: largest relative change of brightness, contrast and saturation, each drawn at random.
    deletion: last of all, of a patch; None for none.
    """

    crop: Size | None = 224
    scale: Sequence[Share] = (0.16, 1.0)
    flip: bool = True
    jitter: Share = 0.0
    deletion: PatchDeletion | None = None

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
        view = self.transform(tv_tensors.Image(image)).as_subclass(Tensor)
        return view if self.deletion is None else self.deletion(view)
