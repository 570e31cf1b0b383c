"""Split a module by its torch.fx graph."""

from typing import Any

import torch
from timm.models._features_fx import get_notrace_modules
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import NodePathTracer

from sfam_bench.core.errors import UserError
from sfam_bench.engine.modes import evaluating
from sfam_bench.models.layouts import Layout, Size

POWERS = ("pow", "square")
ROOTS = ("pow", "sqrt")
CLAMPS = ("clamp", "clamp_", "clamp_min", "clamp_min_", "clip")


class Graph:
    """The graph of a module in eval mode, with the shapes of its nodes' outputs for images of some sizes.

    Raises:
        UserError: if torch.fx cannot trace the module.
    """

    def __init__(self, module: nn.Module, images: list[Tensor]) -> None:
        self.module = module
        tracer = NodePathTracer(leaf_modules=list(get_notrace_modules()))
        try:
            with evaluating(module):  # so that functional dropout and stochastic depth are traced as at test time
                self.graph = tracer.trace(module)
                traced = fx.GraphModule(module, self.graph)
                self.shapes = [_record_shapes(traced, batch) for batch in images]
        except Exception as error:
            raise UserError(f"torch.fx cannot trace {type(module).__name__} ({error})") from error
        self.paths = tracer.node_to_qualname
        self.sizes: list[Size] = [(batch.shape[-2], batch.shape[-1]) for batch in images]
        self.order = {node: position for position, node in enumerate(self.graph.nodes)}

    def layout(self, node: fx.Node) -> Layout | None:
        """The layout of a node's output, None where it has no positions."""
        shapes = [shapes.get(node) for shapes in self.shapes]
        if any(shape is None or len(shape) < 3 for shape in shapes) or node.op == "placeholder":
            return None
        return Layout.find([(size, shape) for size, shape in zip(self.sizes, shapes, strict=True) if shape is not None])

    def last(self, layer: str | None = None, positions: bool = False) -> fx.Node | None:
        """The last node within a layer (None: of all), of those with positions if `positions`.

        A generalised mean is read from the activations, not from the powers that it takes of them.
        """
        nodes = [node for node in self.graph.nodes if node.op != "output" and _within(self.paths.get(node), layer)]
        if positions:
            nodes = [node for node in nodes if self.layout(node) is not None]
        last = max(nodes, key=self.order.__getitem__, default=None)
        if not positions or last is None or not _is_mean_of_powers(last):
            return last
        base = last.all_input_nodes[0]
        while _name(base) in CLAMPS:
            base = base.all_input_nodes[0]
        return last if self.layout(base) is None else base

    def part(self, start: fx.Node | None, end: fx.Node | None) -> nn.Module:
        """The nodes from `start` (None: the images) to `end` (None: the output), as a module.

        Raises:
            UserError: if the part also reads nodes before `start`.
        """
        if start is end and start is not None:
            return nn.Identity()
        piece = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        if start is not None:
            copies[start] = piece.placeholder("activations")

        def copy(node: fx.Node) -> fx.Node:
            if node not in copies:
                if start is not None and node.op == "placeholder" and not node.args:
                    where = self.paths.get(start) or start.name
                    raise UserError(
                        f"{type(self.module).__name__} cannot be cut at '{where}': its embedding also depends on "
                        "earlier outputs; choose a layer through which all paths lead"
                    )
                for argument in node.all_input_nodes:
                    copy(argument)
                copies[node] = piece.node_copy(node, copies.__getitem__)
            return copies[node]

        output = end if end is not None else next(n for n in self.graph.nodes if n.op == "output").args[0]
        piece.output(fx.map_arg(output, copy))
        return fx.GraphModule(self.module, piece)


def _record_shapes(traced: fx.GraphModule, images: Tensor) -> dict[fx.Node, torch.Size]:
    """The shape of each node's output."""
    shapes: dict[fx.Node, torch.Size] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                shapes[n] = value.shape
            return value

    with torch.no_grad():
        Recorder(traced).run(images)
    return shapes


def _within(path: str | None, layer: str | None) -> bool:
    return layer is None or (path is not None and (path == layer or path.startswith(f"{layer}.")))


def _is_mean_of_powers(node: fx.Node) -> bool:
    """Whether a node is a power, and a root follows before anything else reads what is computed of it."""
    found = _name(node) in POWERS
    while found and len(node.users) == 1:
        (node,) = node.users
        if _name(node) in ROOTS:
            return True
    return False


def _name(node: fx.Node) -> str:
    """The name of the function or method that a node calls; empty for other nodes."""
    if node.op == "call_method":
        return str(node.target)
    return getattr(node.target, "__name__", "") if node.op == "call_function" else ""
