"""A small vision transformer between images and embeddings, and the same one written out for one image at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmarks.differential.settings import Setting
from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import SimilarityFunction
from sfam_bench.core.targets import Similarity
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs
from sfam_bench.models.tokens import Token, cut_tokens

PATCH, ROWS, COLS, WIDTH = 4, 3, 4, 8

Heads: TypeAlias = list[tuple[Tensor, Tensor, Tensor]]  # queries, keys, values of each head, (tokens, dims)


def transformer(heads: int) -> VisionTransformer:
    """Three blocks with a class token and a register, always with the same weights."""
    torch.manual_seed(2)
    made = VisionTransformer(
        img_size=(ROWS * PATCH, COLS * PATCH),
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=3,
        num_heads=heads,
        mlp_ratio=2,
        num_classes=0,
        global_pool="",
        reg_tokens=1,
    )
    for weights in made.parameters():
        nn.init.normal_(weights, std=weights.shape[-1] ** -0.5 if weights.ndim > 1 else 1)
    return made.double().eval().requires_grad_(False)


@cache
def setting(token: Token, similarity: SimilarityFunction, heads: int = 2) -> Setting:
    """Two pairs of noise before the transformer with a linear head."""
    trunk, tail = cut_tokens(transformer(heads), "tiny", None, token)
    head = nn.Linear(WIDTH, 5).double().requires_grad_(False)
    model = SimilarityModel(trunk, Embedder(GAP(), head, tail, True), similarity, "tiny").eval()
    query, reference = torch.rand(2, 2, 3, ROWS * PATCH, COLS * PATCH, dtype=torch.float64)
    pairs = PairBatch(("a", "b"), ("c", "d"), query, reference)
    name = f"{token} token, {similarity.name}, {heads} head{'s' * (heads > 1)}"
    return Setting(name, model, pairs, encode_pairs(model, Similarity(), query, reference))


@dataclass
class WrittenOut:
    """The transformer for one image, tokens as rows: every head, row and patch in a loop."""

    whole: VisionTransformer
    found: Setting

    @property
    def reads_class(self) -> bool:
        """Whether the class token is the embedding."""
        return self.found.name.startswith("class")

    def start(self, image: Tensor) -> Tensor:
        """Tokens before the first block."""
        made: Any = self.whole
        kernel, bias = made.patch_embed.proj.weight.flatten(1), made.patch_embed.proj.bias
        tokens = [made.cls_token[0, 0], made.reg_token[0, 0]]
        for row in range(ROWS):
            for col in range(COLS):
                patch = image[:, row * PATCH : (row + 1) * PATCH, col * PATCH : (col + 1) * PATCH]
                tokens.append(kernel @ patch.flatten() + bias)
        return torch.stack(tokens) + made.pos_embed[0]

    def heads(self, block: Any, tokens: Tensor, count: int) -> Heads:
        """What `count` heads of a block see."""
        every = (block.norm1(tokens) @ block.attn.qkv.weight.T + block.attn.qkv.bias).split(WIDTH, dim=1)
        dims = WIDTH // count
        return [tuple(part[:, dims * h : dims * (h + 1)] for part in every) for h in range(count)]

    def attend(self, heads: Heads) -> Tensor:
        """The softmax of each head, (heads, tokens, tokens)."""
        return torch.stack(
            [
                torch.stack([torch.softmax(q @ k.T / k.shape[1] ** 0.5, dim=0) for q in queries])
                for queries, k, _ in heads
            ]
        )

    def finish(self, block: Any, tokens: Tensor, output: Tensor) -> Tensor:
        """Tokens after a block, from the output of its attention (tokens, width)."""
        tokens = tokens + output @ block.attn.proj.weight.T + block.attn.proj.bias
        hidden = nn.functional.gelu(block.norm2(tokens) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
        return tokens + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias

    def outputs(self, weights: Tensor, heads: Heads) -> Tensor:
        """The output of attention, heads side by side."""
        return torch.cat([weight @ values for weight, (_, _, values) in zip(weights, heads, strict=True)], dim=1)

    def through(self, image: Tensor) -> Iterator[tuple[Any, Tensor, Heads, Tensor]]:
        """Each block: itself, the tokens before it, its heads, its attention."""
        tokens = self.start(image)
        blocks: Any = self.whole.blocks
        for block in blocks:
            heads = self.heads(block, tokens, block.attn.num_heads)
            weights = self.attend(heads)
            yield block, tokens, heads, weights
            tokens = self.finish(block, tokens, self.outputs(weights, heads))

    def score(self, tokens: Tensor, row: int) -> Tensor:
        """The target's score of pair `row`, as if these tokens were the last."""
        normed = self.whole.norm(tokens)
        pooled = normed[0] if self.reads_class else normed[2:].mean(dim=0)
        embedding = self.found.model.embedder.projection(pooled)
        return self.found.model.similarity(
            (embedding / embedding.norm())[None], self.found.references[row : row + 1]
        ).squeeze()
