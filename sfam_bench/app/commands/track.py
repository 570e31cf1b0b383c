"""Enter a method on a frozen task: track ls [TRACK] | run TRACK | submit RUN | score FILE; see docs/track.md.

run computes the maps of a method, or reads them from a folder, and measures them. submit adds a card and writes one
file. score recomputes all of it, measures the controls, and writes a row of the leaderboard.

Examples:

    sfam-bench track run planted-v1 method=sfam
    sfam-bench track submit results/track/planted-v1/sfam
    sfam-bench track score results/track/planted-v1/sfam

Settings: method, folder, card, name, out, leaderboard, data, key.
"""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, ListConfig

from sfam_bench.app.cli import list_choices, script
from sfam_bench.app.overrides import write_value
from sfam_bench.app.tracks import Entry, card_of_ours, open_track, read_card, read_method
from sfam_bench.core.errors import UserError
from sfam_bench.core.files import check_writable, write_json
from sfam_bench.explainers.saved_maps import write_maps
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.tracks.card import SubmissionCard
from sfam_bench.tracks.maps import Maps, compute_maps, prepare, read_maps
from sfam_bench.tracks.measure import Values, control, measure
from sfam_bench.tracks.submission import MARKS, SUBMISSION, Submission, fill, make_row
from sfam_bench.tracks.track import Track, list_tracks, name_files, read_spec, with_controls

Found = TypeVar("Found")
MAPS = "maps"


def main() -> None:
    """Read `VERB [WHAT]` as settings, then run."""
    sys.argv[1:] = to_settings(sys.argv[1:])
    run_verb()


def to_settings(arguments: list[str]) -> list[str]:
    """The first two arguments without a name as `verb` and `what`."""
    names, found = ["verb", "what"], list[str]()
    for text in arguments:
        named = "=" in text or text.startswith("-") or not names
        found.append(text if named else f"{names.pop(0)}={write_value(text)}")
    return found


@script("track")
def run_verb(cfg: DictConfig) -> None:
    if cfg.verb not in VERBS:
        raise UserError(f"unknown verb '{cfg.verb}': use track {'|'.join(VERBS)}")
    if cfg.what is None and cfg.verb != "ls":
        raise UserError(
            f"track {cfg.verb} needs {WHATS[cfg.verb]}, as in sfam-bench track {cfg.verb} {EXAMPLES[cfg.verb]}"
        )
    VERBS[cfg.verb](cfg)


def list_all(cfg: DictConfig) -> None:
    """Print the tracks, or the files of maps that one of them needs."""
    if cfg.what is not None:
        print("\n".join(name_files(with_controls(read_spec(str(cfg.what)).pairs))))
        return
    for name in list_tracks():
        spec = read_spec(name)
        print(f"{name:20} {spec.settings['title']}: {len(spec.pairs)} pairs, by {spec.settings['headline']}")


def run(cfg: DictConfig) -> None:
    """Compute or read the maps of methods, and measure them."""
    if (cfg.method is None) == (cfg.folder is None):
        raise UserError("give method= (code) or folder= (maps), and not both")
    track, root = open_track(str(cfg.what), cfg.data, cfg.key), Path(str(cfg.out)) / str(cfg.what)
    check_writable(root)
    entries = read_entries(cfg)
    names = [*entries] or [name_of(cfg, Path(str(cfg.folder)).expanduser().resolve().name)]
    for name in names:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(f"name={name}: give a name of letters, digits, dots, dashes and underscores")
    files = {name: root / name / SUBMISSION for name in names}
    cards = {name: Submission.read(file).card for name, file in files.items() if file.is_file()}  # before any computing
    if cfg.folder is None:
        maps = {name: compute_maps(track, prepare(track, entry.method)) for name, entry in entries.items()}
    else:
        maps = {names[0]: read_maps(track, Path(str(cfg.folder)).expanduser())}
    for name, values in measure(track, maps).items():
        out, entry = root / name, entries.get(name)
        write_maps(out / MAPS, maps[name].named(track), replace=True)
        code = None if entry is None else entry.code
        Submission.of(track, code, maps[name], values, cards.get(name)).write(files[name])
        filled = fill(values.table, track.chance)
        print_means({str(metric): float(mean) for metric, mean in filled.mean().items()})
        if values.reasons:
            print(f"undefined values count as those of the random maps of their pairs: {describe_reasons(values)}")
        print(f"maps and values of {name} on {track.name}: {out}" + (", with its card" if cards.get(name) else ""))


