"""CLIP Surgery on an embedding target."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sfam_bench.core.baselines import BASELINES, BaselineName
from sfam_bench.core.errors import Checked, UserError
from sfam_bench.core.method_card import Card
from sfam_bench.core.ranges import Count
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.targets import comparisons
from sfam_bench.core.types import RawMaps
from sfam_bench.engine.modes import evaluating
from sfam_bench.explainers.shared.attention import Attention, Layers, Rows
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.models.tokens import Tokens


@dataclass(frozen=True)
class CLIPSurgery(Checked):
    """s(f_j, v) - s(f_j, v_0), f_j patch j behind value-to-value attention; Li et al., arXiv 2304.05653.

    A second path of tokens begins before the last `blocks` blocks. Each of them adds its attention computed from values
    alone, softmax(v v^T) v, where v are those of the usual path; the path skips the MLPs. Its patches pass the last
    norm, neck and head one by one. In the paper v is a text, and what all texts share is subtracted; with one text that
    is the empty one. Here v is the reference, and v_0, the image without content, stands for the empty text [derived].

    blocks: number of last blocks with the second path; at most all but the first.
    redundant: the query without content whose embedding is v_0; null subtracts nothing.
    """

    card: ClassVar[Card] = Card(
        needs="attention",
        identities=(
            "where attention adds nothing, it is the score of each patch before the last blocks",
            "the map of a margin is the positive's map minus the negative's",
        ),
        degenerate=("the head was trained on pooled or class tokens, not on single patches",),
    )

    blocks: Count = 6
    redundant: BaselineName | None = "mean_colour"

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        with torch.no_grad(), evaluating(model):
            return Layers(model, "CLIP Surgery").explain(encoded, self._explain)

    def _explain(self, layers: Layers, encoded: Encoded, rows: Rows, size: tuple[int, int]) -> RawMaps:
        model, images = layers.model, encoded.query.images[rows]
        patches = layers.apply_norm(self.second_path(layers, images))[:, layers.prefix :]
        points = layers.finish(patches.flatten(0, 1))
        each = torch.arange(len(rows), device=images.device).repeat_interleave(patches.shape[1])
        bare = None if self.redundant is None else model(BASELINES[self.redundant](images))[each]
        maps = points.new_zeros(len(points))
        for slope, reference in comparisons(model.similarity, encoded.query.embeddings, encoded.terms):
            gain = model.similarity(points, reference.embeddings[rows][each])
            if bare is not None:
                gain = gain - model.similarity(points, bare)
            maps = maps + slope[rows][each, 0] * gain
        return maps.view(len(rows), *size)

    def second_path(self, layers: Layers, images: Tensor) -> Tokens:
        """The tokens of the second path behind the last block."""
        steps = layers.steps
        first = len(steps) - min(self.blocks, len(steps) - 1)
        if first == len(steps):
            raise UserError("CLIP Surgery needs a transformer of at least two blocks")
        path, before = None, None
        for number, (tokens, attention) in enumerate(layers.run(images)):
            if number >= first:
                block: Any = steps[number][0]
                added = block.ls1(block.attn.proj(attend_to_values(attention)))
                path = added + (before if path is None else path)
            before = tokens
        if path is None:
            raise ValueError("no block was reached")
        return path


def attend_to_values(attention: Attention) -> Tokens:
    """softmax(v v^T / sqrt(dims)) v of each head, heads side by side."""
    values = attention.values
    weights = (values @ values.mT * values.shape[-1] ** -0.5).softmax(dim=-1)
    return (weights @ values).transpose(1, 2).flatten(2)
