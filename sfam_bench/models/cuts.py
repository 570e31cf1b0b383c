"""Cut any module into a trunk, a pooling and a projection that together compute the module's own embedding."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sfam_bench.core.errors import UserError
from sfam_bench.core.hooks import record_calls
from sfam_bench.core.similarity import unit
from sfam_bench.core.types import Activations, Embeddings, Images, Pooled
from sfam_bench.models.graph import Graph
from sfam_bench.models.layouts import Layout, Size, size_of
from sfam_bench.models.outputs import Reader, Where, WithoutL2, reader_of
from sfam_bench.models.poolings import GAP, GAPGMP, GMP, GeM
from sfam_bench.models.splice import Before, Behind, Place, Seen, Shape, outermost, shapes_of

TOLERANCE = 1e-4  # largest difference of unit vectors between a cut model and the network's own forward pass
UNUSED = 1e-6  # derivatives by tokens that the embedding does not depend on, relative to the largest
SCALE_FREE = 1e-3  # sum of shares of positions before a norm, relative to that of their magnitudes
STEPS = (32, 28, 24, 16)  # px by which the second probe is wider
SMALL = 0.01  # largest weight of a layer that has no visible influence
UNCHANGED = ("Identity", "Dropout", "DropPath", "Dropout2d")  # modules that return their input
FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
)  # of a network on an input that it was not made for
MOST_TRIED = 30  # layers


Embedding: TypeAlias = Literal["own", "pooled", "class"]
NAMED: dict[Embedding, str] = {"own": "own", "pooled": "pooled last grid", "class": "class token"}


class Probe(NamedTuple):
    """Images and the network's own embeddings of them, of length 1."""

    images: Images
    embeddings: Embeddings


OtherEmbeddings: TypeAlias = Float[Tensor, "batch other_dims"]


@dataclass(frozen=True)
class Cut:
    """A network in parts: activations = trunk(images), embedding = projection(pooling(tail(activations))).

    Attributes:
        trunk: from images to activations (batch, channels, rows, cols).
        tail: layers between the cut and the pooling; None for none.
        pooling: the network's own pooling; None where it is not known.
        projection: what the network computes of pooled features; None for nothing.
        layer: the layer at the cut.
        grid: rows and cols of the activations of the first probe, where they were computed.
        embedding: what the embedding is, for tables: "own" or the user's choice.
        behind: names of the modules with weights that `pooling` and `projection` stand for.
        probes: images with the network's own embeddings, with which every model of this cut is compared.

    Iterating gives trunk and tail.
    """

    trunk: nn.Module
    tail: nn.Module | None = None
    pooling: nn.Module | None = None
    projection: nn.Module | None = None
    layer: str = ""
    embedding: str = "own"
    grid: Size = (0, 0)
    behind: tuple[str, ...] = ()
    probes: tuple[Probe, ...] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter((self.trunk, self.tail))


def embed_parts(cut: Cut, images: Images) -> Embeddings:
    """The embedding that the parts of a cut compute of images in [0, 1], of length 1."""
    activations = cut.trunk(images)
    pooling = cut.pooling or GAP()
    pooled = pooling(activations if cut.tail is None else cut.tail(activations))
    return unit(pooled if cut.projection is None else cut.projection(pooled))


def verify(cut: Cut, probes: tuple[Probe, ...], name: str) -> Cut:
    """The cut with these probes.

    Raises:
        UserError: if its parts do not compute the network's own embeddings of them.
    """
    with torch.no_grad():
        distance = max((distance_of(embed_parts(cut, x), own) for x, own in probes), default=0.0)
    if not distance <= TOLERANCE:
        raise UserError(
            f"{name} cannot be cut at '{cut.layer}': the parts differ from the network's own embedding by "
            f"{distance:.2g} on unit vectors; choose another layer, or the pooled last grid by embedding=pooled"
        )
    return replace(cut, probes=probes)


def distance_of(found: Embeddings, own: OtherEmbeddings) -> float:
    """The largest difference of two batches of unit vectors; infinite where one is NaN or of other dimensions."""
    if found.shape != own.shape:
        return float("inf")
    return float((found - own).detach().abs().max().nan_to_num(nan=torch.inf))


