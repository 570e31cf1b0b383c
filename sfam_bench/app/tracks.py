"""From the files of a track, and the settings of a command, to objects."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from sfam_bench.app.inputs import own_code
from sfam_bench.app.settings import build
from sfam_bench.core.errors import UserError, first_line
from sfam_bench.core.method_card import Card, card_of, formula_and_source, method_settings
from sfam_bench.core.provenance import to_plain
from sfam_bench.datasets.planted.hidden import commitment
from sfam_bench.evaluation.named import check_method, find_object
from sfam_bench.explainers.shared.forms import Explainer, Sampling
from sfam_bench.tracks.card import SubmissionCard
from sfam_bench.tracks.submission import Code
from sfam_bench.tracks.track import WEIGHTS, Spec, Track, read_spec


def open_track(name: str, data: str | None = None, key: str | None = None) -> Track:
    """Build and verify a track.

    Args:
        name: of the track.
        data: the folder of CUB_200_2011, for tracks of photos.
        key: the private key of a hidden track.

    Raises:
        UserError: if there is no such track, a byte of it has changed, or its images cannot be made here.
    """
    spec = read_spec(name)
    return Track.of(spec, *build_parts(spec, data, key))


def build_parts(spec: Spec, data: str | None, key: str | None) -> tuple[Any, Any, Any, Any]:
    """Data set, model, target and metrics of a track."""
    nodes = {what: OmegaConf.create(spec.settings[what]) for what in ("dataset", "model", "target", "metrics")}
    given: dict[str, Any] = {}
    if spec.commitment:
        check_key(spec, key)
        given["key"] = key
    if "root" in nodes["dataset"]:
        if data is None:
            raise UserError(f"{spec.name} needs photos: set data= to the folder of CUB_200_2011")
        given["root"] = data
    file = spec.folder / WEIGHTS
    model = build(nodes["model"], **({"checkpoint": str(file)} if file.is_file() else {}))
    return build(nodes["dataset"], **given), model.eval(), build(nodes["target"]), build(nodes["metrics"])


def check_key(spec: Spec, key: str | None) -> None:
    """Raise UserError where the key of a hidden track is absent, or is not the one whose digest was published."""
    if key is None:
        raise UserError(
            f"the images of {spec.name} are private to who scores: run the method on a public track, and submit its "
            f"code with sfam-bench track submit {spec.name} method=..."
        )
    if commitment(key) != spec.commitment:
        raise UserError(f"the key is not that of {spec.name}: its SHA-256 is not the published one")


@dataclass(frozen=True)
class Entry:
    """A method entered as code, with its description and its default name."""

    method: Explainer
    code: Code
    name: str


def read_method(setting: Any) -> Entry:
    """The method of a setting: a name of conf/explainer, MODULE.CLASS, FILE.py:CLASS, or a mapping with `_target_`.

    Code of the user is imported and run.
    """
    if isinstance(setting, str) and "." not in setting:
        method = find_object("explainer", setting)
        return Entry(method, Code(setting, method_settings(method)), setting)
    node = {"_target_": locate(setting)} if isinstance(setting, str) else OmegaConf.to_container(setting, resolve=True)
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError("method is no method: give a name, MODULE.CLASS, FILE.py:CLASS, or {_target_: ...}")
    method = build(OmegaConf.create({**node}))
    check_method(method, f"method {node['_target_']}", Explainer)
    source = own_code(dict(node))
    return Entry(method, Code("", to_plain(method_settings(method)), source), type(method).__name__.lower())


def locate(setting: str) -> str:
    """MODULE.CLASS of a setting; the folder of FILE.py:CLASS is added to the places where modules are searched."""
    file, colon, name = setting.partition(":")
    if not colon:
        return setting
    path = Path(file).expanduser().resolve()
    if path.suffix != ".py" or not path.is_file() or not name.isidentifier():
        raise UserError(f"method={setting}: there is no such file, or its name is not FILE.py:CLASS")
    if path.stem in sys.modules and getattr(sys.modules[path.stem], "__file__", None) != str(path):
        raise UserError(f"{path} has the name of another module, {path.stem}: rename the file")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
        invalidate_caches()
    found = find_spec(path.stem)
    if found is None or Path(found.origin or "").resolve() != path:
        other = getattr(found, "origin", None)
        raise UserError(f"{path} has the name of another module, {path.stem} ({other}): rename the file")
    return f"{path.stem}.{name}"


def card_of_ours(name: str, method: Explainer) -> SubmissionCard:
    """The card of a method of this benchmark, from its own."""
    card: Card = card_of(method)
    reads = ["query", *(["reference"] if card.reads_reference and not card.control else [])]
    reads += [
        *(["passes"] if isinstance(method, Sampling) else []),
        *(["attention"] if card.needs == "attention" else []),
    ]
    paper = formula_and_source(type(method))[1]
    return SubmissionCard(name, tuple(reads), paper)


def read_card(path: str) -> SubmissionCard:
    """A card from a YAML file."""
    try:
        facts = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the card {path} ({first_line(error)}): correct it") from None
    return SubmissionCard.of(facts, path)
