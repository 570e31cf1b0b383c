"""Layer-wise relevance beside zennit, and beside its formulas position by position."""

import importlib
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.vgg import make_layers

from benchmarks.differential.comparison import Comparison, Sides
from benchmarks.differential.pixel_gradients import raw, scale, smalls
from sfam_bench.explainers.bilrp import BiLRP
from sfam_bench.explainers.relevance_cam import RelevanceCAM
from sfam_bench.explainers.shared.relevance import Rules, relevance
from sfam_bench.models.backbones import Standardise
from sfam_bench.models.similarity_model import SimilarityModel

EPSILON = 1e-9
VGG: list[str | int] = [64, "M", 128, "M", 256, 256]  # the first half of VGG-11


def network(name: str, eps: float) -> nn.Sequential:
    """The first half of a torchvision network, a pooling and a head; with batch norms that are not trivial."""
    torch.manual_seed(1)
    half = list(resnet18().children())[:-3] if name == "ResNet-18" else make_layers(VGG, batch_norm=True)
    made = nn.Sequential(*half, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(256, 4))
    for layer in made.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_mean, -0.3, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(layer.bias, -0.3, 0.3)
            layer.eps = eps
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return made.double().eval()


def zennits(made: nn.Sequential, rules: Rules, box: bool, images: Tensor, start: Tensor) -> Tensor:
    """Relevance of what the network reads, by zennit's hooks on a copy."""
    zennit: Any = {
        part: importlib.import_module(f"zennit.{part}")
        for part in ("rules", "composites", "types", "torchvision", "layer")
    }
    named = zennit["rules"]
    epsilon = partial(named.Epsilon, epsilon=EPSILON)
    layer = {
        "zplus": partial(named.ZPlus, stabilizer=EPSILON),
        "epsilon": epsilon,
        "gamma": partial(named.Gamma, gamma=rules.gamma, stabilizer=EPSILON),
    }[rules.rule]
    types, norm = zennit["types"], partial(named.Norm, stabilizer=EPSILON)
    mapped = [
        (zennit["layer"].Sum, norm()),
        (types.Activation, named.Pass()),
        (types.AvgPool, norm()),
        (types.Convolution, layer()),
        (types.Linear, named.ZPlus(stabilizer=EPSILON) if rules.rule == "zplus" else epsilon()),
    ]
    plain = Standardise().double()
    low, high = plain(torch.zeros(1, 3, 1, 1).double()), plain(torch.ones(1, 3, 1, 1).double())
    first = [(types.Convolution, named.ZBox(low, high, stabilizer=EPSILON))] if box else []
    canonizers = [zennit["torchvision"].ResNetCanonizer()]
    composite = zennit["composites"].SpecialFirstLayerMapComposite(mapped, first, canonizers=canonizers)
    read = plain(images).detach().requires_grad_()
    with composite.context(deepcopy(made)) as modified:
        output = modified(read)
        (found,) = torch.autograd.grad(output, read, output.detach() * start)
    return found


def engine(rule: str, eps: float) -> Iterator[Sides]:
    """Relevance of the pixels in both networks, with and without bounds on them."""
    images = torch.rand(1, 3, 32, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = torch.tensor([[1.0, -0.5, 2.0, 0.3]], dtype=torch.float64)
    for name in ("ResNet-18", "VGG-11"):
        made = network(name, eps)
        function = nn.Sequential(Standardise().double(), made)
        for box in (True, False):
            chosen = Rules(rule, epsilon=EPSILON)  # type: ignore[arg-type]
            ours = relevance(chosen, function, images, lambda _: start, "box" if box else "layer")
            theirs = zennits(made, chosen, box, images, start)
            yield f"{name}{', bounded pixels' if box else ''}", ours.sum(dim=1), theirs.sum(dim=1)


def bilrp() -> Iterator[Sides]:
    """A pass of zennit's an image and embedding dimension; every layer under the same rule."""
    for setting in smalls():
        model = setting.model
        made = nn.Sequential(
            *model.trunk, *model.embedder.tail, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), model.embedder.projection
        )  # type: ignore[misc]
        maps = []
        for row in range(2):
            images = (setting.pairs.query[row : row + 1], setting.pairs.reference_images[row : row + 1])
            e, f = (raw(model, model.trunk(image))[0].detach() for image in images)
            found = [torch.stack([one_dimension(made, image, d) for d in range(5)]) for image in images]
            maps.append(torch.einsum("dij,dxy->ij", *found) * scale(setting, e, f))
        ours = setting.ours(BiLRP(epsilon=EPSILON, pixels="rule"))
        yield setting.name, ours, torch.stack(maps)


