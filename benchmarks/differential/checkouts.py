"""Recent methods beside the code of their authors, from checkouts of their repositories below $PEERS."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18

from benchmarks.differential.comparison import PEERS, Comparison, Sides
from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import Margin, Similarity, swap_sides
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.averaged_transforms import AveragedTransforms
from sfam_bench.explainers.c3a import C3A
from sfam_bench.explainers.fame import FAME
from sfam_bench.explainers.interaction_cam import InteractionCAM
from sfam_bench.explainers.pair_x import PairX
from sfam_bench.explainers.pairwise_occlusion import PairwiseOcclusion
from sfam_bench.explainers.protoshotxai import ProtoShotXAI
from sfam_bench.explainers.xssab import XSSAB
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs

EXPLAIN_CL = "explain-cl/methods.py"  # fawazsammani/explain-cl
PAIRX = "pairx/core.py"  # pairx-explains/pairx
PROTOSHOT = "ProtoShotXAI/architectures/protoshotxai.py"  # samuelhess/ProtoShotXAI
CROSS_CLASS = "C3A/architectures/c3a.py"  # MountainChenCad/C3A
FACES = "xSSAB/methodology/gradient_calculator.py"  # marcohuber/xSSAB
FAME_LOOP, FAME_MAP = "fame/fame/optimizer.py", "fame/fame/attribution.py"  # AIML-IfI/fame


@contextmanager
def loaded(path: str, **absent: Any) -> Iterator[Any]:
    """A file of a checkout as a module, with its folder on the path of modules while the block runs.

    absent: what replaces modules that it imports and that are not installed, by name with "__" for a dot.
    """
    if PEERS is None:
        raise ValueError("set PEERS to the folder of the checkouts")
    file = Path(PEERS / path)
    spec = spec_from_file_location(f"peer_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} cannot be imported")
    module = module_from_spec(spec)
    stand_ins = {name.replace("__", "."): found for name, found in absent.items()}
    sys.path.insert(0, str(file.parent))
    sys.modules.update(stand_ins)
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(file.parent))
        for name in stand_ins:
            del sys.modules[name]


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


KERAS = {  # what their code imports of TensorFlow, and their own helpers, which give it NumPy
    f"{package}__{name}": MagicMock(__all__=["np"], np=np)
    for package, names in (
        ("tensorflow__keras", ("models", "layers")),
        ("utils", ("distance_functions", "tensor_operations")),
    )
    for name in names
}


class Features:
    """In place of their Keras model: the features of supports and queries, (1, images, rows, cols, channels)."""

    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        self.of = of

    def __call__(self, given: list[Any]) -> list[Tensor]:
        return [self.of(torch.as_tensor(images)[0].movedim(-1, 1))[None].detach() for images in given]


def channels_last(images: Tensor) -> Any:
    """Images as their code has them."""
    return images.movedim(1, -1).numpy()


def protoshot() -> Iterator[Sides]:
    """image_feature_attribution of a pair, its features the embeddings, behind a square around each pixel."""
    model, pairs = contrastive(32)
    encoded = encode_pairs(model, Similarity(), pairs.query, pairs.reference)

    def features(given: list[Any]) -> tuple[Tensor, ...]:
        support, query = Features(model)(given)
        support = support.mean(dim=1, keepdim=True).expand_as(query)
        return support, query, support.norm(dim=2), query.norm(dim=2)

    theirs = []
    with loaded(PROTOSHOT, **KERAS) as peer:
        method = object.__new__(peer.ProtoShotXAI)
        method.model, method.class_weights = features, None
        for q, r in zip(pairs.query, pairs.reference_images, strict=True):
            support, query = channels_last(r[None]), channels_last(q[None])
            found = method.image_feature_attribution(support, query, None, [0, 0, 0], pad=4, progress_bar=False)
            theirs.append(torch.as_tensor(found))
    ours = ProtoShotXAI(window=0.25, grid=32, baseline="zeros")(model, encoded, pairs)
    yield "two convolutions", ours, torch.stack(theirs)


def cross_class() -> Iterator[Sides]:
    """image_feature_attribution_c3a of a triplet, and the method of their code without contrast."""
    model, pairs = contrastive(32)
    negative = pairs.reference_images.flip(3)
    contrasted = encode_pairs(model, Margin(), pairs.query, pairs.reference, negative)
    alone = encode_pairs(model, Similarity(), pairs.query, pairs.reference)
    theirs: dict[str, list[Tensor]] = {"contrast": [], "one reference": []}
    with loaded(CROSS_CLASS, **KERAS) as peer, torch.no_grad(), redirect_stdout(StringIO()):
        method = object.__new__(peer.C3Amodel)
        method.k, method.model = 10, Features(lambda images: model.run_trunk(images).movedim(1, -1))
        for images in zip(pairs.query, pairs.reference_images, negative, strict=True):
            query, near, far = (channels_last(image[None]) for image in images)
            options = {"ref_pixel": [0, 0, 0], "pad": 3, "progress_bar": False}
            found = method.image_feature_attribution_c3a(near, far, far, query, alpha=0.3, **options)
            theirs["contrast"].append(torch.as_tensor(found))
            found = method.image_feature_attribution_localshot(near, query, **options)
            theirs["one reference"].append(torch.as_tensor(found))
    for name, encoded, alpha in (("contrast", contrasted, 0.3), ("one reference", alone, 0.0)):
        ours = C3A(alpha, window=0.1875, grid=32, baseline="zeros")(model, encoded, pairs)
        yield name, ours, torch.stack(theirs[name])


def faces() -> Iterator[Sides]:
    """get_gradient of both groups of dimensions, combined as their save_combined_map does."""
    model, pairs = contrastive(32)
    encoded = encode_pairs(model, Similarity(), pairs.query, pairs.reference)
    threshold = float(model.similarity(encoded.query.embeddings, encoded.terms[0].side.embeddings).mean())
    theirs = []

    class Matching(nn.Module):
        """As their FaceMatching: a layer whose weight is the other embedding."""

        cosine_layer = nn.Linear(4, 1, False)

        def forward(self, x: Tensor) -> Tensor:
            return self.cosine_layer(functional.normalize(model(x)))

    utilities = SimpleNamespace(transform_img=lambda image: image[None].clone().requires_grad_())
    with loaded(FACES, utils_os=utilities) as peer:
        for q, r in zip(pairs.query, pairs.reference_images, strict=True):
            groups = [peer.get_gradient(q, r, Matching(), model, version, "", threshold) for version in (1, 2)]
            sizes = [torch.as_tensor(group).abs().mean(dim=2) for group in groups]
            theirs.append(sizes[0] - sizes[1])
    yield "two convolutions", XSSAB(threshold)(model, encoded, pairs), torch.stack(theirs)


def moved() -> Iterator[Sides]:
    """fame and fame_attribution at 224 px, for and against the pair; their map is scaled, and so is ours here."""
    model, pairs = contrastive(224)
    encoded = encode_pairs(model, Similarity(), pairs.query, pairs.reference)
    other = encoded.terms[0].side.embeddings
    with loaded(FAME_LOOP) as loop, loaded(FAME_MAP) as peer:
        for evidence, sign in (("similar", 1), ("dissimilar", -1)):

            def loss(x: Tensor, sign: int = sign) -> Tensor:
                return sign * model.similarity(model(x), other)

            changed = loop.fame(pairs.query, loss, iterations=6)
            ours = FAME(evidence, steps=6, blur=7.7 / 224)(model, encoded, pairs)  # type: ignore[arg-type]
            least, most = (getattr(ours, of)(dim=(1, 2), keepdim=True) for of in ("amin", "amax"))
            yield evidence, (ours - least) / (most - least), peer.fame_attribution(pairs.query, changed)[:, 0]


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
    Comparison("protoshotxai", "ProtoShotXAI image_feature_attribution", protoshot, checkout=PROTOSHOT),
    Comparison("c3a", "C3A image_feature_attribution_c3a, _localshot", cross_class, checkout=CROSS_CLASS),
    Comparison("xssab", "xSSAB get_gradient", faces, checkout=FACES),
    Comparison("fame", "fame fame, fame_attribution", moved, checkout=FAME_MAP),
    Comparison("pair_x", "pairx pairx, with zennit's rules", pairx, 1e-3, package="zennit", checkout=PAIRX),
)
