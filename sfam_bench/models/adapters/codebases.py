"""How each code base saves its models, and what its files omit: pooling, L2, standardisation, choice of the epoch."""

import logging
import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from sfam_bench.core.errors import UserError
from sfam_bench.models.checkpoint import WRAPPERS, read, read_state, states_in
from sfam_bench.models.networks import Standardise
from sfam_bench.models.poolings import GAP, GAPGMP

CodeBase: TypeAlias = Literal[
    "pytorch-metric-learning", "proxy-anchor", "revisiting-dml", "open-metric-learning", "self-supervised", "plain"
]
METRIC_HEADS = ("embedder", "embedding", "projection")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointContent:
    """The content of a file, interpreted by its code base."""

    source: CodeBase
    state: dict[str, Tensor]
    heads: tuple[str, ...] = METRIC_HEADS  # names of modules that may be the head
    pooling: nn.Module = field(default_factory=GAP)
    normalise: bool = True
    standardise: Standardise | None = None  # None: of the backbone
    preferred: tuple[str, ...] = ()  # endings of the names of preferred backbones, where several match
    chosen: Literal["test", "validation", "unknown"] = "unknown"
    split: dict[str, Any] | None = None
    ignored: tuple[str, ...] = ()  # names of modules that are not part of the model
    between: tuple[str, ...] = ()  # layers without entries between two layers of its heads

    @property
    def origin(self) -> dict[str, Any]:
        """The known facts of its training, for SimilarityModel.origin."""
        known = {"source": self.source, "chosen": self.chosen}
        return known if self.split is None else {**known, "split": self.split}


def read_codebase(path: Path, source: CodeBase | None = None) -> CheckpointContent:
    """Read a file of a code base, which is recognised where it is not given."""
    content = read(path)
    state = merge_states(states_in(content, path))
    if any(key.startswith("trunk.1.") for key in state) or "trunk.layers.0.weight" in state:
        raise UserError(
            f"{path} is a checkpoint of this project: load it with model=NAME model.checkpoint={path}; "
            "the JSON beside it names the model"
        )
    found = READERS[source or recognise_codebase(path, content, state)](path, content, state)
    # in a file with the layout of open-metric-learning, fc may be the classifier of any Lightning module
    return found if source or found.source != "open-metric-learning" else replace(found, heads=("projection",))


