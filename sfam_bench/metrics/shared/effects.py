"""The effect of each part of the query on the explained similarity, measured by drawing the part again."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sfam_bench.core.records import Redrawing, Term
from sfam_bench.core.targets import score
from sfam_bench.core.types import Embeddings, Image, Images, Scores
from sfam_bench.metrics.shared.scene import Scene


@dataclass(frozen=True)
class Redrawn:
    """One image with parts redrawn `count` times, each drawn when its row of a batch is free."""

    like: Image
    redraws: Redrawing
    image_id: str
    parts: tuple[str, ...]
    count: int

    def __len__(self) -> int:
        return self.count

    def write(self, first: int, out: Images) -> None:
        for number, row in enumerate(out, start=first):
            row.copy_(self.redraws.redraw(self.image_id, self.parts, number))


@dataclass(frozen=True)
class Effects:
    """Scores of each query as it is, and with each part redrawn several times.

    regions: the visible pixels of each part.
    full: the target of the unchanged queries.
    redrawn: the target with the part redrawn; NaN for parts that are not visible.
    joint: the target with all evidence parts redrawn at once, and `single` the places of these parts.
    """

    regions: Bool[Tensor, "batch parts rows cols"]
    full: Scores
    redrawn: Float[Tensor, "batch parts repeats"]
    joint: Float[Tensor, "batch repeats"]
    single: tuple[int, ...]

    @cached_property
    def visible(self) -> Bool[Tensor, "batch parts"]:
        """Whether any pixel of a part is visible."""
        return self.regions.flatten(2).any(dim=2)

    @cached_property
    def means(self) -> Float[Tensor, "batch parts"]:
        """The effect of each part: the score minus its mean with the part redrawn."""
        return self.full[:, None] - self.redrawn.mean(dim=2)

    @cached_property
    def errors(self) -> Float[Tensor, "batch parts"]:
        """The standard errors of the means over redrawings; NaN for a single one."""
        return self.redrawn.std(dim=2) / self.redrawn.shape[2] ** 0.5

    @property
    def interaction(self) -> Scores:
        """The effect of all evidence parts together minus the sum of their effects."""
        return self.full - self.joint.mean(dim=1) - self.means[:, list(self.single)].sum(dim=1)

    def halves(self) -> tuple[Float[Tensor, "batch parts"], Float[Tensor, "batch parts"]]:
        """The effects by the redrawings of even and of odd number."""
        one, other = (self.full[:, None] - self.redrawn[:, :, start::2].mean(dim=2) for start in (0, 1))
        return one, other


def measure_effects(scene: Scene, repeats: int) -> Effects:
    """The effects of the query's parts on the target, computed once for all methods.

    They take (parts + aspects + 1) * repeats passes a query, and are recorded for each pair as `effect_<part>` and
    `effect_<aspect>`, with their standard errors and the interaction of the evidence parts.
    """

    def measure() -> Effects:
        terms, redraws = scene.encoded.terms, _redraws(scene)
        effects = read_effects(scene, terms, repeats)
        found = dict(zip(redraws.parts, effects.redrawn.unbind(dim=1), strict=True))
        found |= {aspect: _score_redrawn(scene, terms, (aspect,), repeats) for aspect in redraws.aspects}
        for name, redrawn in found.items():
            scene.cache["fact", f"effect_{name}"] = effects.full - redrawn.mean(dim=1)
            scene.cache["fact", f"effect_{name}_error"] = redrawn.std(dim=1) / repeats**0.5
        scene.cache["fact", "effect_interaction"] = effects.interaction
        return effects

    return scene.cache.once(("effects", repeats), measure)


def read_effects(scene: Scene, terms: tuple[Term, ...], repeats: int) -> Effects:
    """The effects of the query's parts on the target of these terms, by the same passes for any terms."""
    redraws, ids = _redraws(scene), scene.pairs.query_ids
    regions = torch.stack([redraws.part_masks(image_id) for image_id in ids]).to(scene.model.device)
    redrawn = torch.stack([_score_redrawn(scene, terms, (part,), repeats) for part in redraws.parts], dim=1)
    joint = _score_redrawn(scene, terms, redraws.evidence, repeats)
    full = score(scene.model.similarity, scene.encoded.query.embeddings, terms)
    single = tuple(map(redraws.parts.index, redraws.evidence))
    found = Effects(regions, full, redrawn, joint, single)
    return replace(found, redrawn=redrawn.masked_fill(~found.visible[:, :, None], torch.nan))


def _score_redrawn(
    scene: Scene, terms: tuple[Term, ...], parts: tuple[str, ...], repeats: int
) -> Float[Tensor, "batch repeats"]:
    """The target of each query with these parts redrawn."""
    embedded = scene.cache.once(("redrawn", repeats), lambda: _embed_redrawn(scene, repeats))
    found = []
    for pair, image_id in enumerate(scene.pairs.query_ids):
        embeddings = embedded[image_id, parts]
        rows = torch.full((len(embeddings),), pair, device=embeddings.device)
        found.append(score(scene.model.similarity, embeddings, terms, rows))
    return torch.stack(found)


def _embed_redrawn(scene: Scene, repeats: int) -> dict[tuple[str, tuple[str, ...]], Embeddings]:
    """Embeddings (repeats, dims) by query and redrawn parts, in one stream of passes."""
    redraws, pairs = _redraws(scene), scene.pairs
    sets = dict.fromkeys([*((name,) for name in (*redraws.parts, *redraws.aspects)), redraws.evidence])

    def series() -> Iterator[tuple[tuple[str, tuple[str, ...]], Redrawn]]:
        for image_id, image in dict(zip(pairs.query_ids, scene.encoded.query.images, strict=True)).items():
            for parts in sets:
                yield (image_id, parts), Redrawn(image, redraws, image_id, parts, repeats)

    return dict(scene.encoded.passes(series()))


def _redraws(scene: Scene) -> Redrawing:
    if scene.pairs.redraws is None:
        raise ValueError("the images of these pairs cannot be redrawn")
    return scene.pairs.redraws