def read_entries(cfg: DictConfig) -> dict[str, Entry]:
    """The methods of a setting, one or a list, by name."""
    if cfg.method is None:
        return {}
    found = [read_method(one) for one in (cfg.method if isinstance(cfg.method, ListConfig) else [cfg.method])]
    if cfg.name is not None and len(found) > 1:
        raise UserError("name= names one method: leave it out for several")
    entries = {name_of(cfg, entry.name): entry for entry in found}
    if len(entries) < len(found):
        raise UserError(
            f"{len(found)} methods have {len(entries)} names: enter those of one name separately, with name="
        )
    return entries


def name_of(cfg: DictConfig, default: str) -> str:
    """The setting `name` as text, since YAML reads name=1 and name=nan as numbers."""
    return default if cfg.name is None else str(cfg.name)


def submit(cfg: DictConfig) -> None:
    """Add a card to the file of a run; or, for a track and code that was not run, write a file without values."""
    what = str(cfg.what)
    if what not in list_tracks():
        write_submission(cfg, Path(what), Submission.read(Path(what) / SUBMISSION))
        return
    if cfg.method is None:
        raise UserError(f"give method= for a submission of code to {what}, or the folder of a run in its place")
    spec = read_spec(what)
    for name, entry in read_entries(cfg).items():
        folder = Path(str(cfg.out)) / what / name
        folder.mkdir(parents=True, exist_ok=True)
        write_submission(cfg, folder, Submission(what, spec.digest, None, entry.code, None, None, None))


def write_submission(cfg: DictConfig, folder: Path, made: Submission) -> None:
    """Write a submission with its card, which methods of this benchmark have."""
    if cfg.card is not None:
        card = read_card(str(cfg.card))
    elif made.code is not None and made.code.ours:
        card = card_of_ours(made.code.ours, read_method(made.code.ours).method)
    else:
        raise UserError("give card=, a YAML file with name, reads, paper, code and seconds (docs/track.md)")
    replace(made, card=card).write(folder / SUBMISSION)
    print(f"submission of {card.name} to {made.track}: {folder / SUBMISSION}")


@dataclass(frozen=True)
class Claim:
    """A submission with its maps: recomputed by `method`, or read where that is None."""

    submission: Submission
    card: SubmissionCard
    maps: Maps
    method: Explainer | None

    @property
    def name(self) -> str:
        return self.card.name


def score(cfg: DictConfig) -> None:
    """Verify and recompute submissions to one track, and write their rows."""
    files = find_submissions(Path(str(cfg.what)).expanduser())
    submissions = {file: Submission.read(file) for file in files}
    if len(tracks := sorted({one.track for one in submissions.values()})) > 1:
        raise UserError(f"{cfg.what} holds submissions to {' and '.join(tracks)}: score those of one track at a time")
    track = open_track(tracks[0], cfg.data, cfg.key)
    check_writable(Path(str(cfg.leaderboard)) / track.name)
    claims = [with_file(file, verify, cfg, track, file, submission) for file, submission in submissions.items()]
    if len(names := {claim.name for claim in claims}) < len(claims):
        raise UserError(f"{cfg.what} holds {len(claims)} submissions of {len(names)} names: give each its own")
    maps = {claim.name: claim.maps for claim in claims}
    measured = measure(track, maps)
    for file, claim in zip(files, claims, strict=True):
        with_file(file, claim.submission.check_values, measured[claim.name].table)
    controls = control(track, maps, {claim.name: claim.method for claim in claims if claim.method is not None})
    for claim in claims:
        source = "maps" if claim.method is None else "code"
        row = make_row(claim.submission, track, measured[claim.name], controls[claim.name], source)
        row["maps"] = claim.maps.facts
        row["seconds"] = claim.card.seconds if claim.maps.seconds is None else claim.maps.seconds
        out = find_row(cfg, claim.submission)
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists():
            print(f"replaced: the row that {out} held before")
        write_json(out, row)
        print_means({metric: found["mean"] for metric, found in row["summary"]["means"].items()})
        print("".join(f"marked: {MARKS[mark]}\n" for mark in row["summary"]["marks"]), end="")
        print(f"row of {claim.name} on {track.name}, recomputed from its {source}: {out}")


