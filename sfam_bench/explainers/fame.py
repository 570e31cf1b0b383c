"""Feature activation map explanation: how far pixels move while the score is lowered by its gradient."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import torch
from torchvision.transforms.v2 import functional as F

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count, NotNegative, Positive
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.shared.pixels import chunks, image_gradient
from sfam_bench.models.similarity_model import SimilarityModel

LUMA = (0.2989, 0.587, 0.114)  # torchvision's


@dataclass(frozen=True)
class FAME(Checked):
    """blur |grey(x_N) - grey(x)|, x_n+1 = x_n - eta g_n / max |g_n|, g = ds/dx; Zhang, Guenther, CVPRW 2026.

    Eq. 3, 4 and 6 of arXiv 2605.12017, read in the authors' code. Pixels may leave [0, 1], as there. Their script for
    faces stops once the score is below 0.01; here all steps are taken.

    evidence: for which the image is changed: "similar" lowers the score, "dissimilar" raises it.
    steps: N, a forward and a backward pass each. The paper has 500; by its supplement, as the code's notes quote it,
        maps are stable from 75 to 200 on.
    eta: how far the pixel with the greatest gradient moves in each step, of a range of pixels from 0 to 1.
    blur: standard deviation of the Gaussian as a share of the image's longer side, 7.7 pixels at 224; 0 for none.
    """

    card: ClassVar[Card] = Card(
        signed=False,
        expensive=True,
        identities=("one step without blur is the magnitude of the gradient's luminance, scaled",),
        degenerate=(
            "pixels that rise and pixels that fall count alike: the map has no sign",
            "colours that change in opposite directions cancel in the luminance",
        ),
    )

    evidence: Literal["similar", "dissimilar"] = "similar"
    steps: Count = 100
    eta: Positive = 1 / 255
    blur: NotNegative = 0.0344

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        images = encoded.query.images
        sign = 1 if self.evidence == "similar" else -1
        changed = images.clone()
        for some in chunks(len(images), images):
            moved = images[some]
            for _ in range(self.steps):
                gradient = image_gradient(model, encoded, moved, some)
                largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
                moved = moved - sign * self.eta * gradient / largest
            changed[some] = moved
        luma = images.new_tensor(LUMA)
        apart = torch.einsum("c,bcij->bij", luma, changed - images).abs()
        return self._smooth(apart)

    def _smooth(self, maps: RawMaps) -> RawMaps:
        sigma = self.blur * max(maps.shape[-2:])
        reach = min(ceil(3.1 * sigma), min(maps.shape[-2:]) - 1)  # the authors' kernel: 49 pixels for 7.7
        if not reach:
            return maps
        return F.gaussian_blur(maps[:, None], kernel_size=[2 * reach + 1] * 2, sigma=[sigma] * 2)[:, 0]
