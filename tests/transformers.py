"""A vision transformer of timm, small enough to be tried on everything, with weights that make attention choose."""

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from sfam_bench.models.backbones import Standardise
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel
from sfam_bench.models.tokens import Token, cut_tokens
from tests.parts import SIMILARITIES

BY_NAME = {similarity.name: similarity for similarity in SIMILARITIES}


def transformer(depth: int = 3, registers: int = 1, class_token: bool = True, **options) -> VisionTransformer:
    """Patches of 8 pixels, any size of image, padded; 24 channels in 2 heads."""
    torch.manual_seed(0)
    made = VisionTransformer(
        **{
            "img_size": (40, 56),
            "patch_size": 8,
            "embed_dim": 24,
            "depth": depth,
            "num_heads": 2,
            "mlp_ratio": 2,
            "num_classes": 0,
            "global_pool": "",
            "class_token": class_token,
            "reg_tokens": registers,
            "dynamic_img_size": True,
            "dynamic_img_pad": True,
            **options,
        }
    )
    for name, weights in made.named_parameters():
        if weights.ndim > 1:
            nn.init.normal_(weights, std=weights.shape[-1] ** -0.5 if "token" not in name else 1)
        elif name.endswith("bias") or "norm" in name:
            weights.data += 0.1 * torch.randn_like(weights)
    return made.eval()


def tiny_transformer(
    similarity: str = "cosine",
    token: Token = "patch",
    layer: str | None = None,
    pooling: nn.Module | None = None,
    head: nn.Module | None = None,
    normalise: bool = True,
    **options,
) -> SimilarityModel:
    """A model on it, cut after `layer`; two prefix tokens (class, register) unless `options` say otherwise."""
    trunk, tail = cut_tokens(transformer(**options), "tiny", layer, token)
    embedder = Embedder(pooling or GAP(), head, tail, normalise)
    model = SimilarityModel(nn.Sequential(Standardise(), trunk), embedder, BY_NAME[similarity], "tiny").eval()
    model.attends = True
    return model
