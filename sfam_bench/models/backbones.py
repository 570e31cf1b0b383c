"""Networks by name, cut into a trunk and an embedder."""

import logging
from typing import Any

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.protocol import RANDOM
from sfam_bench.core.similarity import unit
from sfam_bench.models.checkpoint import check_kinds, strip_prefix
from sfam_bench.models.cuts import TOLERANCE, Cut, distance_of, enlarged, make_probes, verify
from sfam_bench.models.cutting import NAMED, Embedding, cut_module
from sfam_bench.models.layouts import Layout, size_of
from sfam_bench.models.networks import CLASSIFIER, OURS, Options, Standardise, network, translate_keys
from sfam_bench.models.poolings import GAP
from sfam_bench.models.tokens import Token, cut_tokens
from sfam_bench.models.whole import Whole

log = logging.getLogger(__name__)

MOST_PROBED = 224  # px of the images with which a transformer's cut is compared
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # classifiers that are not used at test time


def trunk_and_tail(
    source: str,
    name: str,
    layer: str | None = None,
    features: str | None = None,
    state: dict[str, Tensor] | None = None,
    standardise: Standardise | None = None,
    token: Token | None = None,
    pretrained: bool = False,
    embedding: Embedding = "own",
    options: Options | None = None,
) -> Cut:
    """Build `name` from `source` (timm, torchvision or sfam_bench), load `state`, and cut it.

    `layer` is the cut, `features` the last layer before pooling; without them the cut is at the last grid, or at the
    last tokens on which the embedding depends. Weights are random unless `pretrained` or `state` is given; `state` has
    priority: its entries of a classifier are ignored, and missing or mismatching entries raise UserError.
    `standardise` replaces the source's own mean and standard deviation.

    `embedding` is the network's own (what it computes before its classifier), the last grid for any pooling ("pooled",
    which `features` implies), or the class token of a vision transformer ("class"). `token` is its older name: "patch"
    means pooled, "class" means class. `options` are those of timm's or torchvision's function that builds the network.

    Raises:
        UserError: if the parts do not compute the network's own embedding, unless another one was chosen.
    """
    if token is not None:
        embedding = "pooled" if token == "patch" else "class"
    elif features is not None:
        embedding = "pooled"
    model, own = network(source, name, pretrained and state is None, embedding, options)
    if state is not None:
        unused = () if source != "torchvision" else CLASSIFIER if embedding == "pooled" else AUXILIARY
        load_backbone(model, translate_keys(model, strip_prefix(model, state, name)), name, unused)
    model.eval()
    pixels = standardise or own
    if isinstance(model, VisionTransformer) and (embedding != "own" or _reads_class_token(model)):
        return _cut_transformer(model, name, layer, pixels, embedding)
    if embedding == "class":
        raise UserError(f"{name} has no class token that can be cut: use timm's VisionTransformer (vit_*, deit*)")
    if layer is None and features is None and (found := _pooled_grid(model, pixels)) is not None:
        return found
    read = GAP() if source == OURS else None
    with enlarged(model) as changed:
        whole = Whole(model, _size(model), pixels, read, name)
        found = cut_module(whole, layer, features, embedding)
    if embedding == "pooled":
        return found
    return verify(found, make_probes(model, _size(model), pixels, whole.read) if changed else whole.probes, name)


def _size(model: nn.Module) -> tuple[int, int]:
    """Rows and cols of the images that a network was made for."""
    _, rows, cols = getattr(model, "pretrained_cfg", {}).get("input_size", (3, 224, 224))
    return rows, cols


