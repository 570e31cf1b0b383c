"""Recent methods beside loops written from their definitions, and beside lime and pytorch-grad-cam."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.differential.attention import every
from benchmarks.differential.comparison import Comparison, Sides
from benchmarks.differential.gradient_cams import targeted
from benchmarks.differential.pixel_gradients import smalls
from benchmarks.differential.prepared import bank
from benchmarks.differential.settings import Setting, resnets
from benchmarks.differential.transformers import COLS, ROWS, WIDTH, WrittenOut, transformer
from sfam_bench.core.maps import upsample
from sfam_bench.explainers.averaged_transforms import AveragedTransforms
from sfam_bench.explainers.daam import DAAM
from sfam_bench.explainers.fggb import FGGB
from sfam_bench.explainers.finer_cam import FinerCAM
from sfam_bench.explainers.fixlip import FIxLIP
from sfam_bench.explainers.gscore_cam import GScoreCAM
from sfam_bench.explainers.lime import LIME
from sfam_bench.explainers.similarity_attention import SimilarityAttention


def one_by_one(explainer: Any, map_of: Callable[[Setting, int], Tensor]) -> Iterator[Sides]:
    """Compare with `map_of(setting, row)`, pair by pair, under each similarity."""
    for setting in smalls():
        theirs = [map_of(setting, row).detach() for row in range(len(setting.pairs))]
        yield setting.name, setting.ours(explainer), torch.stack(theirs)


def fggb(setting: Setting, row: int) -> Tensor:
    """A backward pass of each dimension, its magnitude averaged over colours and scaled to length one."""
    model, total = setting.model, torch.zeros(10, 8, dtype=torch.float64)
    other = setting.references[row]
    for k in range(5):
        image = setting.pairs.query[row : row + 1].clone().requires_grad_()
        e = model(image)[0]
        scaled = e / e.norm() if setting.name == "cosine" else e
        scaled[k].backward(inputs=[image])
        size = image.grad[0].abs().mean(dim=0)  # type: ignore[index]
        share = {"cosine": e[k] * other[k] / e.norm() / other.norm(), "dot": e[k] * other[k]}
        weight = share.get(setting.name, -((e[k] - other[k]) ** 2)) - 0.4 / 5
        total += weight.detach() * size / size.norm()
    return total


def averaged(setting: Setting, row: int) -> Tensor:
    """The gradient with each mixture by itself."""
    x, y = setting.pairs.query[row : row + 1], setting.pairs.reference_images[row : row + 1]
    gradients = []
    for share in (0.2, 0.4, 0.6, 0.8):
        leaf = x.clone().requires_grad_()
        mixed = setting.model(share * x + (1 - share) * y).detach()
        setting.model.similarity(setting.model(leaf), mixed).sum().backward(inputs=[leaf])
        gradients.append(leaf.grad)
    return (x * torch.stack(gradients).mean(dim=0)).abs().amax(dim=1)[0]  # type: ignore[arg-type]


def attention(setting: Setting, row: int) -> Tensor:
    """Grad-CAM of the weighted sum of the embedding, its weights differentiated."""
    model, activations = setting.model, setting.encoded.query.activations[row : row + 1].clone().requires_grad_()
    e, other = model.embedder(activations)[0], setting.references[row]
    if setting.name == "cosine":
        e, other = e / e.norm(), other / other.norm()
    sum((1 - abs(a - b)) * a for a, b in zip(e, other, strict=True)).backward(inputs=[activations])
    weights = activations.grad.mean(dim=(2, 3))[0]  # type: ignore[union-attr]
    return (weights[:, None, None] * activations[0]).sum(dim=0)


def gscore(setting: Setting, row: int) -> Tensor:
    """A pass of each of the two channels with the greatest gradients, of all that vary."""
    model, similarity = setting.model, setting.model.similarity
    activations = setting.encoded.query.activations[row : row + 1].clone().requires_grad_()
    other, image = setting.references[row : row + 1], setting.pairs.query[row]
    similarity(model.embedder(activations), other).sum().backward(inputs=[activations])
    slopes = activations.grad.mean(dim=(2, 3))[0].tolist()  # type: ignore[union-attr]
    alive = [k for k, channel in enumerate(activations[0]) if channel.max() > channel.min()]
    chosen = sorted(alive, key=lambda k: -slopes[k])[:2]
    scores = []
    for k in chosen:
        large = upsample(activations[:, k].detach(), (10, 8))[0]
        mask = (large - large.min()) / (large.max() - large.min())
        scores.append(similarity(model((image * mask)[None]), other))
    shares = torch.cat(scores).softmax(dim=0)
    return sum(share * activations[0, k] for share, k in zip(shares, chosen, strict=True))


def whole_regression(setting: Setting, row: int) -> Tensor:
    """The regression on all patches and all pairs of patches of both images, a pass for each pair of masks."""
    method, model, pairs = FIxLIP(2, 11, baseline="zeros"), setting.model, setting.pairs
    sides = [(pairs.query[row], pairs.query_ids[row]), (pairs.reference_images[row], pairs.reference_ids[row])]
    drawn = [method.draw(4, name)[0] for _, name in sides]
    rows, values = [], []
    for own in drawn[0]:
        for other in drawn[1]:
            kept = []
            for (image, _), members in zip(sides, (own, other), strict=True):
                cells = [[members[i * 2 // 10 * 2 + j * 2 // 8] for j in range(8)] for i in range(10)]
                mask = torch.tensor(cells, dtype=torch.float64)
                kept.append(model((image * mask)[None]))
            values.append(model.similarity(*kept)[0])
            players = [*own.double(), *other.double()]
            joint = [a * b for a, b in combinations(players, 2)]
            rows.append(torch.stack([torch.ones(()).double(), *players, *joint]))
    found = torch.linalg.lstsq(torch.stack(rows), torch.stack(values)[:, None].detach(), driver="gelsd").solution[9:, 0]
    total = torch.zeros(4, dtype=torch.float64)
    for value, (i, j) in zip(found, combinations(range(8), 2), strict=True):
        if i < 4 <= j:
            total[i] += value
    return total.view(2, 2)


def daam() -> Iterator[Sides]:
    """The attention of each block, recomputed by hooks on its projection, in both ways of reading."""
    for setting in every():
        maps = [accumulated(setting, row) for row in range(len(setting.pairs))]
        yield setting.name, setting.ours(DAAM()), torch.stack(maps)


def accumulated(setting: Setting, row: int) -> Tensor:
    """Block by block: attention of the reading tokens, times values, times the gradient at the projection's input."""
    blocks: Any = transformer(2)
    written = WrittenOut(blocks, setting)
    image = setting.pairs.query[row]
    reading = [0] if written.reads_class else list(range(2, 2 + ROWS * COLS))
    tokens, seen = written.start(image), []
    for block in blocks.blocks:
        heads = written.heads(block, tokens, 2)
        weights = written.attend(heads)
        output = written.outputs(weights, heads)
        output = output if output.requires_grad else output.requires_grad_()
        output.retain_grad()
        seen.append((weights.detach(), torch.cat([v for _, _, v in heads], dim=1).detach(), output))
        tokens = written.finish(block, tokens, output)
    pooled = blocks.norm(tokens)[reading].mean(dim=0)
    head: Any = setting.model.embedder.projection
    e, other = head(pooled), setting.references[row]
    u = e.detach() / e.detach().norm()
    shares = {
        "cosine": u * other,
        "dot": u * other,
        "negative_euclidean": -((u - other) ** 2),
    }[setting.model.similarity.name]
    scaled = (shares - shares.min()) / (shares.max() - shares.min())
    (e * scaled).sum().backward()
    total = torch.zeros(ROWS * COLS, dtype=torch.float64)
    half = WIDTH // 2
    for weights, values, output in seen:
        one = torch.zeros(ROWS * COLS, dtype=torch.float64)
        for t in reading:
            for h in range(2):
                dims = slice(half * h, half * (h + 1))
                slope = output.grad[t, dims]  # type: ignore[index]
                for j in range(ROWS * COLS):
                    one[j] += weights[h, t, 2 + j] * (values[2 + j, dims] @ slope)
        one = one.relu()
        total += (one - one.min()) / ((one - one.min()).max() + 1e-10)  # as in the authors' code
    return total.view(ROWS, COLS)


