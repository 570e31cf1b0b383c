"""Entries of a file that are not part of the model: known ones, or named by the user; others raise UserError."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.models.adapters.architecture import Backbone
from sfam_bench.models.networks import CLASSIFIER

# Never part of an embedding: losses, a queue of negatives, auxiliary classifiers, CLIP's text tower
NEVER = {
    *("criterion", "loss", "queue", "queue_ptr", "aux1", "aux2", "AuxLogits"),
    *("text_projection", "logit_scale", "token_embedding", "ln_final"),
}
TEXT = {"positional_embedding", "transformer"}
CLASSIFIERS = {name.removesuffix(".") for name in CLASSIFIER} - NEVER | {"head_dist"}
# Numbers of outputs of classifiers: CIFAR-10, ImageNet-1k, and the variants of ImageNet-21k
CLASSES = (10, 1000, 11221, 11821, 21841, 21843)
MOST = 20  # modules in a message, at most


@dataclass(frozen=True)
class LeftOver:
    """Modules of a file that are not part of the model, each with its entries."""

    unused: Mapping[str, list[str]]  # known or declared not to be part of an embedding
    classifiers: Mapping[str, list[str]]  # of the network, with the number of classes of a known data set
    heads: Mapping[str, list[str]]  # a classifier or the head of the embedding
    strange: Mapping[str, list[str]]

    @classmethod
    def of(
        cls,
        state: Mapping[str, Tensor],
        body: Backbone,
        head: Collection[str],
        named: Collection[str],
        unused: Collection[str],
        headless: bool = False,
        any_size: bool = False,
    ) -> "LeftOver":
        """Classify the entries that belong to neither the backbone nor `head`.

        `named` are possible names of a head and `unused` those of modules of no embedding in this code base;
        `headless`: there is no head; `any_size`: a classifier of any size may be the head.
        """
        taken = [*body.keys, *head]
        modules: dict[str, list[str]] = {}
        for key in sorted(state.keys() - set(taken)):
            if not key.endswith("num_batches_tracked"):
                modules.setdefault(module_of(key, body, taken), []).append(key)
        never = {*NEVER, *unused, *(TEXT if body.prefix.endswith("visual.") else ())}
        sorts: dict[str, dict[str, list[str]]] = {"unused": {}, "classifiers": {}, "heads": {}, "strange": {}}
        for module, keys in modules.items():
            name = short(module, body)
            own = not any_size and module == f"{body.prefix}{name}" and outputs(state, keys) in CLASSES
            if name in never or all(of_another(key, state, body) for key in keys):
                sort = "unused"
            elif name in CLASSIFIERS or name in named:
                sort = "unused" if headless else "classifiers" if own and name not in named else "heads"
            else:
                sort = "strange"
            sorts[sort][module] = keys
        return cls(**sorts)


def wrappers(prefix: str) -> list[str]:
    """A prefix and its parents, longest first: "a.b." gives "a.b.", "a." and ""."""
    parts = prefix.split(".")[:-1]
    return ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts), -1, -1)]


def module_of(key: str, body: Backbone, taken: Iterable[str]) -> str:
    """The outermost module of an entry that contains no entry of the model."""
    start = next(start for start in wrappers(body.prefix) if key.startswith(start))
    parts = key.removeprefix(start).split(".")
    for count in range(1, len(parts)):
        module = start + ".".join(parts[:count])
        if not any(other.startswith(f"{module}.") for other in taken):
            return module
    return key


def short(module: str, body: Backbone) -> str:
    """The name of a module without the backbone's prefix, as for model.head."""
    return module.removeprefix(next(start for start in wrappers(body.prefix) if module.startswith(start)))


def of_another(key: str, state: Mapping[str, Tensor], body: Backbone) -> bool:
    """Whether an entry belongs to another network in the file than the user's choice."""
    ours = body.prefix.split(".")[:-1]
    for other in body.others:
        parts = other.split(".")[:-1]
        common = next((n for n, pair in enumerate(zip(ours, parts, strict=False)) if pair[0] != pair[1]), len(ours))
        if len(parts) > common:
            if key.startswith("".join(f"{part}." for part in parts[: common + 1])):
                return True
        elif key.startswith(other) and f"{body.prefix}{key.removeprefix(other)}" in state:
            return True
    return False


def outputs(state: Mapping[str, Tensor], keys: Iterable[str]) -> int | None:
    """The number of outputs of the last layer among these entries."""
    sizes = [len(state[key]) for key in keys if key.endswith("weight") and state[key].ndim in (2, 4)]
    return sizes[-1] if sizes else None


def without(state: dict[str, Tensor], patterns: Sequence[str], path: Path) -> dict[str, Tensor]:
    """The entries that match no pattern; patterns match entries, or modules with all their entries."""
    for pattern in patterns:
        if not any(_matches(key, pattern) for key in state):
            tops = sorted({key.partition(".")[0] for key in state})[:MOST]
            raise UserError(f"model.ignore names '{pattern}', which is not in {path}; it contains {', '.join(tops)}")
    return {key: value for key, value in state.items() if not any(_matches(key, pattern) for pattern in patterns)}


def _matches(key: str, pattern: str) -> bool:
    return fnmatchcase(key, pattern) or fnmatchcase(key, f"{pattern}.*")


def ask(path: Path, left: LeftOver, body: Backbone, head: str | None, fitting: Collection[str]) -> None:
    """Raise UserError where an unused module may be part of the embedding, with the settings that decide it.

    `head` is the module of the head, `fitting` are other modules that could be the head.
    """
    rest = [*left.heads, *left.strange]
    if not rest:
        return
    options = []
    for module in fitting:
        others = [other for other in (*rest, *([head] if head else [])) if other != module]
        name = short(module, body)
        options.append(" ".join([f"model.head={name}", *_format_ignored(others)]) + f" (the head is {module})")
    away = _format_ignored([*left.strange, *(left.heads if head else [])])
    none = ["model.head=none"] if left.heads and not head else []
    options.append(" ".join([*none, *away]) + f" ({'the head is ' + head if head else 'there is no head'})")
    if left.heads:
        what = f"{', '.join(left.heads)}, which may be a classifier or the head of the embedding"
        what = f"contains {what}" + (f", and {', '.join(list(left.strange)[:MOST])}" if left.strange else "")
    else:
        count = sum(map(len, left.strange.values()))
        first = ", ".join([key for keys in left.strange.values() for key in keys][:3])
        what = f"has {count} entries that do not belong to {body.name} (first: {first})"
    raise UserError(f"{path} {what}: give {', or '.join(options)}")


def _format_ignored(modules: Sequence[str]) -> list[str]:
    return [f"'model.ignore=[{','.join(modules)}]'"] if modules else []