def _fewer_tokens(model: VisionTransformer) -> tuple[int, int]:
    """Rows and cols of its images, or about `MOST_PROBED` px where it reads any size: it is as exact there."""
    size = _size(model)
    if not model.dynamic_img_size or max(size) <= MOST_PROBED:
        return size
    rows, cols = (MOST_PROBED // patch * patch for patch in model.patch_embed.patch_size)
    return rows, cols


def _reads_class_token(model: VisionTransformer) -> bool:
    """Whether the embedding is the class token after the last norm, of blocks that can be cut at their attention."""
    plain = type(model) is VisionTransformer and model.global_pool == "token" and isinstance(model.fc_norm, nn.Identity)
    return plain and len(model.blocks) > 1 and type(model.blocks[-1]) is Block


def _cut_transformer(
    model: VisionTransformer, name: str, layer: str | None, pixels: nn.Module, embedding: Embedding
) -> Cut:
    """A vision transformer of timm, cut at its tokens."""
    if embedding == "class" and _reads_class_token(model):
        embedding = "own"
    probes = make_probes(model, _fewer_tokens(model), pixels) if embedding == "own" else ()
    trunk, tail = cut_tokens(model, name, layer, "patch" if embedding == "pooled" else "class")
    where = layer or ("norm" if embedding == "pooled" else "the last attention")
    return verify(Cut(nn.Sequential(pixels, trunk), tail, GAP(), None, where, NAMED[embedding]), probes, name)


def _pooled_grid(model: Any, pixels: nn.Module) -> Cut | None:
    """A network whose own embedding is the mean of the grid that it returns without pooling; None for all others.

    The trunk is then the network itself, and not its graph.
    """
    bare = not hasattr(model, "forward_features")  # of this project
    if bare != (type(model).__module__.startswith("sfam_bench.")) or (
        not bare and not hasattr(model, "reset_classifier")
    ):
        return None
    probes = make_probes(model, _size(model), pixels, GAP() if bare else None)
    with torch.no_grad():
        grids = [(model if bare else model.forward_features)(pixels(images)) for images, _ in probes]
    if any(not isinstance(grid, Tensor) or grid.ndim != 4 for grid in grids):
        return None
    layout = Layout.find([(size_of(probe.images), grid.shape) for probe, grid in zip(probes, grids, strict=True)])
    if layout is None or layout.kind != "first":
        return None
    made = Cut(nn.Sequential(pixels, model), None, GAP(), None, "last grid", probes=probes)
    if bare:
        return made
    if any(distance_of(unit(GAP()(grid)), own) > TOLERANCE for grid, (_, own) in zip(grids, probes, strict=True)):
        return None
    model.reset_classifier(0, "")
    try:
        return verify(made, probes, type(model).__name__)
    except (UserError, RuntimeError):  # a network that keeps its pooling
        model.reset_classifier(0)
        return None


def mark_weights(cut: Cut, weights: str | None, **known: Any) -> Cut:
    """The cut; its trunk's `origin` says where the weights are from (None: they are random), and what else is known."""
    trunk, _ = cut
    trunk.origin = {"weights": weights or RANDOM, "random": [] if weights else ["trunk"], **known}
    return cut


def misfits(model: nn.Module, state: dict[str, Tensor], unused: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """Entries of a backbone that are missing in a state dict, and those of another shape, except `unused` ones."""
    own = {key: value for key, value in model.state_dict().items() if not key.startswith(unused)}
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    return missing, [key for key in own if key in state and own[key].shape != state[key].shape]


def load_backbone(model: nn.Module, state: dict[str, Tensor], name: str, unused: tuple[str, ...] = ()) -> None:
    """Load weights into a backbone, without its classifier, whose keys begin with `unused`."""
    own = [key for key in model.state_dict() if not key.startswith(unused)]
    missing, differing = misfits(model, state, unused)
    if missing or differing:
        raise UserError(
            f"the weights do not fit {name}: {len(missing)} of {len(own)} entries missing, {len(differing)} of another "
            f"shape (first: {(missing + differing)[0]}); give the weights of this architecture"
        )
    whole = model.state_dict()  # with the versions of its modules, which MNASNet needs
    fitting = {key: state[key] for key in own if key in state}
    check_kinds(model, fitting, f"the weights of {name}")
    whole.update(fitting)
    model.load_state_dict(whole)
    if extra := sorted({key.partition(".")[0] for key in state.keys() - fitting.keys()}):
        log.warning("%s: entries of the weights that the network does not use are ignored: %s", name, ", ".join(extra))
