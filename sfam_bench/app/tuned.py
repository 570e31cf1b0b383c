"""Settings that were tuned, read from the folders of sfam-bench tune for an evaluation."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sfam_bench.app.settings import check_fields
from sfam_bench.core.errors import UserError, one_line
from sfam_bench.core.provenance import config_hash
from sfam_bench.datasets.base import Dataset, split_hash
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.runs.manifests import read_manifest
from sfam_bench.runs.proof import cached_digest

KIND, CHOSEN = "tune", "chosen.yaml"
KEPT = ("method", "objective", "budget", "chosen", "default", "classes_hash", "model", "weights", "similarity")
PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Tuned:
    """The outcome of one study: its folder, its manifest, and the method with all its fields."""

    root: Path
    manifest: dict[str, Any]
    target: str
    fields: dict[str, Any]

    @classmethod
    def read(cls, root: Path) -> "Tuned":
        """Read a study; UserError if it is not finished or not a study."""
        manifest = read_manifest(root)
        if manifest.get("kind") != KIND:
            raise UserError(f"tuned names {root}, which is not a study: pass a folder written by sfam-bench tune")
        if not manifest.get("done"):
            raise UserError(f"the study in {root} is unfinished: run sfam-bench tune with run_dir={root} again")
        again = "tune again into another run_dir"
        if "files" in manifest and cached_digest(root / CHOSEN) != manifest["files"][CHOSEN]:
            raise UserError(f"{root / CHOSEN} is damaged or was edited (its digest differs): {again}")
        try:
            chosen = yaml.safe_load((root / CHOSEN).read_text())[manifest["method"]]
            target, fields = chosen["_target_"], {name: value for name, value in chosen.items() if name != "_target_"}
            classes = manifest["classes"]
            if classes_hash(classes) != manifest["classes_hash"] or any(name not in manifest for name in KEPT):
                raise ValueError("manifest.json does not fit itself")
            if any(fields[name] != value for name, value in manifest["chosen"].items()):
                raise ValueError("chosen.yaml does not match manifest.json")
            if not all(isinstance(value, PLAIN) for value in fields.values()):
                raise ValueError("chosen.yaml has values that are not plain")
            manifest["split"]["hash"], manifest["dataset"]
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OSError, yaml.YAMLError) as error:
            why = f"{type(error).__name__}: {one_line(error)}"
            raise UserError(f"the study in {root} is damaged ({why}): {again}") from error
        return cls(root, manifest, target, fields)

    @property
    def name(self) -> str:
        """The name of the tuned variant."""
        return f"{self.manifest['method']} tuned"

    def check(self, dataset: Dataset, evaluated: Sequence[str]) -> None:
        """Raise UserError if it is of another data set or split, or if a class that it was tuned on is evaluated."""
        known, here = self.manifest["split"]["hash"], split_hash(dataset.index)
        if (self.manifest["dataset"], known) != (dataset.name, here):
            raise UserError(
                f"{self.root} was tuned on {self.manifest['dataset']} (split {known}), and this is {dataset.name} "
                f"(split {here}): tune on this one"
            )
        classes = {label for part in self.manifest["classes"].values() for label in part}
        if both := len(classes & set(dataset.index.loc[list(evaluated), "label"].tolist())):
            raise UserError(f"{self.root} was tuned on {both} of the classes evaluated: evaluate split=test")

    def variant(self, explainers: Mapping[str, Explainer], nodes: Mapping[str, Any]) -> Explainer:
        """The method of this evaluation with the chosen fields; its class is never read from the folder."""
        method = self.manifest["method"]
        if method not in explainers:
            raise UserError(f"{self.root} tuned {method}, which is not evaluated: add it to explainer=[...]")
        target = nodes[method]["_target_"]
        if target != self.target:
            raise UserError(f"{self.root} tuned {self.target}, and explainer.{method} is {target}: tune this one")
        check_fields({"_target_": target, **self.fields}, f"{self.root / 'chosen.yaml'}: {method}")
        if inner := [name for name in self.fields if name.startswith("_")]:
            raise UserError(f"{self.root / 'chosen.yaml'} names '{inner[0]}', which is no setting: tune again")
        made: Explainer = dataclasses.replace(explainers[method], **self.fields)  # type: ignore[type-var]
        return made

    @property
    def facts(self) -> dict[str, Any]:
        """The facts for an evaluation's manifest."""
        return {name: self.manifest[name] for name in KEPT}


def read_studies(roots: str | Sequence[str] | None) -> list[Tuned]:
    """The studies in some folders, each of another method."""
    studies = [Tuned.read(Path(root)) for root in ([roots] if isinstance(roots, str) else roots or [])]
    names = [study.name for study in studies]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"tuned names two studies of {twice[0].removesuffix(' tuned')}: name one of them")
    return studies


def classes_hash(classes: Mapping[str, Sequence[int]]) -> str:
    """A digest of the classes that a study has seen."""
    return config_hash(classes)
