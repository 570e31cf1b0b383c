"""Whether a run folder may be started, or continued by the same config and code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from sfam_bench.core.errors import UserError, first_line
from sfam_bench.core.provenance import PACKAGES, Config, config_hash, differences, run_facts, to_plain
from sfam_bench.runs.proof import RESTORE, check_digest

Resume = bool | Literal["anyway"]
FOLDERS = ("records", "maps", "images", "curves")
EVALUATING = ".evaluating"  # the lock of an evaluation in one process, which stays in its folder
PLAN, PLANNING = "plan.json", ".plan.lock"  # of an evaluation in shards, and the lock while it is planned


def refuse_results(root: Path, resume: Resume) -> None:
    """Raise UserError if a folder has results and `resume` is not set."""
    if holds_results(root) and not resume:
        raise UserError(f"run folder {root} exists: pass resume=true to continue it, or another run_dir")


def create_folder(root: Path) -> Path:
    """Make a folder for results written at the end (training); UserError if it has results."""
    if holds_results(root):
        raise UserError(f"run folder {root} exists: choose another run_dir")
    root.mkdir(parents=True, exist_ok=True)
    return root


def holds_results(root: Path) -> bool:
    """Whether the folder has more than Hydra's own files: hidden ones and the log."""
    return root.exists() and any(_format_differences(root))


def is_begun(root: Path) -> bool:
    """Whether a run was started in a folder but stopped before its manifest was written (full disk, kill)."""
    left = {path.name for path in _format_differences(root)} - {"config.yaml"} if root.is_dir() else {""}
    return left <= {*FOLDERS} and not any(any(_format_differences(root / name)) for name in left)


def claim(root: Path, resume: Resume) -> None:
    """Make the folders of a run; of two concurrent jobs only one succeeds."""
    for name in FOLDERS:
        try:
            (root / name).mkdir(parents=True, exist_ok=bool(resume))
        except FileExistsError:
            raise UserError(f"another job has just started the run folder {root}: choose another run_dir") from None


def release(root: Path) -> None:
    """Remove the folders of a run that could not be started, so that the same command can start it again."""
    (root / "config.yaml").unlink(missing_ok=True)
    for name in FOLDERS:
        (root / name).rmdir()


def check_same(root: Path, manifest: Mapping[str, Any], config: Config, resume: Resume) -> dict[str, Any] | None:
    """The facts of the continuing code if it is other code and `resume` is "anyway"; None for the same code.

    UserError where the config is another, or the code is and that was not accepted.
    """
    if manifest.get("config_hash") != config_hash(config):
        raise UserError(
            f"run folder {root} has another config ({_differences(root, manifest, config)}): restore it "
            "(config.yaml), or change run_dir"
        )
    now = run_facts()
    before = [manifest, *(manifest.get("resumed") or [])][-1]
    if not (changed := differences(_code_facts(before), _code_facts(now))):
        return None
    if resume != "anyway":
        raise UserError(
            f"run folder {root} was made by other code ({changed}): use that again (git {before.get('git')}), pass "
            "resume=anyway to continue with this code, which reports will mention, or change run_dir"
        )
    return now


def _differences(root: Path, manifest: Mapping[str, Any], config: Config) -> str:
    if "identity" in manifest:
        return differences(manifest["identity"], config)
    path = root / "config.yaml"
    try:
        check_digest(root, manifest, path, RESTORE)
        was = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        return f"the settings that differ are unknown: cannot read {path}: {first_line(error)}"
    return differences(was if isinstance(was, Mapping) else {}, to_plain(config))


def _code_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of the code that may affect results."""
    versions = facts.get("versions") or {}
    return {"code": facts.get("code"), **{name: versions[name] for name in PACKAGES[1:] if name in versions}}


def _format_differences(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".") and path.suffix != ".log"]
