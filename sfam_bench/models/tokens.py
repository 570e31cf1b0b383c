"""Vision transformers of timm: tokens as the grid that explainers read, and behind an early cut as tokens again."""

import re
from typing import Any, Literal, TypeAlias, cast

import torch
from jaxtyping import Float
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.types import Activations, Images

Token: TypeAlias = Literal["patch", "class"]  # tokens of which the embedding is computed
Tokens: TypeAlias = Float[Tensor, "batch tokens width"]  # prefix tokens (class, registers) first, then the patches
Grid: TypeAlias = Float[Tensor, "batch width rows cols"]

# Prefix tokens depend on the image, so that they are part of the activations, as channels that are constant over
# positions. They are scaled down there and up again behind (exactly, by a power of two), so that methods which weight
# channels by their strength use the patches; a derivative times its activation does not depend on the scale.
CARRY = 2.0**-10


class PatchTokens(nn.Module):
    """The last tokens of any timm transformer as activations: patches as the grid, without prefix tokens."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, images: Tensor) -> Tensor:
        check_size(self.transformer, images)
        (grid,) = self.transformer.forward_intermediates(  # type: ignore[operator]
            images, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return grid


class CarriedTokens(nn.Module):
    """A vision transformer up to an early cut: patches as the grid, other inputs of its tail as constant channels.

    These are the prefix tokens and, after a norm (`normed`), the class token before that norm.
    """

    def __init__(self, transformer: VisionTransformer, normed: bool) -> None:
        super().__init__()
        self.transformer = transformer
        self.normed = normed

    def forward(self, images: Tensor) -> Tensor:
        check_size(self.transformer, images)
        tokens = last_tokens(self.transformer, images)
        prefix, size = self.transformer.num_prefix_tokens, images.shape[-2:]
        norm = cast(nn.Module, self.transformer.norm)
        after = norm(tokens)
        carried = torch.cat([after[:, :prefix], tokens[:, :1]], dim=1) if self.normed else after[:, :prefix]
        return join(as_grid(after[:, prefix:], self.transformer.patch_embed.dynamic_feat_size(size)), carried)


class PatchTail(nn.Module):
    """The blocks behind an early cut and the last norm, up to the token or patches of the embedding."""

    def __init__(self, blocks: nn.Module, norm: nn.Module, prefix: int, token: Token) -> None:
        super().__init__()
        self.blocks = blocks
        self.norm = norm
        self.prefix = prefix
        self.token = token

    def forward(self, activations: Activations) -> Grid:
        tokens = self.norm(self.blocks(split_tokens(activations, self.prefix)))
        return select(tokens, self.prefix, self.token, (activations.shape[-2], activations.shape[-1]))


class ClassTail(nn.Module):
    """The last block without its first norm, and the last norm, for the class token alone."""

    def __init__(self, block: Block, norm: nn.Module, prefix: int) -> None:
        super().__init__()
        self.attn, self.ls1, self.drop_path1 = block.attn, block.ls1, block.drop_path1
        self.norm2, self.mlp, self.ls2, self.drop_path2 = block.norm2, block.mlp, block.ls2, block.drop_path2
        self.norm = norm
        self.prefix = prefix
        self.token: Token = "class"

    def forward(self, activations: Activations) -> Grid:
        tokens = split_tokens(activations, self.prefix + 1)
        normed = torch.cat([tokens[:, : self.prefix], tokens[:, self.prefix + 1 :]], dim=1)
        behind = self.norm(self.block(tokens[:, self.prefix : self.prefix + 1], normed))
        return select(behind, self.prefix, "class", (1, 1))

    def block(self, tokens: Tokens, normed: Tensor) -> Tokens:
        """The block's output for its first tokens, given all tokens `normed`."""
        tokens = tokens + self.drop_path1(self.ls1(self.attn(normed)[:, : tokens.shape[1]]))
        after: Tensor = tokens + self.drop_path2(self.ls2(self.mlp(self.norm2(tokens))))
        return after