def whole(model: SimilarityModel) -> nn.Sequential:
    """The parts of a small setting as modules in a row, as zennit wants them."""
    parts: list[Any] = [model.trunk, model.embedder.tail]
    layers = [layer for part in parts for layer in part]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), model.embedder.projection)


def one_dimension(made: nn.Sequential, image: Tensor, d: int) -> Tensor:
    """Relevance of each pixel for one embedding dimension, in zennit's gamma rule."""
    rules: Any = importlib.import_module("zennit.rules")
    composites: Any = importlib.import_module("zennit.composites")
    types: Any = importlib.import_module("zennit.types")
    canonizers: Any = importlib.import_module("zennit.canonizers")
    mapped = [
        (types.Activation, rules.Pass()),
        (types.AvgPool, rules.Norm(stabilizer=EPSILON)),
        (types.Convolution, rules.Gamma(gamma=0.25, stabilizer=EPSILON)),
        (types.Linear, rules.Epsilon(epsilon=EPSILON)),
    ]
    composite = composites.LayerMapComposite(mapped, canonizers=[canonizers.SequentialMergeBatchNorm()])
    read = image.clone().requires_grad_()
    with composite.context(deepcopy(made)) as modified:
        output = modified(read)
        chosen = torch.zeros_like(output)
        chosen[0, d] = output[0, d].detach()
        (found,) = torch.autograd.grad(output, read, chosen)
    return found[0].sum(dim=0)


def relevance_cam() -> Iterator[Sides]:
    """Relevance by its formula, layer by layer, from the split of the score down to the cut."""
    for setting in smalls():
        model, query = setting.model, setting.encoded.query
        convolution: Any = model.embedder.tail[0]  # type: ignore[index]
        dense: Any = model.embedder.projection
        hidden = convolution(query.activations).relu()
        pooled = hidden.mean(dim=(2, 3))
        start = model.similarity.split(query.embeddings, setting.references)
        shared = (pooled[:, None] * dense.weight).clamp_min(0)  # pooled features are positive
        total = shared.sum(dim=2) + dense.bias.clamp_min(0) + EPSILON
        on_pooled = (shared / total[:, :, None] * start[:, :, None]).sum(dim=1)
        on_hidden = on_pooled[:, :, None, None] * hidden / hidden.sum(dim=(2, 3), keepdim=True).clamp_min(EPSILON)
        parts = torch.zeros_like(query.activations)
        rows, cols = hidden.shape[-2:]
        weight = convolution.weight.clamp_min(0)
        for i in range(rows):
            for j in range(cols):
                window = [(u, v) for u in (-1, 0, 1) for v in (-1, 0, 1) if 0 <= i + u < rows and 0 <= j + v < cols]
                share = {
                    (u, v): query.activations[:, None, :, i + u, j + v] * weight[None, :, :, u + 1, v + 1]
                    for u, v in window
                }
                whole = sum(part.sum(dim=2) for part in share.values()) + convolution.bias.clamp_min(0) + EPSILON
                for (u, v), part in share.items():
                    parts[:, :, i + u, j + v] += (part * (on_hidden[:, :, i, j] / whole)[:, :, None]).sum(dim=1)
        maps = torch.einsum("bk,bkij->bij", parts.mean(dim=(2, 3)), query.activations)
        yield setting.name, setting.ours(RelevanceCAM(epsilon=EPSILON)), maps.detach()


CAUSE = "after it has folded a batch norm, zennit leaves it in place with its eps: 5e-6 of the signal is lost at each"
COMPARISONS = (
    Comparison("relevance_cam", "by definition", relevance_cam),
    Comparison("bilrp", "zennit Gamma, one pass for each dimension; no eps in batch norms", bilrp, package="zennit"),
    *(
        Comparison(
            method, f"zennit {name}, the relevance; no eps in batch norms", partial(engine, rule, 0.0), package="zennit"
        )
        for method, name, rule in (
            ("bilrp", "Gamma", "gamma"),
            ("relevance_cam", "ZPlus", "zplus"),
            ("relevance_cam", "Epsilon", "epsilon"),
        )
    ),
    Comparison("bilrp", "zennit Gamma, the relevance", partial(engine, "gamma", 1e-5), cause=CAUSE, package="zennit"),
)
