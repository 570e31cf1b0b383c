"""Names for the tensor shapes used across modules; checked at run time only under pytest."""

from typing import TypeAlias

from jaxtyping import Bool, Float
from torch import Tensor

Image: TypeAlias = Float[Tensor, "3 rows cols"]  # RGB in [0, 1]
Images: TypeAlias = Float[Tensor, "batch 3 rows cols"]
Mask: TypeAlias = Bool[Tensor, "rows cols"]
Masks: TypeAlias = Bool[Tensor, "batch rows cols"]
Maps: TypeAlias = Float[Tensor, "batch rows cols"]  # at the resolution of the images

Activations: TypeAlias = Float[Tensor, "batch channels grid_rows grid_cols"]
RawMaps: TypeAlias = Float[Tensor, "batch grid_rows grid_cols"]  # at the method's own resolution, signed
Weights: TypeAlias = Float[Tensor, "batch channels"]
Pooled: TypeAlias = Float[Tensor, "batch channels"]
Embeddings: TypeAlias = Float[Tensor, "batch dims"]
Scores: TypeAlias = Float[Tensor, " batch"]
Flags: TypeAlias = Bool[Tensor, " batch"]
Keypoints: TypeAlias = Float[Tensor, "parts 3"]  # x, y in pixels, visible (0 or 1)
KeypointsBatch: TypeAlias = Float[Tensor, "batch parts 3"]
