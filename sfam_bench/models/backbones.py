"""Networks by name, cut at a named layer into a trunk and the tail behind the cut."""

import logging
from typing import Any, TypeAlias, cast

import torch
import torchvision
from timm.models._features_fx import get_notrace_modules
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import NodePathTracer

from sfam_bench.core.errors import UserError
from sfam_bench.core.protocol import RANDOM
from sfam_bench.models.checkpoint import check_kinds, strip_prefix
from sfam_bench.models.networks import CLASSIFIER, Standardise, network, translate_keys
from sfam_bench.models.tokens import PatchTokens, Token, cut_tokens

log = logging.getLogger(__name__)

PROBE = (1, 3, 224, 224)

Cut: TypeAlias = tuple[nn.Module, nn.Module | None]  # trunk, and the layers between the cut and pooling


def trunk_and_tail(
    source: str,
    name: str,
    layer: str | None = None,
    features: str | None = None,
    state: dict[str, Tensor] | None = None,
    standardise: Standardise | None = None,
    token: Token = "patch",
    pretrained: bool = False,
) -> Cut:
    """Build `name` from `source` (timm, torchvision or sfam_bench), load `state`, and cut it.

    `layer` is the cut, `features` the last layer before pooling; without them the cut is at the last feature map.
    A torchvision model with a convolutional classifier (squeezenet) needs `features`. Weights are random unless
    `pretrained` or `state` is given; `state` has priority: its entries of a classifier are ignored, and missing or
    mismatching entries raise UserError.
    `standardise` replaces the source's own mean and standard deviation.

    A vision transformer of timm is cut at its tokens: `layer` is a block ("blocks.8"), and `token` selects pooled
    patches or the class token, whose cut is at the last attention by default.
    """
    model, own = network(source, name, pretrained and state is None)
    if state is not None:
        state = translate_keys(model, strip_prefix(model, state, name))
        load_backbone(model, state, name, CLASSIFIER if source == "torchvision" else ())
    model.eval()
    trunk: nn.Module
    tail: nn.Module | None
    if isinstance(model, VisionTransformer):
        trunk, tail = cut_tokens(model, name, layer, token)
    elif token == "class":
        raise UserError(f"{name} has no class token that can be cut: use timm's VisionTransformer (vit_*, deit*)")
    elif source == "timm" and layer is None:
        trunk, tail = _last_grid(model), None
    else:
        trunk, tail = cut(model, layer, features)
    return nn.Sequential(standardise or own, trunk), tail


def mark_weights(cut: Cut, weights: str | None, **known: Any) -> Cut:
    """The cut; its trunk's `origin` says where the weights are from (None: they are random), and what else is known."""
    trunk, _ = cut
    trunk.origin = {"weights": weights or RANDOM, "random": [] if weights else ["trunk"], **known}  # type: ignore[assignment]
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


def cut(model: nn.Module, layer: str | None, features: str | None = None) -> Cut:
    """Split a traceable model after `layer` (default: the last feature map) by torch.fx; returns (trunk, tail).

    The tail ends at `features` (default: the last node with more than one position) and is None where it is empty.
    """
    if isinstance(model, torchvision.models.VisionTransformer):
        raise UserError("torchvision's vision transformers cannot be cut: use timm's (source=timm, name=vit_*)")
    model.eval()  # so that functional dropout and stochastic depth are traced as at test time
    tracer = NodePathTracer(leaf_modules=list(get_notrace_modules()))
    try:
        graph = tracer.trace(model)
    except Exception as error:
        raise UserError(
            f"{type(model).__name__} cannot be cut at '{layer}': torch.fx cannot trace it ({error})"
        ) from error
    traced = fx.GraphModule(model, graph)
    recorder = _Shapes(traced)
    with torch.no_grad():
        recorder.run(torch.zeros(PROBE))
    paths = tracer.node_to_qualname
    end = _last(graph, [node for node in recorder.grids if _within(paths.get(node), features)])
    start = end if layer is None else _last(graph, [n for n in graph.nodes if _within(paths.get(n), layer)])
    if start is None or end is None:
        known = sorted({path.split(".")[0] for path in paths.values()})
        raise UserError(
            f"{type(model).__name__} has no layer '{layer or features}'; its top layers: {', '.join(known)}"
        )
    if not recorder.is_grid(start):
        raise UserError(
            f"{type(model).__name__} has no grid with channels first at '{layer}': leave model.trunk.layer null, or "
            f"use a convolutional network or timm's VisionTransformer (vit_*, deit*)"
        )
    trunk = fx.GraphModule(model, _subgraph(graph, None, start))
    if start is end:
        return trunk, None
    return trunk, fx.GraphModule(model, _subgraph(graph, start, end))


class _Shapes(fx.Interpreter):
    """Runs the graph once and records the shape of each node's output."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op != "placeholder" and isinstance(value, Tensor):
            self.shapes[n] = value.shape
        return value

    @property
    def grids(self) -> list[fx.Node]:
        """Nodes with more than one position, with channels first or last."""
        return [node for node, shape in self.shapes.items() if len(shape) == 4 and shape[-1] > 1]

    def is_grid(self, node: fx.Node) -> bool:
        """Whether the output for the square probe is square, so that channels come first."""
        shape = self.shapes.get(node, ())
        return len(shape) == 4 and shape[2] == shape[3]


def _within(path: str | None, layer: str | None) -> bool:
    return path is not None and (layer is None or path == layer or path.startswith(layer + "."))


def _last(graph: fx.Graph, nodes: list[fx.Node]) -> fx.Node | None:
    order = {node: position for position, node in enumerate(graph.nodes)}
    return max(nodes, key=order.__getitem__, default=None)


def _subgraph(graph: fx.Graph, start: fx.Node | None, end: fx.Node) -> fx.Graph:
    """The nodes from `start` (None: the input) to `end`, as a graph of one input and one output."""
    piece = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    if start is not None:
        copies[start] = piece.placeholder("activations")

    def copy(node: fx.Node) -> fx.Node:
        if node not in copies:
            if start is not None and node.op == "placeholder":
                raise UserError(f"'{start.name}' is not a valid cut: later layers also read earlier outputs")
            for argument in node.all_input_nodes:
                copy(argument)
            copies[node] = piece.node_copy(node, copies.__getitem__)
        return copies[node]

    piece.output(copy(end))
    return piece


def _last_grid(model: nn.Module) -> nn.Module:
    """The model where it returns (batch, channels, rows, cols), else a wrapper that arranges its tokens so."""
    with torch.no_grad():
        output = model(torch.zeros(1, *cast(Any, model).pretrained_cfg["input_size"]))
    if output.ndim == 4 and getattr(model, "output_fmt", "NCHW") == "NCHW":
        return model
    return PatchTokens(model)
