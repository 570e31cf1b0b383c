"""Any timm or torchvision model by name, cut at a named layer into a trunk and the tail behind the cut."""

from difflib import get_close_matches
from typing import Any, TypeAlias, cast

import timm
import torch
import torchvision
from timm.models._features_fx import get_notrace_modules
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import NodePathTracer

from sfam_bench.errors import UserError
from sfam_bench.models.tokens import PatchTokens, Token, cut_tokens

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PROBE = (1, 3, 224, 224)
VISION_TRANSFORMERS = ("timm.models.vision_transformer", "timm.models.deit")

Cut: TypeAlias = tuple[nn.Module, nn.Module | None]  # trunk, and the layers between the cut and pooling


class Standardise(nn.Module):
    """Map [0, 1] pixels to what the network was trained on, so that the rest of the benchmark sees plain images."""

    def __init__(self, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def _known(name: str, source: str, names: list[str]) -> None:
    if name not in names:
        near = ", ".join(get_close_matches(name, names, 5)) or f"none; see {source}'s list_models()"
        raise UserError(f"{source} has no model '{name}'; near it: {near}")


def _timm(name: str) -> tuple[nn.Module, Standardise]:
    _known(name, "timm", [*timm.list_models(), *timm.list_models(pretrained=True)])
    options: dict[str, Any] = {"dynamic_img_size": True} if _builds_vision_transformer(name) else {}
    if "distilled" not in name:  # there timm insists on its own pooling, which is not used
        options["global_pool"] = ""
    model = timm.create_model(name, num_classes=0, **options)
    trained_on = cast(Any, model).pretrained_cfg
    return model, Standardise(tuple(trained_on["mean"]), tuple(trained_on["std"]))


def _builds_vision_transformer(name: str) -> bool:
    """Whether timm makes a VisionTransformer of this name, whose position embeddings fit any size if asked to."""
    return timm.models.model_entrypoint(name.split(".")[0]).__module__ in VISION_TRANSFORMERS


def _torchvision(name: str) -> tuple[nn.Module, Standardise]:
    _known(name, "torchvision", torchvision.models.list_models(module=torchvision.models))
    return torchvision.models.get_model(name, weights=None), Standardise()


SOURCES = {"timm": _timm, "torchvision": _torchvision}


def trunk_and_tail(
    source: str,
    name: str,
    layer: str | None = None,
    features: str | None = None,
    state: dict[str, Tensor] | None = None,
    standardise: Standardise | None = None,
    token: Token = "patch",
) -> Cut:
    """Build `name` from `source` (timm or torchvision), load `state`, and cut it.

    `layer` is the cut, `features` the last layer before pooling; without them the cut is at the last feature map.
    A torchvision model with a convolutional classifier (squeezenet) must name `features`. Weights are random unless
    `state` is given: the classifier's entries in it are ignored, anything else that does not fit raises UserError.
    `standardise` replaces the source's own mean and standard deviation.

    A vision transformer of timm is cut among its tokens: `layer` is a block ("blocks.8"), and `token` says whether its
    patches are pooled, or its class token is the embedding, whose cut is at the last attention unless `layer` says.
    """
    if source not in SOURCES:
        raise UserError(f"unknown source of models '{source}': use timm or torchvision")
    model, own = SOURCES[source](name)
    if state is not None:
        load_backbone(model, state, name)
    model.eval()
    trunk: nn.Module
    tail: nn.Module | None
    if isinstance(model, VisionTransformer):
        trunk, tail = cut_tokens(model, name, layer, token)
    elif token == "class":
        raise UserError(f"{name} has no class token that can be cut: timm's VisionTransformer has (vit_*, deit*)")
    elif source == "timm" and layer is None:
        trunk, tail = _last_grid(model), None
    else:
        trunk, tail = cut(model, layer, features)
    return nn.Sequential(standardise or own, trunk), tail


def load_backbone(model: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Load weights into a backbone; only a classifier that the backbone does not have may be left over."""
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    differing = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or differing:
        raise UserError(
            f"the weights do not fit {name}: {len(missing)} of {len(own)} entries missing, {len(differing)} of another "
            f"shape (first: {(missing + differing)[0]}); give the weights of this architecture"
        )
    model.load_state_dict({key: value for key, value in state.items() if key in own}, strict=False)


def cut(model: nn.Module, layer: str | None, features: str | None = None) -> Cut:
    """Split a traceable model after `layer` (default: the last feature map) by torch.fx; returns (trunk, tail).

    The tail ends at `features` (default: the last node with more than one position) and is None when nothing is left.
    Its activation functions are not in place, since the caller keeps what enters it.
    """
    if isinstance(model, torchvision.models.VisionTransformer):
        raise UserError("torchvision's vision transformers cannot be cut: use timm's (source=timm, name=vit_*)")
    model.eval()  # functional dropout and stochastic depth are traced as they are at test time
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
            f"{type(model).__name__} has no grid of channels first at '{layer}': leave model.trunk.layer null, or take "
            "a convolutional network or timm's VisionTransformer (vit_*, deit*)"
        )
    trunk = fx.GraphModule(model, _subgraph(graph, None, start))
    if start is end:
        return trunk, None
    tail = fx.GraphModule(model, _subgraph(graph, start, end))
    for module in tail.modules():
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010 (nn.Module types its attributes as tensors)
    return trunk, tail


class _Shapes(fx.Interpreter):
    """Run the graph once and note the shape of each node's output."""

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
        """Nodes with more than one position, perhaps with channels last."""
        return [node for node, shape in self.shapes.items() if len(shape) == 4 and shape[-1] > 1]

    def is_grid(self, node: fx.Node) -> bool:
        """Whether the probe, which is square, still is, so that channels come first."""
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
                raise UserError(f"'{start.name}' is no clean cut: later layers also read what came before it")
            for argument in node.all_input_nodes:
                copy(argument)
            copies[node] = piece.node_copy(node, copies.__getitem__)
        return copies[node]

    piece.output(copy(end))
    return piece


def _last_grid(model: nn.Module) -> nn.Module:
    """The model itself where it returns (batch, channels, rows, cols), else a wrapper that lays its tokens out so."""
    with torch.no_grad():
        output = model(torch.zeros(1, *cast(Any, model).pretrained_cfg["input_size"]))
    if output.ndim == 4 and getattr(model, "output_fmt", "NCHW") == "NCHW":
        return model
    return PatchTokens(model)
