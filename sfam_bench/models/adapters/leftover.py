"""What of a file is no part of the model: known to be none, or named by the user; anything else is asked for."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.models.adapters.architecture import Backbone
from sfam_bench.models.networks import CLASSIFIER

# Losses, a queue of negatives, classifiers beside the last one, CLIP's text tower: in no embedding
NEVER = {
    *("criterion", "loss", "queue", "queue_ptr", "aux1", "aux2", "AuxLogits"),
    *("text_projection", "logit_scale", "token_embedding", "ln_final"),
}
TEXT = {"positional_embedding", "transformer"}
CLASSIFIERS = {name.removesuffix(".") for name in CLASSIFIER} - NEVER | {"head_dist"}
# Numbers of outputs that are those of a classifier: CIFAR-10, ImageNet-1k, and the variants of ImageNet-21k
CLASSES = (10, 1000, 11221, 11821, 21841, 21843)
MOST = 20  # modules that a message names


@dataclass(frozen=True)
class LeftOver:
    """Modules of a file that are no part of the model, each with its entries."""

    unused: Mapping[str, list[str]]  # known to be part of no embedding, or said to be
    classifiers: Mapping[str, list[str]]  # the network's own, with as many outputs as a known data set has classes
    heads: Mapping[str, list[str]]  # a classifier, or the head of the embedding
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
        asks: bool = False,
    ) -> "LeftOver":
        """Sort what is left over beside the entries of `head`.

        `named` is what a head may be called and `unused` what serves no embedding in this code base; `headless` says
        that there is no head, `asks` that a classifier may be one whatever its size.
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
            own = not asks and module == f"{body.prefix}{name}" and outputs(state, keys) in CLASSES
            if name in never or all(of_another(key, state, body) for key in keys):
                sort = "unused"
            elif name in CLASSIFIERS or name in named:
                sort = "unused" if headless else "classifiers" if own and name not in named else "heads"
            else:
                sort = "strange"
            sorts[sort][module] = keys
        return cls(**sorts)


def wrappers(prefix: str) -> list[str]:
    """A prefix and what is before each of its names, longest first: "a.b." gives "a.b.", "a." and ""."""
    parts = prefix.split(".")[:-1]
    return ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts), -1, -1)]


def module_of(key: str, body: Backbone, taken: Iterable[str]) -> str:
    """The outermost module of an entry that holds nothing of the model."""
    start = next(start for start in wrappers(body.prefix) if key.startswith(start))
    parts = key.removeprefix(start).split(".")
    for count in range(1, len(parts)):
        module = start + ".".join(parts[:count])
        if not any(other.startswith(f"{module}.") for other in taken):
            return module
    return key


def short(module: str, body: Backbone) -> str:
    """The name of a module without what wraps the backbone, by which model.head finds it."""
    return module.removeprefix(next(start for start in wrappers(body.prefix) if module.startswith(start)))


def of_another(key: str, state: Mapping[str, Tensor], body: Backbone) -> bool:
    """Whether an entry belongs to another network of the file than the one that the user chose."""
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
    """The entries that no pattern names: of an entry, or of a module and all that is in it."""
    for pattern in patterns:
        if not any(_matches(key, pattern) for key in state):
            tops = sorted({key.partition(".")[0] for key in state})[:MOST]
            raise UserError(f"model.ignore names '{pattern}', which {path} does not hold; it has {', '.join(tops)}")
    return {key: value for key, value in state.items() if not any(_matches(key, pattern) for pattern in patterns)}


def _matches(key: str, pattern: str) -> bool:
    return fnmatchcase(key, pattern) or fnmatchcase(key, f"{pattern}.*")


def ask(path: Path, left: LeftOver, body: Backbone, head: str | None, fitting: Collection[str]) -> None:
    """Raise UserError where something is left over that may be part of the embedding, with what to give.

    `head` is the module that is the head, `fitting` those of the rest that could be one.
    """
    rest = [*left.heads, *left.strange]
    if not rest:
        return
    options = []
    for module in fitting:
        others = [other for other in (*rest, *([head] if head else [])) if other != module]
        name = short(module, body)
        options.append(" ".join([f"model.head={name}", *_ignored(others)]) + f" (the head is {module})")
    away = _ignored([*left.strange, *(left.heads if head else [])])
    none = ["model.head=none"] if left.heads and not head else []
    options.append(" ".join([*none, *away]) + f" ({'the head is ' + head if head else 'there is no head'})")
    if left.heads:
        what = f"{', '.join(left.heads)}, which may be a classifier or the head of the embedding"
        what = f"holds {what}" + (f", beside {', '.join(list(left.strange)[:MOST])}" if left.strange else "")
    else:
        count = sum(map(len, left.strange.values()))
        first = ", ".join([key for keys in left.strange.values() for key in keys][:3])
        what = f"has {count} entries that fit nowhere in {body.name} (first: {first})"
    raise UserError(f"{path} {what}: give {', or '.join(options)}")


def _ignored(modules: Sequence[str]) -> list[str]:
    return [f"'model.ignore=[{','.join(modules)}]'"] if modules else []