def make_probes(
    module: nn.Module, size: Size, standardise: nn.Module, read: Callable[[Any], Tensor] | None = None
) -> tuple[Probe, ...]:
    """Images of one or two sizes with the module's own embeddings; the second one is wider, where that is accepted."""
    weights = next((w for w in module.parameters() if w.is_floating_point()), torch.zeros(()))
    made = []
    for step in (0, *STEPS):
        images = probe_images((size[0], size[1] + step), weights.device, weights.dtype)
        with torch.no_grad():
            try:
                output = module(standardise(images))
            except Exception:  # networks for images of one size raise whatever they raise
                if not step:
                    raise
                continue
        made.append(Probe(images, unit((read or Reader(None))(output))))
        if step:
            break
    return tuple(made)


def probe_images(size: Size, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Images:
    """Two images in [0, 1], (2, 3, rows, cols): a smooth one, as photos are, and noise; always the same."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 5, 7, generator=draw)
    smooth = nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
    return torch.cat([smooth, torch.rand(1, 3, *size, generator=draw)]).to(device, dtype)


@contextmanager
def enlarged(module: nn.Module) -> Iterator[None]:
    """Set weights that are all nearly zero to random ones of usual size while the block runs.

    Layers whose scale starts near zero have no visible influence on the embedding of an untrained network, so that a
    cut which leaves one out would not be noticed until the network is trained.
    """
    draw = torch.Generator().manual_seed(0)
    small = [
        w for w in module.parameters() if w.is_floating_point() and w.numel() and float(w.detach().abs().max()) < SMALL
    ]
    kept = [weight.detach().clone() for weight in small]
    try:
        with torch.no_grad():
            for name, weight in module.named_parameters():
                if any(weight is one for one in small) and not name.endswith("bias"):
                    noise = torch.randn(weight.shape, generator=draw)
                    scaled = 1 + 0.3 * noise if weight.squeeze().ndim < 2 else noise * weight[0].numel() ** -0.5
                    weight.copy_(scaled)
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(small, kept, strict=True):
                weight.copy_(before)


class Whole:
    """A module with probes: images of one or two sizes, and its embeddings of them.

    Args:
        module: from images (batch, 3, rows, cols), standardised, to anything with an embedding in it.
        size: rows and cols of the first probe; the second one is wider, where the module accepts that.
        standardise: from images in [0, 1] to what the module reads.
        read: where the embedding is in the module's output; None to find it.
        name: of the module, in messages.
    """

    def __init__(
        self,
        module: nn.Module,
        size: Size,
        standardise: nn.Module,
        read: Where = None,
        name: str = "",
    ) -> None:
        self.module, self.standardise, self.size = module, standardise, size
        self.name = name or type(module).__name__
        weights = next((w for w in module.parameters() if w.is_floating_point()), torch.zeros(()))
        self.images = [probe_images(size, weights.device, weights.dtype)]
        output, calls = self._run(self.images[0])
        self.read = reader_of(output, self.name, read)
        self.embeddings = [self.read(output)]
        self.calls = [calls]
        for step in STEPS:
            wider = probe_images((size[0], size[1] + step), weights.device, weights.dtype)
            try:
                output, calls = self._run(wider)
            except Exception:  # networks for one size raise whatever they raise
                continue
            self.images.append(wider)
            self.embeddings.append(self.read(output))
            self.calls.append(calls)
            break
        self._check()

    def _run(self, images: Images) -> tuple[Any, list[tuple[str, Any]]]:
        """The output, and name and shapes of the output of each call of a module, in the order in which they return."""
        with torch.no_grad(), record_calls(self.module) as calls:
            try:
                output = self.module(self.standardise(images))
            except Exception as error:
                if len(getattr(self, "embeddings", ())):
                    raise
                why = (str(error).splitlines() or [type(error).__name__])[0][:160]
                raise UserError(
                    f"{self.name} cannot read images (2, 3, {images.shape[-2]}, {images.shape[-1]}): {why}; give "
                    "image_size="
                ) from error
        return output, [(name, shapes_of(made)) for name, made in calls]

    @property
    def names(self) -> list[str]:
        """Names of the modules that run, in the order in which they first return."""
        return list(dict.fromkeys(name for name, _ in self.calls[0]))

    def shapes(self, name: str) -> list[list[torch.Size]]:
        """For each probe the shapes of a module's outputs; empty for an output that does not hold one tensor."""
        found = []
        for calls in self.calls:
            tensors = [[x for x in tree_leaves(made) if isinstance(x, Shape)] for of, made in calls if of == name]
            found.append([leaves[0].shape if len(leaves) == 1 else torch.Size() for leaves in tensors])
        return found

    def _check(self) -> None:
        first = self.embeddings[0]
        if not first.isfinite().all() or not first.abs().sum(dim=1).all():
            raise UserError(f"{self.name} returns zeros, NaN or infinity for two test images: check its weights")
        if torch.allclose(unit(first)[0], unit(first)[1], atol=1e-7):
            raise UserError(f"{self.name} returns the same embedding for two different images: check its weights")

    @property
    def probes(self) -> tuple[Probe, ...]:
        """The images in [0, 1] and the module's embeddings of them, of length 1."""
        return tuple(Probe(x, unit(e)) for x, e in zip(self.images, self.embeddings, strict=True))

    @property
    def sizes(self) -> list[Size]:
        """Rows and cols of the probes."""
        return [size_of(images) for images in self.images]

    def layout(self, name: str) -> Layout | None:
        """The layout of the output of a module that runs once; None where it has no positions."""
        shapes = self.shapes(name)
        if any(len(found) != 1 or len(found[0]) < 3 or found[0][0] != 2 for found in shapes):
            return None
        return Layout.find([(size, found[0]) for size, found in zip(self.sizes, shapes, strict=True)])

    def distance(self, function: Callable[[Tensor], Tensor], most: int | None = None) -> float:
        """The largest difference of `function`, from standardised images, to the module's embeddings on unit vectors.

        `most` is the number of probes to compare.
        """
        with torch.no_grad():
            return max(distance_of(unit(function(self.standardise(x))), own) for x, own in self.probes[:most])


@dataclass(frozen=True)
class Parts:
    """A module in two parts, with the activations of the first probe between them.

    `middle` are layers between the cut and the last grid, which `rest` reads.
    """

    trunk: nn.Module
    rest: nn.Module
    layer: str
    activations: Activations
    middle: nn.Module | None = None

    @property
    def grid(self) -> Activations:
        """What `rest` reads."""
        found: Activations = self.activations if self.middle is None else self.middle(self.activations)
        return found


def cut_module(
    whole: Whole, layer: str | None = None, features: str | None = None, embedding: Embedding = "own"
) -> Cut:
    """Cut a module at `layer`, or at its last grid or tokens, which `features` may name.

    With embedding "pooled" the last grid or tokens are pooled, whatever the module computes of them.

    Raises:
        UserError: if there is no such layer, or the embedding does not depend on it alone.
    """
    parts = trace(whole, layer, features)
    if embedding == "pooled":
        return pool_last(whole, parts, layer)
    if parts is None:
        parts = split_last(whole) if layer is None else split_at(whole, layer)
    with torch.no_grad():
        grid = parts.grid
    rest = _without_l2(parts.rest, grid)
    carries = isinstance(parts.trunk, Before) and _width(parts) < grid.shape[1]
    found = None if carries else factor(rest, grid, whole.module)
    trunk, tail = nn.Sequential(whole.standardise, parts.trunk), parts.middle
    if found is None:
        tail = ToPoint(rest) if tail is None else nn.Sequential(tail, ToPoint(rest))
    pooling, projection = found or (GAP(), None)
    behind = tuple(_behind(whole, parts.layer))
    size = size_of(parts.activations)
    return Cut(trunk, tail, pooling, projection, parts.layer, "own", size, behind, whole.probes)


def pool_last(whole: Whole, parts: Parts | None, layer: str | None) -> Cut:
    """The last grid or tokens for any pooling; `parts` are those of torch.fx, None without."""
    if parts is not None:
        trunk = nn.Sequential(whole.standardise, parts.trunk)
        return Cut(trunk, parts.middle, GAP(), None, parts.layer, NAMED["pooled"])
    name = next(iter(last_layers(whole)), None)
    if name is None or layer is not None:
        raise UserError(
            f"{whole.name} has no grid that can be pooled behind '{layer or 'any layer'}': leave the layer and "
            "embedding as they are by default"
        )
    layout = whole.layout(name)
    assert layout is not None
    before = Before(whole.module, Place(name, layout.dropping), Seen(), whole.read)
    return Cut(nn.Sequential(whole.standardise, before), None, GAP(), None, name, NAMED["pooled"])


def trace(whole: Whole, layer: str | None, features: str | None = None) -> Parts | None:
    """The parts by torch.fx; None where it cannot trace the module, or there is no grid with channels first."""
    try:
        graph = Graph(whole.module, [whole.standardise(images) for images in whole.images])
    except UserError:
        return None
    end = graph.last(features, positions=True)
    start = end if layer is None else graph.last(layer)
    if start is None or end is None or graph.order[end] < graph.order[start]:
        return None
    if any(layout is None or layout.kind != "first" for layout in map(graph.layout, {start, end})):
        return None
    try:
        trunk, middle, rest = graph.part(None, start), graph.part(start, end), graph.part(end, None)
    except UserError:
        if layer is not None:
            raise
        return None
    read = Read(rest, whole.read)
    if not whole.distance(lambda images: read(middle(trunk(images))), 1) <= TOLERANCE:
        return None
    with torch.no_grad():
        activations = trunk(whole.standardise(whole.images[0]))
    name = graph.paths.get(start) or start.name
    return Parts(trunk, read, name, activations, None if start is end else middle)


def _behind(whole: Whole, layer: str) -> Iterator[str]:
    """Modules with weights of their own that run after the layer."""
    names = whole.names
    for name in names[names.index(layer) + 1 :] if layer in names else ():
        module = whole.module.get_submodule(name)
        if any(True for _ in module.parameters(recurse=False)) and not layer.startswith(name):
            yield name


def split_at(whole: Whole, layer: str) -> Parts:
    """Split a module at a layer that the user chose."""
    known = dict(whole.module.named_modules())
    if layer not in known or layer not in whole.names:
        tops = ", ".join(name for name in whole.names if name and "." not in name)
        raise UserError(f"{whole.name} runs no layer '{layer}'; its top layers: {tops}")
    (shape, *more), *_ = whole.shapes(layer)
    if more:
        raise UserError(f"the layer '{layer}' of {whole.name} runs several times: choose one that runs once")
    layout = whole.layout(layer)
    if layout is None:
        raise UserError(
            f"the layer '{layer}' of {whole.name} returns {tuple(shape) or 'several tensors'}, which is "
            "no grid and no tokens: choose an earlier layer, or none for the last one"
        )
    parts, distance = try_place(whole, Place(layer, layout))
    if parts is None:
        raise UserError(
            f"{whole.name} cannot be cut at '{layer}': its embedding also depends on paths around this layer (it "
            f"differs by {distance:.2g} on unit vectors): choose a layer through which all paths lead"
        )
    if not _keeps_order(whole, parts):
        raise UserError(
            f"{whole.name} cannot be cut at '{layer}': its positions are not in the order of the image (the change of "
            "a part of the image changes others more): choose an earlier layer"
        )
    return parts


def split_last(whole: Whole) -> Parts:
    """Split a module at the last grid or tokens on which its embedding depends alone."""
    fallback, count = None, 0
    tried: list[str] = []
    for name in last_layers(whole):
        if name.startswith(tuple(tried)):  # what a layer around it does not carry, this one does not carry either
            continue
        if count == MOST_TRIED:
            break
        count += 1
        layout = whole.layout(name)
        assert layout is not None
        found, _ = try_place(whole, Place(name, layout))
        if found is None:
            tried.append(f"{name}.")
        if found is None or not _reads_positions(found) or not _keeps_order(whole, found):
            continue
        if not _is_scale_free(found):
            return found
        norm = next(iter(_norms_after(whole, name)), None)
        normed = None if norm is None else try_place(whole, Place(name, layout, norm))[0]
        if normed is not None and _reads_positions(normed):
            return normed
        fallback = fallback or found
    if fallback is None:
        raise UserError(
            f"{whole.name} cannot be cut: no layer with a grid or tokens carries all of its embedding; name one as "
            "layer=, or assemble the model with sfam_bench.models.build"
        )
    return fallback


def last_layers(whole: Whole) -> list[str]:
    """Layers with a grid or tokens, the last one first, without those inside of pooling layers."""
    pools = [name for name, child in whole.module.named_modules() if "Pool" in type(child).__name__ and name]
    inside = tuple(f"{name}." for name in pools)
    names = [name for name in whole.names if name and not name.startswith(inside)]
    plain = {name for name, child in whole.module.named_modules() if type(child).__name__ in UNCHANGED}
    return [name for name in reversed(names) if name not in plain and whole.layout(name) is not None]


def _norms_after(whole: Whole, layer: str) -> Iterator[str]:
    """Norms that run after a layer and before its tokens are replaced, with as many of them."""
    names = whole.names
    width = whole.shapes(layer)[0][0][-1]
    for name in names[names.index(layer) + 1 :]:
        shape = whole.shapes(name)[0][-1]
        if "norm" in type(whole.module.get_submodule(name)).__name__.lower() and len(shape) == 3 and shape[-1] == width:
            yield name


def try_place(whole: Whole, place: Place) -> tuple[Parts | None, float]:
    """The module in two parts at a place, or None where they are not the whole; and their distance from it."""
    seen = Seen()
    before, behind = Before(whole.module, place, seen, whole.read), Behind(whole.module, place, seen, whole.read)

    def run(images: Tensor) -> Tensor:
        activations = before(images)
        number = next(i for i, probe in enumerate(whole.images) if probe.shape == images.shape)
        seen.earlier[tuple(activations.shape)] = outermost(whole.calls[number], place.layer)
        return behind(activations)

    try:
        distance = whole.distance(run, 1)
        if distance <= TOLERANCE:
            distance = whole.distance(run)
    except (*FAILURES, LookupError, UserError):  # on values of another place
        return None, float("inf")
    if not distance <= TOLERANCE:
        return None, distance
    with torch.no_grad():
        activations = before(whole.standardise(whole.images[0]))
    parts = Parts(before, behind, place.layer, activations)
    if place.norm is None and place.layout.carried and place.layout.prefix:
        derivative = _derivative(parts).abs()
        width = activations.shape[1] // (1 + place.layout.prefix)
        if derivative[:, width:].max() <= UNUSED * derivative.max():
            alone, _ = try_place(whole, Place(place.layer, place.layout.dropping))
            return alone or parts, distance
    return parts, distance


def _derivative(parts: Parts) -> Tensor:
    """The derivative of a random linear form of the embedding before L2 by the activations."""
    with torch.enable_grad(), WithoutL2():
        leaf = parts.activations.detach().clone().requires_grad_()
        embeddings = parts.rest(leaf)
        weights = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0))
        (found,) = torch.autograd.grad((embeddings * weights.to(embeddings)).sum(), leaf, allow_unused=True)
    return torch.zeros_like(leaf) if found is None else found


