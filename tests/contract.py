"""What the contract tests share: the files of conf/, tiny models, and pairs of odd size."""

import dataclasses
from functools import cache
from typing import Any, ClassVar

import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from sfam_bench.app.settings import build
from sfam_bench.core.records import PairBatch
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.retrieval.recall import Catalogue
from tests.paths import CONF


@dataclasses.dataclass(frozen=True)
class Strips:
    """Images whose parts are three vertical strips; a redrawn strip is inverted, and dimmed by its number."""

    images: dict[str, torch.Tensor]

    parts: ClassVar[tuple[str, ...]] = ("left", "middle", "right")
    evidence: ClassVar[tuple[str, ...]] = ("left", "right")
    aspects: ClassVar[tuple[str, ...]] = ()

    def part_masks(self, image_id: str) -> torch.Tensor:
        cols = torch.arange(SIZE[1]) * 3 // SIZE[1]
        return torch.stack([(cols == k).expand(SIZE) for k in range(3)])

    def redraw(self, image_id: str, parts: tuple[str, ...], number: int) -> torch.Tensor:
        image, masks = self.images[image_id], self.part_masks(image_id)
        changed = torch.stack([masks[self.parts.index(part)] for part in parts]).any(dim=0)
        return torch.where(changed, (1 - image) / (1 + 0.1 * number), image)


GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra")
# but for experiment/train/, which tests/app/test_presets.py composes
FILES = [(group, file.stem) for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]
SIZE = (37, 51)
REGIONS = ("foreground", "box", "shared", "unshared", "background", "distinguishing")
OTHERS = ("same_class", "other_class")
LISTS = ("explainer", "baseline", "metric")
LEAN = tuple(f"{group}=[]" for group in LISTS)  # half of the time to compose a config is theirs
SETUPS = [("cosine", "gap", "none"), ("negative_euclidean", "gap_gmp", "linear"), ("dot", "gem", "mlp")]


def defaults(config: str) -> dict[str, Any]:
    """The groups that a script's config chooses from, with its choices."""
    entries = yaml.safe_load((CONF / f"{config}.yaml").read_text()).get("defaults", [])
    return {group: choice for entry in entries if isinstance(entry, dict) for group, choice in entry.items()}


@cache
def composed(config: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config, list(overrides))


@cache
def choosing(group: str, *names: str) -> DictConfig:
    """The config of a script that uses the group, with this choice in it, or these where it takes several."""
    config = next((file.stem for file in sorted(CONF.glob("*.yaml")) if group in defaults(file.stem)), None)
    assert config, f"no script chooses from conf/{group}/"
    several = isinstance(defaults(config)[group], list)
    needed = {"metric": ("metric", "baseline"), "variants": LISTS}.get(group, (group,))
    lean = [each for each in LEAN if config == "base" and each.split("=")[0] not in needed]
    return composed(config, *lean, f"{group}={[*names] if several else names[0]}")


@cache
def entries(group: str, name: str) -> dict[str, DictConfig]:
    """What one file adds to a group of which scripts take several; all files are composed at once, which is quicker."""
    whole = choosing(group, *(file for of, file in FILES if of == group))[group]
    return {key: whole[key] for key in yaml.safe_load((CONF / group / f"{name}.yaml").read_text())}


@cache
def build_entries(group: str, name: str) -> dict[str, Any]:
    """The objects of these entries, by their keys; shared by all tests, since they are frozen."""
    return {key: build(node) for key, node in entries(group, name).items()}


def tiny(similarity: str, pooling: str, head: str) -> SimilarityModel:
    """An untrained planted_net with these parts, its layers scaled (He) so that biases do not drown the images."""
    chosen = [f"similarity={similarity}", f"pooling={pooling}", f"head={head}", "model.image_size=32"]
    dims = {"none": [], "linear": ["head.dims=6"], "mlp": ["head.dims=6", "head.hidden=10"]}[head]
    torch.manual_seed(3)
    made: SimilarityModel = build(composed("evaluate", *LEAN, "model=planted_net", *chosen, *dims).model)
    for layer in made.trunk.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    return made


def pairs(count: int = 3) -> PairBatch:
    draw = torch.Generator().manual_seed(7)
    query, reference = (
        torch.nn.functional.interpolate(torch.rand(count, 3, 4, 5, generator=draw), SIZE, mode="bilinear")
        for _ in range(2)
    )
    masks = {name: torch.zeros(count, *SIZE, dtype=torch.bool) for name in REGIONS}
    for k, mask in enumerate(masks.values()):
        mask[:, 4 + 6 * k : 12 + 6 * k, 9:30] = True
    ids = tuple("abcdef"[:count]), tuple("uvwxyz"[:count])
    points = [torch.rand(count, 15, 3, generator=draw) * torch.tensor([SIZE[1], SIZE[0], 1]) for _ in range(2)]
    for side in points:
        side[..., 2] = 1  # visible
    others = {role: torch.rand(count, 3, *SIZE, generator=draw) for role in OTHERS}
    plain = query.mean(dim=(2, 3), keepdim=True).expand_as(query).contiguous()  # what a query without content matches
    return PairBatch(
        *ids,
        query,
        reference,
        negative_ids=tuple("ijklmn"[:count]),
        negative=plain,
        masks=masks,
        keypoints=points[0],
        reference_keypoints=points[1],
        others=others,
        redraws=Strips(dict(zip(sum(ids, ()), torch.cat([query, reference]), strict=True))),
    )


def gallery(model: SimilarityModel, batch: PairBatch) -> Catalogue:
    """All images of a batch; the query and the reference of a pair are one class, the negatives another."""
    embedded = torch.cat([model.encode(images).embeddings for images in (batch.query, batch.reference, batch.negative)])
    labels = torch.arange(len(batch)).repeat(2)
    ids = batch.query_ids + batch.reference_ids + batch.negative_ids
    return Catalogue(embedded, torch.cat([labels, torch.full((len(batch),), len(batch))]), ids)


def only(batch: PairBatch, rows: list[int], references: list[int] | None = None) -> PairBatch:
    """Some pairs of a batch, perhaps with other references."""
    others = rows if references is None else references
    return PairBatch(
        tuple(batch.query_ids[row] for row in rows),
        tuple(batch.reference_ids[row] for row in others),
        batch.query[rows],
        batch.reference[others],
        negative_ids=None if batch.negative_ids is None else tuple(batch.negative_ids[row] for row in rows),
        negative=None if batch.negative is None else batch.negative[rows],
        masks={name: mask[rows] for name, mask in batch.masks.items()},
        keypoints=None if batch.keypoints is None else batch.keypoints[rows],
        reference_keypoints=None if batch.reference_keypoints is None else batch.reference_keypoints[others],
        others={role: images[rows] for role, images in batch.others.items()},
        redraws=batch.redraws,
    )


def traces(model: SimilarityModel) -> dict[str, Any]:
    """All that an explainer might leave behind in a model."""
    hooks = [len(getattr(module, kind)) for module in model.modules() for kind in vars(module) if "hooks" in kind]
    modes = [module.training for module in model.modules()]
    asked = [parameter.requires_grad for parameter in model.parameters()]
    grads = [parameter.grad is not None for parameter in model.parameters()]
    return {"hooks": hooks, "modes": modes, "requires_grad": asked, "grads": grads}


def named(method: type) -> list[str]:
    """The fields of a method that a user may set; what `prepare` fills in has a leading underscore or no `init`."""
    return [field.name for field in dataclasses.fields(method) if field.init and field.repr]
