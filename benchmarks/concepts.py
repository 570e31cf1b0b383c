"""Draw the pictures of docs/concepts.md, docs/known-answers.md and docs/methods.md on the planted set.

python -m benchmarks.concepts MODEL.safetensors
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sfam_bench.core.baselines import MeanColour
from sfam_bench.core.conf import conf_folder
from sfam_bench.core.errors import UserError
from sfam_bench.core.maps import normalise, upsample
from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import Similarity
from sfam_bench.datasets.planted.dataset import Planted
from sfam_bench.evaluation.named import find_object
from sfam_bench.explainers.controls import Chance, LaFAM
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.explainers.shared.prepare import Bank, Preparable
from sfam_bench.metrics.causal import CausalAgreement
from sfam_bench.metrics.perturbation import Perturbation
from sfam_bench.metrics.selectivity import Selectivity
from sfam_bench.metrics.shared.base import Explained
from sfam_bench.metrics.shared.effects import measure_effects
from sfam_bench.metrics.shared.scene import Scene
from sfam_bench.metrics.shared.steps import Trapezoid, sample_steps
from sfam_bench.metrics.shared.walks import Direction, Walk
from sfam_bench.models.build import build
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import SimilarityModel, encode_pairs
from sfam_bench.report.figures.colours import overlay

OUT = Path(__file__).parents[1] / "docs" / "images"
QUERY, POSITIVE = "test-0097-03", "test-0097-07"
PARTIAL, OTHER_PARTIAL = "test-0098-01", "test-0125-02"  # share the crest alone, and the tail alone
SHARED, UNSHARED = "#0072B2", "#D55E00"  # Okabe and Ito: told apart without red and green
SEEN, DRAWN = Planted(), Planted(size=288)  # what the network sees, and the same birds drawn larger
STEPS = Trapezoid(48)
SHOWN = (0.0, 0.05, 0.15, 0.4, 1.0)  # of the pixels


def main(checkpoint: str) -> int:
    """Draw all pictures."""
    model = build("planted_net", planted_net(), GAP(), Cosine(), checkpoint=checkpoint, image_size=SEEN.size)
    for name, figure in {
        "pair": pair(model),
        "cut": cut(model),
        "weighting": weighting(model),
        "curves": curves(model),
        "selectivity": selectivity(model),
        "effects": effects(model),
    }.items():
        path = OUT / f"concept-{name}.png"
        figure.savefig(path, dpi=130, facecolor="white", metadata={"Software": None})
        print(path)
    for name, maps in map_of_each(model):
        save_small(strip(maps), OUT / "methods" / f"{name}.png")
    return 0


def batch(reference: str) -> PairBatch:
    """One pair with the regions of its query."""
    query, other = SEEN.sample(QUERY), SEEN.sample(reference)
    masks = {name: mask[None] for name, mask in SEEN.regions(QUERY, reference, query).items()}
    return PairBatch((QUERY,), (reference,), query.image[None], other.image[None], masks=masks, redraws=SEEN)


def scene(model: SimilarityModel, reference: str) -> Scene:
    """One pair, encoded."""
    pairs = batch(reference)
    return Scene(model, encode_pairs(model, Similarity(), pairs.query, pairs.reference), pairs)


def explained(of: Scene, method: Any) -> Explained:
    """The map of a method, as metrics see it."""
    raw = method(of.model, of.encoded, of.pairs)
    return Explained(of, upsample(normalise(raw), (SEEN.size, SEEN.size)), raw=raw)


def bird(image_id: str) -> NDArray[np.uint8]:
    """A bird, drawn large."""
    return np.asarray(DRAWN.image(image_id))


def show(axes: Axes, image: Any, title: str = "", **options: Any) -> None:
    """An image without ticks."""
    axes.imshow(image, **options)
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)


def outline(axes: Axes, image_id: str, parts: Mapping[str, str]) -> None:
    """Draw the rims of parts, each in its colour."""
    masks = DRAWN.sample(image_id).masks
    for part, colour in parts.items():
        axes.contour(masks[f"part/{part}"].float().numpy(), [0.5], colors=[colour], linewidths=1.8)


def pair(model: SimilarityModel) -> Figure:
    """Query, a reference of its class, and a partial match."""
    figure = Figure(figsize=(7.6, 2.95), layout="constrained")
    images = {"query": QUERY, "reference of its class": POSITIVE, "partial match": PARTIAL}
    for axes, (title, image_id) in zip(figure.subplots(1, 3), images.items(), strict=True):
        score = "" if image_id == QUERY else f"\nsimilarity {float(scene(model, image_id).full()):.2f}"
        show(axes, bird(image_id), f"{title}: {SEEN.index.class_name[image_id]}{score}")
        outline(axes, image_id, {"crest": SHARED, "tail": UNSHARED if image_id == PARTIAL else SHARED})
    return figure


def cut(model: SimilarityModel) -> Figure:
    """From two images over the grids at the cut and the pooled channels to one number."""
    of = scene(model, POSITIVE)
    reference = of.encoded.terms[0].side
    sides = {QUERY: of.encoded.query, POSITIVE: reference.side_for("the figure")}
    cis = SFAM().weights(model, of.encoded.query, reference)[0]
    channels = cis.topk(4).indices.tolist()
    figure = Figure(figsize=(10.4, 3.9), layout="constrained")
    grid = figure.add_gridspec(2, 7, width_ratios=[1.3, 1, 1, 1, 1, 2, 0.9])
    for row, (image_id, side) in enumerate(sides.items()):
        name = ("query", "reference")[row]
        show(figure.add_subplot(grid[row, 0]), bird(image_id), f"{name}\n96 x 96 pixels")
        for place, channel in enumerate(channels):
            title = f"channel {channel}" + ("\nof 128, 12 x 12" if place == 0 else "\n")
            show(figure.add_subplot(grid[row, 1 + place]), side.activations[0, channel], title, cmap="cividis")
        axes = figure.add_subplot(grid[row, 5])
        axes.bar(np.arange(side.embeddings.shape[1]), side.embeddings[0], color="0.35", width=1.0)
        axes.bar(channels, side.embeddings[0, channels], color=UNSHARED, width=1.8)
        axes.set_title("embedding: mean of each channel,\nscaled to length 1", fontsize=9)
        axes.set_yticks([])
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right", "left"]].set_visible(False)
    axes = figure.add_subplot(grid[:, 6])
    axes.set_axis_off()
    axes.text(0.5, 0.5, f"similarity\n(cosine)\n\n{float(of.full()):.2f}", ha="center", va="center", fontsize=13)
    figure.get_layout_engine().set(rect=(0, 0, 1, 0.93))  # type: ignore[union-attr, call-arg]
    figure.text(0.40, 0.955, "activations at the cut: output of the trunk", ha="center", fontsize=11, weight="bold")
    figure.text(0.77, 0.955, "embedder", ha="center", fontsize=11, weight="bold")
    return figure


def weighting(model: SimilarityModel) -> Figure:
    """A few channels with their weights, and the map that all of them add up to."""
    of = scene(model, PARTIAL)
    query, reference = of.encoded.query, of.encoded.terms[0].side
    cis = SFAM().weights(model, query, reference)[0]
    strong = query.embeddings[0].topk(24).indices
    chosen = [*cis.topk(3).indices.tolist(), int(strong[cis[strong].argmin()])]  # and one the reference lacks
    figure = Figure(figsize=(11.4, 2.8), layout="constrained")
    panels = figure.subplots(1, 6)
    show(panels[0], bird(QUERY), "query\n")
    for axes, channel in zip(panels[1:], chosen, strict=False):
        p, q = (float(side.embeddings[0, channel]) for side in (query, reference))
        share = 100 * float(cis[channel] / cis.sum())
        show(
            axes, query.activations[0, channel], f"channel {channel}\nquery {p:.2f}, reference {q:.2f}", cmap="cividis"
        )
        axes.text(0.5, -0.14, f"{share:.1f} % of the similarity", transform=axes.transAxes, ha="center", fontsize=9)
    show(
        panels[-1],
        overlay(bird(QUERY), SFAM()(model, of.encoded, of.pairs)[0].numpy()),
        "SFAM: weighted sum\nof all 128",
    )
    outline(panels[-1], QUERY, {"crest": SHARED})
    return figure


def curves(model: SimilarityModel) -> Figure:
    """Deletion and insertion along one map: the images, and the scores."""
    of = scene(model, POSITIVE)
    ours, chance = explained(of, SFAM()), explained(of, Chance())
    both = torch.ones(1, dtype=torch.bool)
    figure = Figure(figsize=(10.4, 4.3), layout="constrained")
    grid = figure.add_gridspec(2, len(SHOWN) + 2)
    directions: tuple[Direction, ...] = ("deletion", "insertion")
    for row, direction in enumerate(directions):
        walk = Walk(direction, MeanColour(), STEPS)
        for place, share in enumerate(SHOWN):
            image = changed(of, ours, direction, share)
            score = float(of.read(model.encode(image[None]).embeddings, 0))
            title = f"{direction}: {100 * share:.0f} %\nsimilarity {score:.2f}"
            show(figure.add_subplot(grid[row, place]), image.permute(1, 2, 0).clamp(0, 1), title)
        axes = figure.add_subplot(grid[row, len(SHOWN) :])
        at = 100 * np.array(sample_steps(STEPS, SEEN.size**2)[0]) / SEEN.size**2
        for found, label, style in ((ours, "SFAM", "-"), (chance, "chance", "--")):
            scores = walk.scores(found, both)[0]
            area = float(Perturbation(direction, steps=STEPS)(found).values)
            axes.plot(at, scores, style, color=SHARED if found is ours else "0.4", label=f"{label}, area {area:.2f}")
        axes.fill_between(at, walk.scores(ours, both)[0], float(of.base(MeanColour())), color=SHARED, alpha=0.12, lw=0)
        axes.set_title(f"{direction}: similarity by % of pixels", fontsize=9)
        axes.legend(fontsize=8, frameon=False, loc="upper right" if row == 0 else "lower right")
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def changed(of: Scene, found: Explained, direction: Direction, share: float) -> Tensor:
    """The query with a share of its most relevant pixels deleted or inserted."""
    full, bare = of.pairs.query[0], of.without(MeanColour())[0]
    first = found.ranks[0] < share * found.ranks[0].numel()
    return torch.where(first, bare, full) if direction == "deletion" else torch.where(first, full, bare)


def selectivity(model: SimilarityModel) -> Figure:
    """Two partial matches of one query: a map of the pair follows the shared part, that of LaFAM does not."""
    figure = Figure(figsize=(9.6, 5.5), layout="constrained")
    grid = figure.subplots(2, 4)
    for row, (reference, shared) in enumerate({PARTIAL: "crest", OTHER_PARTIAL: "tail"}.items()):
        of = scene(model, reference)
        show(grid[row, 0], bird(reference), f"reference\nshares the {shared}")
        show(grid[row, 1], bird(QUERY), "query\n")
        compared = {"SFAM": SFAM(), "LaFAM (ignores the reference)": LaFAM()}
        for axes, (name, method) in zip(grid[row, 2:], compared.items(), strict=True):
            found = explained(of, method)
            assert found.raw is not None
            value = float(Selectivity()(found).values)
            show(axes, overlay(bird(QUERY), found.raw[0].numpy()), f"{name}\nselectivity {value:+.2f}")
        rims = {part: SHARED if part == shared else UNSHARED for part in ("crest", "tail")}
        for axes, image_id in zip(grid[row], (reference, QUERY, QUERY, QUERY), strict=True):
            outline(axes, image_id, rims)
    return figure


def effects(model: SimilarityModel) -> Figure:
    """One query and three references: the parts of the query by their measured effect, and beside them the maps."""
    names = ("sfam", "similarity_decomposition", "grad_cam", "integrated_gradients", "lafam")
    figure = Figure(figsize=(11.2, 5.2), layout="constrained")
    panels = figure.subplots(3, 2 + len(names))
    drawn = DRAWN.part_masks(QUERY).numpy()
    for row, (axes, reference) in enumerate(zip(panels, (POSITIVE, PARTIAL, OTHER_PARTIAL), strict=True)):
        of = scene(model, reference)
        found = measure_effects(of, SEEN.states - 1)
        show(axes[0], bird(reference), f"{'reference' if row == 0 else ''}\ns = {float(of.full()):.2f}")
        painted = np.einsum("p,pij->ij", found.means[0].nan_to_num(0).numpy(), drawn)
        grey = np.repeat(bird(QUERY).mean(axis=2, keepdims=True) / 255, 3, axis=2)
        show(axes[1], grey, "measured effect\nof each part" if row == 0 else "")
        covered = np.ma.masked_where(~drawn.any(axis=0), painted)
        limit = float(np.abs(painted).max())
        axes[1].imshow(covered, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.85)
        for place, name in enumerate(names, start=2):
            own = explained(of, find_object("explainer", name))
            agreement = float(CausalAgreement(repeats=SEEN.states - 1)(own).values[0])
            title = f"{name.replace('similarity_', '').replace('_', ' ')}\n" if row == 0 else ""
            show(axes[place], overlay(bird(QUERY), own.maps[0].numpy()), f"{title}agreement {agreement:.2f}")
    return figure


def map_of_each(model: SimilarityModel) -> Iterator[tuple[str, list[NDArray[np.float32]]]]:
    """The maps of each method that can explain this model, for two partial matches of one query."""
    dataset: Any = SEEN
    chosen = SEEN.index[SEEN.index["split"] == "train"]
    bank = Bank.of_dataset(model, dataset, [str(image_id) for image_id in chosen.index], batch_size=64)
    scenes = [scene(model, reference) for reference in (PARTIAL, OTHER_PARTIAL)]
    for name in sorted(file.stem for file in (conf_folder() / "explainer").glob("*.yaml")):
        method = find_object("explainer", name)
        try:
            method = method.prepare(model, bank) if isinstance(method, Preparable) else method
            maps = [explained(of, method).maps[0].numpy() for of in scenes]
        except UserError as error:
            print(f"{name} has no picture: {error}")
            continue
        yield name, maps


def strip(maps: Sequence[NDArray[np.float32]]) -> Figure:
    """The query, then each reference and the map of the query for it."""
    figure = Figure(figsize=(6.4, 1.55), layout="constrained")
    panels = figure.subplots(1, 5)
    show(panels[0], bird(QUERY), "query")
    for place, (reference, shared) in enumerate({PARTIAL: "crest", OTHER_PARTIAL: "tail"}.items()):
        show(panels[1 + 2 * place], bird(reference), f"shares the {shared}")
        show(panels[2 + 2 * place], overlay(bird(QUERY), maps[place]), "map of the query")
        outline(panels[2 + 2 * place], QUERY, {shared: SHARED})
    return figure


def save_small(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG of 256 colours, a third of the size."""
    path.parent.mkdir(exist_ok=True)
    buffer = BytesIO()
    figure.savefig(buffer, dpi=95, facecolor="white")
    Image.open(buffer).convert("RGB").quantize(256).save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