def find_submissions(path: Path) -> list[Path]:
    """The files of submissions: the path itself, the one in it, or those in its folders."""
    if not path.is_dir():
        return [path]
    found = [path / SUBMISSION] if (path / SUBMISSION).is_file() else sorted(path.glob(f"*/{SUBMISSION}"))
    if not found:
        raise UserError(f"{path} holds no {SUBMISSION}: make one with sfam-bench track submit")
    return found


def verify(cfg: DictConfig, track: Track, file: Path, submission: Submission) -> Claim:
    """Recompute or read the maps of a submission; UserError where it is not what it claims to be."""
    card, code = submission.card, submission.code
    if card is None:
        raise UserError(f"{file} has no card: sfam-bench track submit {file.parent} card=FILE")
    if (name := card.name) in list_choices("explainer") and (code is None or code.ours != name):
        raise UserError(f"{file}: {name} is a method of this benchmark: choose another name in the card")
    submission.check_track(track)
    if code is None and track.spec.commitment:
        raise UserError(f"{file} was entered as maps, and {track.name} accepts code alone")
    if code is not None and not code.ours and cfg.method is None and cfg.folder is None:
        raise UserError(
            f"{file} was entered as code: give method= (its code, {code.settings.get('_target_')}), or folder= to "
            "score its maps alone"
        )
    if code is None and cfg.method is not None:
        raise UserError(f"{file} was entered as maps: leave out method=")
    submission.check_row(find_row(cfg, submission))
    if code is not None and (code.ours or cfg.method is not None):
        entry = read_method(code.ours or cfg.method)
        code.check(entry.code)
        method = prepare(track, entry.method)
        return Claim(submission, card, compute_maps(track, method), method)
    folder = file.parent / MAPS if cfg.folder is None else Path(str(cfg.folder)).expanduser()
    if not folder.is_dir():
        what = "folder= (its maps)" if code is None else f"method= (its code, {code.settings.get('_target_')})"
        raise UserError(f"{file} cannot be recomputed: give {what}")
    maps = read_maps(track, folder)
    submission.check_maps(maps)
    return Claim(submission, card, maps, None)


def find_row(cfg: DictConfig, submission: Submission) -> Path:
    """The file of the row of a submission that has a card."""
    name = submission.card.name if submission.card else ""
    return Path(str(cfg.leaderboard)) / submission.track / f"{name}.json"


def with_file(file: Path, check: Callable[..., Found], *given: Any) -> Found:
    """Call `check`, whose errors name the file of the submission too."""
    try:
        return check(*given)
    except UserError as error:
        raise error if str(file) in str(error) else UserError(f"{file}: {error}") from None


def describe_reasons(values: Values) -> str:
    """How many values of each metric are undefined, and why."""
    return "; ".join(
        f"{sum(found.values())} of {metric} ({', '.join(found)})" for metric, found in values.reasons.items()
    )


def print_means(means: Mapping[str, float]) -> None:
    """Print the mean of each metric."""
    print("\n".join(f"{metric:40} {value:8.3f}" for metric, value in means.items()))


VERBS: dict[str, Callable[[DictConfig], None]] = {"ls": list_all, "run": run, "submit": submit, "score": score}
WHATS = {"run": "a track", "submit": "the folder of a run", "score": "a submission or its folder"}
EXAMPLES = {
    "run": "planted-v1 method=sfam",
    "submit": "results/track/planted-v1/sfam",
    "score": "results/track/planted-v1/sfam",
}
