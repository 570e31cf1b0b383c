"""A vision transformer on a stem of convolutions, which learns from few images where plain patches do not."""

from itertools import pairwise
from typing import Any

from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import nn


class ConvStem(PatchEmbed):
    """Patches of 8 x 8 px embedded by three convolutions of stride 2 (Xiao et al., NeurIPS 2021) instead of one."""

    def __init__(self, *, patch_size: int = 8, in_chans: int = 3, embed_dim: int = 96, **options: Any) -> None:
        super().__init__(patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, **options)
        layers: list[nn.Module] = []
        for before, width in pairwise((in_chans, embed_dim // 3, 2 * embed_dim // 3)):
            convolution = nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
        last = nn.Conv2d(2 * embed_dim // 3, embed_dim, 3, stride=2, padding=1)
        self.proj = nn.Sequential(*layers, last)  # type: ignore[assignment]


def conv_stem_vit(**options: Any) -> VisionTransformer:
    """An untrained VisionTransformer of timm on a `ConvStem`, with patches of 8 x 8 px, for images of any size.

    `options` are those of VisionTransformer: img_size, embed_dim, depth, num_heads, ...
    """
    return VisionTransformer(embed_layer=ConvStem, patch_size=8, num_classes=0, dynamic_img_size=True, **options)