def limes() -> Iterator[Sides]:
    """The regression of lime's own class, with the patches kept and the scores that our method has."""
    from sklearn.metrics import pairwise_distances

    base = import_module("lime.lime_base").LimeBase(lambda d: np.sqrt(np.exp(-(d**2) / 0.25**2)), random_state=0)
    for setting in smalls():
        method, maps = LIME(grid=3, samples=40), []
        for row, query_id in enumerate(setting.pairs.query_ids):
            kept = method.draw(9, query_id).double()
            image, scores = setting.pairs.query[row], []
            mean = image.mean(dim=(1, 2), keepdim=True)
            for members in kept:
                mask = torch.tensor([[members[i * 3 // 10 * 3 + j * 3 // 8] for j in range(8)] for i in range(10)])
                masked = torch.where(mask > 0, image, mean)[None]
                scores.append(setting.model.similarity(setting.model(masked), setting.references[row : row + 1]))
            labels = torch.stack(scores).detach().numpy()
            far = pairwise_distances(kept.numpy(), kept.numpy()[:1], metric="cosine").ravel()
            _, found, *_ = base.explain_instance_with_data(kept.numpy(), labels, far, 0, 100)
            maps.append(torch.tensor([weight for _, weight in sorted(found)], dtype=torch.float64).view(3, 3))
        yield setting.name, setting.ours(method), torch.stack(maps)


def finer_cams() -> Iterator[Sides]:
    """Grad-CAM with its FinerWeightedTarget on the scores with the reference and with the class means."""
    from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget

    for setting in resnets():
        ready = FinerCAM(alpha=0.6, classes=2, relu=False).prepare(setting.model, bank(setting))
        similarity, means, targets = setting.model.similarity, ready.state["means"], []
        for query, reference in zip(setting.encoded.query.embeddings, setting.references, strict=True):
            full = similarity(query[None], reference[None])
            apart = [float((similarity(query[None], mean[None]) - full).abs()) for mean in means]
            near = sorted(range(len(means)), key=apart.__getitem__)[:2]
            others = torch.stack([reference, *means[near]])

            def target(e: Tensor, others: Tensor = others, similarity: Any = similarity) -> Tensor:
                found: Tensor = FinerWeightedTarget(0, [1, 2], 0.6)(similarity(e.expand_as(others), others))
                return found

            targets.append(target)
        trunk: Any = setting.model.trunk
        theirs = targeted("GradCAM", setting.model, trunk[1], setting.pairs.query, targets)  # type: ignore[arg-type]
        yield setting.name, setting.ours(ready), theirs


COMPARISONS = (
    *(
        Comparison(method, "by definition", partial(one_by_one, explainer, map_of))
        for method, explainer, map_of in (
            ("fggb", FGGB(threshold=0.4), fggb),
            ("averaged_transforms", AveragedTransforms(steps=4), averaged),
            ("similarity_attention", SimilarityAttention(relu=False), attention),
            ("gscore_cam", GScoreCAM(share=0.3, relu=False), gscore),
            ("fixlip", FIxLIP(2, 11, baseline="zeros"), whole_regression),
        )
    ),
    Comparison("daam", "by definition", daam),
    Comparison("lime", "lime LimeBase, on our patches", limes, package="lime"),
    Comparison("finer_cam", "grad-cam GradCAM on its FinerWeightedTarget", finer_cams, package="pytorch_grad_cam"),
)