def merge_states(states: Mapping[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """All state dicts of a file as one: that of the model without a prefix, any other with its name as prefix.

    Where several may be the model's, each has its name as prefix, so that model.prefix can choose.
    """
    models = [name for name in states if name.partition(".")[0] in ("", *WRAPPERS)]
    main = next(iter(states)) if len(states) == 1 else models[0] if len(models) == 1 else None
    return {
        (key if name == main else f"{name}.{key}"): value
        for name, state in states.items()
        for key, value in state.items()
    }


def recognise_codebase(path: Path, content: Any, state: Mapping[str, Tensor]) -> CodeBase:
    """The code base that wrote a file, recognised by features of its files."""
    if re.fullmatch(r"(trunk|embedder)(_.*)?", path.stem):
        return "pytorch-metric-learning"
    if isinstance(content.get("opt"), Namespace) and "progress" in content:
        return "revisiting-dml"
    if any(re.fullmatch(r"(module\.)?model\.embedding\.weight", key) for key in state):
        return "proxy-anchor"
    if {"encoder_q", "base_encoder", "teacher", "predictor"} & {part for key in state for part in key.split(".")[:2]}:
        return "self-supervised"
    own = ("model.model.", "model.extractor.", "model.visual.")
    lightning = "pytorch-lightning_version" in content and any(key.startswith(own) for key in state)
    wrapped = any(key.startswith(("extractor.", "model.extractor.")) for key in state)
    return "open-metric-learning" if lightning or wrapped or _zoo(path) else "plain"


def pytorch_metric_learning(path: Path, _: Any, state: dict[str, Tensor]) -> CheckpointContent:
    """Musgrave's trainers and hooks: trunk_SUFFIX.pth beside embedder_SUFFIX.pth, plain state dicts."""
    role, suffix = re.fullmatch(r"(trunk|embedder)?(.*)", path.name).groups()  # type: ignore[union-attr]
    if role is None:
        return CheckpointContent("pytorch-metric-learning", state)
    both = {name: path.with_name(f"{name}{suffix}") for name in ("trunk", "embedder")}
    trunk = state if role == "trunk" else read_state(both["trunk"])
    head = read_state(both["embedder"]) if role == "trunk" and both["embedder"].is_file() else {}
    head = head if role == "trunk" else state
    if not head:
        log.warning("%s: no weights of an embedder in %s: the model has no head", path, both["embedder"].name)
    return CheckpointContent(
        "pytorch-metric-learning", {**trunk, **{f"embedder.{key}": value for key, value in head.items()}}
    )


def proxy_anchor(_: Path, __: Any, state: dict[str, Tensor]) -> CheckpointContent:
    """Kim et al., CVPR 2020 (tjddus9597/Proxy-Anchor-CVPR2020), which keeps the best epoch on the test classes."""
    unused = ("fc", "last_linear", "classifier")  # of the ImageNet network
    return CheckpointContent("proxy-anchor", state, ("embedding",), GAPGMP(), chosen="test", ignored=unused)


def revisiting_dml(path: Path, content: Any, state: dict[str, Tensor]) -> CheckpointContent:
    """Roth et al., ICML 2020 (Confusezius/Revisiting_Deep_Metric_Learning_PyTorch), with settings in the file.

    The name of the file says on which data the epoch was chosen; without use_tv_split these are the test classes.
    """
    opt = content.get("opt")
    arch = str(getattr(opt, "arch", ""))
    inception = any(key.endswith("conv1_7x7_s2.weight") for key in state)
    pixels = None
    if inception:
        pixels = Standardise((0.502, 0.4588, 0.4078), (0.0039,) * 3, bgr=True)
    elif any(key.endswith("inception3a.branch1.conv.weight") for key in state):
        pixels = Standardise((0.5,) * 3, (0.5,) * 3)  # torchvision's transform_input, after ImageNet's mean and std
    on = re.search(r"checkpoint_(Test|Val|Train)_", path.name)
    chosen: dict[str, Literal["test", "validation", "unknown"]] = {"Val": "validation", "Train": "unknown"}
    return CheckpointContent(
        "revisiting-dml",
        state,
        ("last_linear",),
        GAPGMP() if inception and "double" in arch else GAP(),
        normalise="normalize" in arch if opt is not None else True,
        standardise=pixels,
        chosen=chosen.get(on[1], "test") if on else "test",
        ignored=("layer_blocks", "fc"),  # copies of the stages, and in GoogLeNet of the head
    )


def open_metric_learning(path: Path, _: Any, state: dict[str, Tensor]) -> CheckpointContent:
    """OML-Team/open-metric-learning: Lightning's checkpoints of an extractor, and its zoo's.

    The zoo's CUB and Cars models were trained on images of all classes: its converters split by image (CUB's
    train_test_split.txt), and its pipelines keep the best epoch on the other half, as for the rest of the zoo.
    """
    data = _zoo(path)
    classes = {"cub": 200, "cars": 196}.get(data or "")
    split = None
    if classes:
        names = {"dataset": "cub" if data == "cub" else "cars196", "name": "official images", "hash": "official images"}
        split = {**names, "train_classes": list(range(classes + 1))}  # numbered from 0 or from 1
    return CheckpointContent(
        "open-metric-learning",
        state,
        ("projection", "fc"),
        preferred=(".dino", ".openai"),
        chosen="test" if data else "unknown",
        split=split,
        ignored=("criterion",),
        between=("relu", "dropout"),  # torchvision.ops.MLP
    )


def self_supervised(_: Path, __: Any, state: dict[str, Tensor]) -> CheckpointContent:
    """Checkpoints of MoCo v1 to v3, SimSiam and DINO, whose projection behind the backbone is not evaluated."""
    unused = ("fc", "head", "predictor", "queue", "queue_ptr", "center", "dino_loss")
    return CheckpointContent("self-supervised", state, (), preferred=(".dino",), ignored=unused)


def plain(_: Path, __: Any, state: dict[str, Tensor]) -> CheckpointContent:
    """A plain state dict, of timm, torchvision or another source."""
    return CheckpointContent("plain", state)


def _zoo(path: Path) -> str | None:
    """The data set of a model of OML's zoo, by the name of its file."""
    found = re.match(r"vit[sbl]\d+_(?:224_mlp_384_)?(inshop|sop|cub|cars)(?![a-z])", path.stem)
    return found[1] if found else None


READERS = {
    "pytorch-metric-learning": pytorch_metric_learning,
    "proxy-anchor": proxy_anchor,
    "revisiting-dml": revisiting_dml,
    "open-metric-learning": open_metric_learning,
    "self-supervised": self_supervised,
    "plain": plain,
}