def join(grid: Grid, carried: Tokens) -> Activations:
    """Patches as a grid, followed by the channels of each carried token, the same at every position."""
    spread = (carried * CARRY).flatten(1)[:, :, None, None].expand(-1, -1, *grid.shape[-2:])
    return torch.cat([grid, spread], dim=1)


def split_tokens(activations: Activations, carried: int) -> Tokens:
    """The tokens that `join` arranged, carried ones first, as the means of their channels."""
    width = activations.shape[1] // (1 + carried)
    patches = activations[:, :width].flatten(2).transpose(1, 2)
    means = activations[:, width:].mean(dim=(2, 3)) / CARRY
    return torch.cat([means.unflatten(1, (carried, width)), patches], dim=1) if carried else patches


def as_grid(tokens: Tokens, size: tuple[int, int]) -> Grid:
    """Tokens arranged in rows and columns."""
    return tokens.transpose(1, 2).unflatten(2, size)


def select(tokens: Tokens, prefix: int, token: Token, size: tuple[int, int]) -> Grid:
    """The tokens that are pooled: patches as a grid of `size`, or the class token as a 1 x 1 grid."""
    return as_grid(tokens[:, :1], (1, 1)) if token == "class" else as_grid(tokens[:, prefix:], size)


def cut_tokens(
    transformer: VisionTransformer, name: str, layer: str | None, token: Token
) -> tuple[PatchTokens | CarriedTokens, PatchTail | ClassTail | None]:
    """Split a vision transformer after block `layer` ("blocks.8").

    Without a layer pooled patches are cut after the last norm, and the class token at the normalised input of the last
    attention. The cut is not before these norms, since a norm does not depend on the length of its input, so that the
    sum of derivatives times activations is zero there.
    """
    blocks, norm = cast(nn.Sequential, transformer.blocks), cast(nn.Module, transformer.norm)
    depth, prefix = len(blocks), transformer.num_prefix_tokens
    if token == "class" and not transformer.has_class_token:
        raise UserError(f"{name} has no class token: set model.trunk.token=patch")
    if layer is None and token == "patch":
        return PatchTokens(transformer), None
    if layer is None:
        if depth < 2 or type(blocks[-1]) is not Block:
            raise UserError(f"{name} has blocks of another kind: name one as model.trunk.layer, or set token=patch")
        tail = ClassTail(cast(Block, blocks[-1]), norm, prefix)
        transformer.blocks, transformer.norm = blocks[:-1], cast(Block, blocks[-1]).norm1
        return CarriedTokens(transformer, normed=True), tail
    last = depth - (3 if token == "class" else 2)
    found = re.fullmatch(r"blocks\.(\d+)", layer)
    if found is None or int(found[1]) > last:
        choice = f"choose from blocks.0 to blocks.{last}, or null" if last >= 0 else "leave it null"
        raise UserError(f"{name} has no cut at '{layer}' for its {token} token: {choice}")
    after = int(found[1]) + 1
    transformer.blocks, transformer.norm = blocks[:after], nn.Identity()
    return CarriedTokens(transformer, normed=False), PatchTail(blocks[after:], norm, prefix, token)


def last_tokens(transformer: VisionTransformer, images: Images, blocks: int | None = None) -> Tokens:
    """All tokens after the last block, or after the first `blocks`."""
    (found,) = cast(Any, transformer).forward_intermediates(
        images,
        indices=1 if blocks is None else [blocks - 1],
        return_prefix_tokens=True,
        stop_early=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    tokens: Tensor = torch.cat([found[1], found[0]], dim=1) if transformer.num_prefix_tokens else found
    return tokens


def check_size(transformer: nn.Module, images: Tensor) -> None:
    """Raise UserError where patches do not cover the image."""
    patches = getattr(transformer, "patch_embed", None)
    if isinstance(patches, PatchEmbed) and not patches.dynamic_img_pad:
        rows, cols = patches.patch_size
        if images.shape[-2] % rows or images.shape[-1] % cols:
            raise UserError(
                f"images of {images.shape[-2]} x {images.shape[-1]} px are not divisible into patches of {rows} x "
                f"{cols}: choose another model.image_size"
            )
