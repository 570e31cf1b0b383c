"""Recent methods beside the code of their authors, from checkouts of their repositories below $PEERS."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from benchmarks.differential.comparison import PEERS, Comparison, Sides
from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import Similarity, swap_sides
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.averaged_transforms import AveragedTransforms
from sfam_bench.explainers.interaction_cam import InteractionCAM
from sfam_bench.explainers.pair_x import PairX
from sfam_bench.explainers.pairwise_occlusion import PairwiseOcclusion
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs

EXPLAIN_CL = "explain-cl/methods.py"  # fawazsammani/explain-cl
PAIRX = "pairx/core.py"  # pairx-explains/pairx


@contextmanager
def loaded(path: str) -> Iterator[Any]:
    """A file of a checkout as a module, with its folder on the path of modules while the block runs."""
    if PEERS is None:
        raise ValueError("set PEERS to the folder of the checkouts")
    file = Path(PEERS / path)
    spec = spec_from_file_location(f"peer_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} cannot be imported")
    module = module_from_spec(spec)
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(file.parent))


def contrastive(size: int) -> tuple[SimilarityModel, PairBatch]:
    """Two pairs of noise before two convolutions and a head, compared by cosine."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 6, 5, stride=4), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2), nn.ReLU())
    model = SimilarityModel(trunk, Embedder(GAP(), nn.Linear(5, 4), None, False), Cosine()).double().eval()
    query, reference = torch.rand(2, 2, 3, size, size, dtype=torch.float64)
    return model, PairBatch(("a", "b"), ("c", "d"), query, reference)


def interaction(
    reduction: Literal["mean", "max", "attention"], gradients: Literal["own", "interacting"]
) -> Iterator[Sides]:
    """get_interactioncam, of both images of each pair."""
    model, pairs = contrastive(64)
    encoded = encode_pairs(model, Similarity(), pairs.query, pairs.reference)
    method = InteractionCAM(reduction, gradients)
    with loaded(EXPLAIN_CL) as peer:
        peer.device = "cpu"
        theirs_net = nn.Module()
        theirs_net.encoder = SimpleNamespace(net=model.trunk)  # type: ignore[assignment]
        theirs_net.contrastive_head = model.embedder.projection
        name = "attn" if reduction == "attention" else reduction
        images = zip(pairs.query, pairs.reference_images, strict=True)
        found = [
            peer.get_interactioncam(theirs_net, q[None], r[None], name, gradients == "interacting") for q, r in images
        ]
    for side, (seen, k) in {"query": (encoded, 0), "reference": (swap_sides(encoded), 1)}.items():
        yield side, method(model, seen, pairs), torch.stack([torch.as_tensor(maps[k]) for maps in found])


def transforms() -> Iterator[Sides]:
    """averaged_transforms of the query, without guided backpropagation, blur and noise."""
    model, pairs = contrastive(32)
    encoded = encode_pairs(model, Similarity(), pairs.query, pairs.reference)
    with loaded(EXPLAIN_CL) as peer:
        theirs = []
        for q, r in zip(pairs.query, pairs.reference_images, strict=True):
            mixed = [(1 - k / 10) * q[None] + k / 10 * r[None] for k in range(10)]
            theirs.append(peer.averaged_transforms(False, model, mixed, False)[0][0])
    yield "two convolutions", AveragedTransforms()(model, encoded, pairs), torch.stack(theirs)


def occlusion() -> Iterator[Sides]:
    """pairwise_occlusion with our rectangles, at the 224 px that its code is written for."""
    model, pairs = contrastive(224)
    encoded = encode_pairs(model, Similarity(), pairs.query, pairs.reference)
    method = PairwiseOcclusion(samples=12)
    ours: RawMaps = method(model, encoded, pairs)
    theirs = []
    with loaded(EXPLAIN_CL) as peer:
        peer.device = "cpu"
        for q, r, own, other in zip(
            pairs.query, pairs.reference_images, pairs.query_ids, pairs.reference_ids, strict=True
        ):
            masks = [method._occlude(model, image, *ids)[0] for image, ids in ((q, (own, other)), (r, (other, own)))]
            erased = [torch.where(both[:, None], 0, image) for image, both in zip((q, r), masks, strict=True)]
            turns = iter([image[None] for pair in zip(*erased, strict=True) for image in pair])
            peer.transforms = SimpleNamespace(RandomErasing=lambda turns=turns, **_: lambda _: next(turns))
            theirs.append(torch.as_tensor(peer.pairwise_occlusion(q[None], r[None], model, 4, None, None, 12)[0]))
    yield "two convolutions", ours / ours.amax(dim=(1, 2), keepdim=True), torch.stack(theirs).to(ours)


def pairx() -> Iterator[Sides]:
    """Relevance of the last feature map, relevance of all matches, and pixels of the best match."""
    torch.manual_seed(0)
    net = resnet18(num_classes=16).eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_mean, -0.3, 0.3)  # type: ignore[arg-type]
    trunk = nn.Sequential(*list(net.children())[:-2])
    model = SimilarityModel(trunk, Embedder(GAP(), net.fc, None, False), Cosine()).eval()
    query, reference = torch.rand(2, 1, 3, 96, 96)
    pairs = PairBatch(("a",), ("b",), query, reference)
    encoded = encode_pairs(model, Similarity(), query, reference)
    (ours,), method = PairX().find_matches(model, encoded), PairX(space="cut")
    with loaded(PAIRX) as peer:
        found: Any = peer.pairx("cpu", query.clone(), reference.clone(), net, ["layer4"], 1000, 1)["layer4"]
    yield "relevance at the cut", method.position_relevance(model, encoded).view(3, 3), grid(found, 0)
    joint = torch.zeros(3, 3, 3, 3)
    for one in found["matches"]:
        (col, row), (other_col, other_row) = one["coord0"], one["coord1"]
        joint[row, col, other_row, other_col] = float(one["relevance"])
    yield "matches", method.point_pairs(model, encoded, pairs)[0], joint
    pixels = torch.as_tensor(found["pixel_relevances"][0][0])
    yield "pixels of the best match", PairX().pixel_relevance(model, query[0], ours.query[:1])[0], pixels / pixels.sum()


def grid(found: Any, side: int) -> Tensor:
    """The relevance of each position of one image."""
    return torch.as_tensor(found["intermediate_relevances"][side])


COMPARISONS = (
    *(
        Comparison(
            "interaction_cam",
            f"explain-cl get_interactioncam, {reduction}{', interacting gradients' * (gradients == 'interacting')}",
            partial(interaction, reduction, gradients),
            checkout=EXPLAIN_CL,
        )
        for reduction in ("mean", "max", "attention")
        for gradients in ("own", "interacting")
    ),
    Comparison("averaged_transforms", "explain-cl averaged_transforms", transforms, checkout=EXPLAIN_CL),
    Comparison("pairwise_occlusion", "explain-cl pairwise_occlusion, our rectangles", occlusion, checkout=EXPLAIN_CL),
    Comparison("pair_x", "pairx pairx, with zennit's rules", pairx, 1e-3, package="zennit", checkout=PAIRX),
)
