"""A vision transformer on the layers of the small network of the planted set, since plain patches learn too slowly."""

from pathlib import Path
from typing import Any

from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer

from sfam_bench.models.checkpoint import read_ours
from sfam_bench.models.planted_net import WIDTHS, PlantedNet


class ConvStem(PatchEmbed):
    """Patches of 8 x 8 px embedded by a `PlantedNet` (a hybrid; Dosovitskiy et al., ICLR 2021) instead of one layer."""

    def __init__(self, *, patch_size: int = 8, embed_dim: int = WIDTHS[-1], **options: Any) -> None:
        super().__init__(patch_size=patch_size, embed_dim=embed_dim, **options)
        self.proj = PlantedNet((*WIDTHS[:-1], embed_dim))  # type: ignore[assignment]


def conv_stem_vit(stem: str | None = None, **options: Any) -> VisionTransformer:
    """A VisionTransformer of timm on a `ConvStem`, with patches of 8 x 8 px, for images of any size, in [0, 1].

    `stem` is a checkpoint of a trained `planted_net` with which the stem begins; without it all weights are random.
    `options` are those of VisionTransformer: img_size, embed_dim, depth, num_heads, ...
    """
    made = VisionTransformer(embed_layer=ConvStem, patch_size=8, num_classes=0, dynamic_img_size=True, **options)
    if stem is not None:
        state = {name.removeprefix("trunk."): value for name, value in read_ours(Path(stem)).items()}
        made.patch_embed.proj.load_state_dict(state)
    return made