def _reads_positions(parts: Parts) -> bool:
    """Whether the embedding depends on the positions, not on prefix tokens alone."""
    derivative = _derivative(parts).abs()
    return bool(derivative[:, : _width(parts)].max() > UNUSED * derivative.max())


def _is_scale_free(parts: Parts) -> bool:
    """Whether a norm behind the layer makes the shares of each position, A * dA over channels, sum to zero."""
    shares = (parts.activations * _derivative(parts))[:, : _width(parts)]
    return bool(shares.sum(dim=1).abs().sum() < SCALE_FREE * shares.abs().sum())


def _keeps_order(whole: Whole, parts: Parts) -> bool:
    """Whether the change of an image in one place changes the activations most near that place."""
    images = whole.images[0][:1]
    (height, width), (rows, cols) = size_of(images), size_of(parts.activations)
    places = [(row, col) for row in (rows // 4, 3 * rows // 4) for col in (cols // 4, 3 * cols // 4)]
    changed = images.repeat(len(places), 1, 1, 1)
    for image, (row, col) in zip(changed, places, strict=True):
        cell = image[
            :,
            row * height // rows : max((row + 1) * height // rows, row * height // rows + 1),
            col * width // cols : max((col + 1) * width // cols, col * width // cols + 1),
        ]
        cell.copy_(1 - cell.round())
    with torch.no_grad():
        moved = parts.trunk(whole.standardise(changed)) - parts.trunk(whole.standardise(images))
    peaks = moved[:, : _width(parts)].abs().sum(dim=1).flatten(1).argmax(dim=1).tolist()
    return all(
        abs(peak // cols - row) <= max(1, rows // 4) and abs(peak % cols - col) <= max(1, cols // 4)
        for peak, (row, col) in zip(peaks, places, strict=True)
    )


def _width(parts: Parts) -> int:
    """The number of channels of the positions, without those of carried tokens."""
    channels = parts.activations.shape[1]
    if not isinstance(parts.trunk, Before):
        return channels
    place = parts.trunk.place
    carried = place.layout.prefix * (place.layout.carried + (place.norm is not None))
    return channels // (1 + carried)


class Read(nn.Module):
    """The embedding in the output of a part of a network."""

    def __init__(self, rest: nn.Module, read: Reader) -> None:
        super().__init__()
        self.rest = rest
        self.read = read

    def forward(self, activations: Activations) -> Embeddings:
        return self.read(self.rest(activations))


class ToPoint(nn.Module):
    """The embedding of a part of a network as a grid of one position, which a mean leaves as it is."""

    def __init__(self, rest: nn.Module) -> None:
        super().__init__()
        self.rest = rest

    def forward(self, activations: Activations) -> Tensor:
        embeddings: Tensor = self.rest(activations)
        return embeddings[:, :, None, None]


class Unnormalised(nn.Module):
    """A part of a network without the L2 at its end, which the embedder applies."""

    def __init__(self, rest: nn.Module) -> None:
        super().__init__()
        self.rest = rest

    def forward(self, activations: Activations) -> Embeddings:
        with WithoutL2():
            embeddings: Embeddings = self.rest(activations)
        return embeddings


def _without_l2(rest: nn.Module, grid: Activations) -> nn.Module:
    """The part behind the cut, without an L2 at its end."""
    bare = Unnormalised(rest)
    with torch.no_grad():
        own, found = rest(grid), bare(grid)
    same = torch.allclose(unit(own), unit(found), atol=TOLERANCE / 10)
    return bare if same and not torch.equal(own, found) else rest


class FromPooled(nn.Module):
    """What a network computes of pooled features: its part behind the grid, on grids that are constant.

    Attributes:
        affine: whether it is affine, measured when the model is cut.
    """

    def __init__(self, rest: nn.Module, size: Size, scale: float) -> None:
        super().__init__()
        self.rest = rest
        self.size = size
        self.scale = scale
        self.affine = False

    def forward(self, pooled: Pooled) -> Embeddings:
        grid = (pooled * self.scale)[:, :, None, None].expand(-1, -1, *self.size)
        embeddings: Embeddings = self.rest(grid)
        return embeddings


def factor(rest: nn.Module, activations: Activations, module: nn.Module) -> tuple[nn.Module, nn.Module | None] | None:
    """The pooling and the projection that a part of a network consists of; None for other poolings.

    A part reads its grid through a pooling alone if it computes the same of a constant grid with the same pooled value;
    that is tried on random activations, with mean and spread of each channel as given, and with ten times the spread:
    in an untrained network an attention over similar tokens is nearly their mean.
    """
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(activations.shape, generator=draw).to(activations)
    mean = activations.mean(dim=(0, 2, 3), keepdim=True)
    spread = mean.abs() + activations.std(dim=(0, 2, 3), keepdim=True) + 1e-3 * activations.std()
    varied = torch.cat([mean + times * spread * noise for times in (1, 10)])
    size = size_of(activations)
    with torch.no_grad():
        expected = rest(varied)
        for pooling, scale in _poolings(module):
            try:
                pooled = pooling.to(activations.device)(varied)
                made = next(
                    projection
                    for side in ((1, 1), size)
                    if _agrees(projection := FromPooled(rest, side, scale), pooled, expected)
                )
            except StopIteration:
                continue
            if pooled.shape == expected.shape and torch.allclose(made(pooled), pooled, rtol=1e-5, atol=1e-6):
                return pooling, None
            made.affine = _is_affine(made, pooled)
            return pooling, made
    return None


def _poolings(module: nn.Module) -> Iterator[tuple[nn.Module, float]]:
    """Poolings to try, each with the value of a constant grid that it maps to one."""
    yield from ((GAP(), 1.0), (GMP(), 1.0), (GAPGMP(), 0.5))
    for child in module.modules():
        if "gem" in type(child).__name__.lower() and isinstance(getattr(child, "p", None), float | int | Tensor):
            found = GeM(float(torch.as_tensor(child.p).flatten()[0]), float(getattr(child, "eps", 1e-6)))
            yield found, 1.0


def _agrees(projection: nn.Module, pooled: Pooled, expected: Embeddings) -> bool:
    try:
        found = projection(pooled)
    except (*FAILURES, LookupError, UserError):  # a part that reads grids of one size alone
        return False
    return found.shape == expected.shape and torch.allclose(
        found, expected, rtol=1e-3, atol=1e-4 * float(expected.std())
    )


def _is_affine(projection: nn.Module, pooled: Pooled) -> bool:
    """Whether the projection of the middle of two points is the middle of their projections, far apart too."""
    draw = torch.Generator().manual_seed(1)
    far = pooled + 10 * (pooled.std() + 1e-3) * torch.randn(pooled.shape, generator=draw).to(pooled)
    middle, ends = projection((pooled + far) / 2), (projection(pooled) + projection(far)) / 2
    return torch.allclose(middle, ends, rtol=1e-4, atol=1e-5 * float(ends.abs().max()))
