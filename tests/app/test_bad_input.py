"""What a user can do wrong: one line that says what, where and what to do, exit code 2, nothing half-written."""

import pickle
import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sfam_bench.api import explain
from sfam_bench.core.errors import UserError
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import Similarity
from sfam_bench.core.types import RawMaps
from sfam_bench.evaluation.evaluate import evaluate
from sfam_bench.explainers.controls import Chance
from sfam_bench.explainers.similarity_decomposition import SimilarityDecomposition
from sfam_bench.metrics.localisation import EnergyPointingGame, PointingGame
from sfam_bench.metrics.perturbation import Midpoint, Perturbation
from sfam_bench.models.build import build, save
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import SimilarityModel
from sfam_bench.runs.reader import read_records
from tests.paths import UNTRAINED
from tests.scripts import Run, mistake, says

SMALL = [
    "pairs.count=3",
    "steps.intervals=4",
    "pairs.kinds=[random_positive]",
    "explainer=[lafam]",
    "metric=[deletion]",
]
TINY = ["dataset.size=32", "dataset.train_per_class=1", "dataset.test_per_class=2", "model.image_size=32", *SMALL]
CUB = ["dataset=cub", "model.image_size=32", *SMALL]


# Settings

SETTINGS = {
    "explainer=nonsense": ("no explainer 'nonsense'", "grad_cam", "sfam"),
    "explainer=[sfam,nonsense]": ("no explainer 'nonsense'", "grad_cam", "sfam"),
    "metric=nonsense": ("no metric 'nonsense'", "deletion"),
    "dataset=nonsense": ("no dataset 'nonsense'", "cub", "planted"),
    "model=nonsense": ("no model 'nonsense'", "lite0"),
    "experiment=nonsense": ("no experiment 'nonsense'", "cub"),
    "explainer.lafam.gama=2": ("no setting 'explainer.lafam.gama'", "check its name"),
    "+explainer.lafam.gama=2": ("explainer.lafam has no setting 'gama'",),
    "+metric.deletion_mean_colour.walc=deletion": (
        "metric.deletion_mean_colour has no setting 'walc'",
        "walk",
        "min_range",
    ),
    "metric.deletion_mean_colour.walk=sideways": (
        "metric.deletion_mean_colour.walk is 'sideways'",
        "deletion, insertion",
    ),
    "metric.deletion_mean_colour.min_range=big": ("metric.deletion_mean_colour.min_range is 'big'", "a number"),
    "metric.deletion_mean_colour.baseline=null": ("metric.deletion_mean_colour.baseline is null",),
    "explainer=[]": ("no explainer is chosen",),
    "metric=[]": ("no metric is chosen",),
    "baseline=[zeros]": (
        "metric.deletion_mean_colour.baseline: needs baseline 'mean_colour', which is not chosen",
        "baseline=[...,mean_colour]",
    ),
    "batch=3": ("no setting 'batch'", "check its name"),
    "batch_size=0": ("batch_size is 0", "at least 1"),
    "batch_size=many": ("batch_size is 'many'", "an integer"),
    "seed=-1": ("seed is -1", "between 0 and"),
    "seed=99999999999999999999": ("seed is 99999999999999999999", "between 0 and"),
    "resume=maybe": ("resume is 'maybe'", "true or false"),
    "maps.save=flase": ("maps.save is 'flase'", "true or false"),
    "maps.pictures=some": ("maps.pictures is 'some'", "one of all or an integer of at least 0"),
    "split=val": ("no split 'val'", "test, train or all"),
    "dataset.test_per_class=0": ("no split 'test'", "choose train or all"),
    "pairs.kinds=[nonsense]": ("nonsense", "kinds are nearest_positive, nearest, hard_negative"),
    "pairs.kinds=nearest_positive": ("pairs.kinds is 'nearest_positive'", "a list"),
    "pairs.kinds=[]": ("pairs.kinds=[]", "kinds are nearest_positive"),
    "pairs.count=-1": ("pairs.count is -1", "an integer of at least 1"),
    "pairs.count=0": ("pairs.count is 0", "an integer of at least 1"),
    "pairs.count=many": ("pairs.count is 'many'", "an integer"),
    "model.normalise=maybe": ("model.normalise is 'maybe'", "true or false"),
    "run_dir=null": ("run_dir is null",),
    "+datset=cub": ("no setting 'datset'", "did you mean dataset?"),
    "datset=cub": ("no setting 'datset'", "did you mean dataset?"),
    "pairs.kinds=[triplet,triplet]": ("pairs.kinds=", "each once"),
    "pairs.seed=-1": ("pairs.seed is -1", "at least 0"),
    "min_range=nan": ("min_range is nan", "a number that is finite"),
    "tolerance=nan": ("tolerance is nan", "a number of at least 0"),  # whether or not a metric takes it
    "+paiirs.count=4": ("no setting 'paiirs.count'", "did you mean pairs.count?"),
    "++mOdel.name=4": ("no setting 'mOdel.name'", "did you mean model.name?"),
    "explainer=7": ("explainer=7 is no choice", "sfam"),
    "+explainer.pair={_target_: sfam_bench.explainers.controls.LaFAM}": ("the explainer name 'pair'", "choose another"),
    "dataset._target_=sfam_bench.datasets.cub.nope": ("dataset: there is no sfam_bench.datasets.cub.nope",),
    "device=tpu9": ("device=tpu9 cannot be used here", "cpu or cuda"),
}


ONE_OF_A_KIND = (
    *("explainer=nonsense", "dataset=nonsense", "explainer.lafam.gama=2", "+explainer.lafam.gama=2", "metric=[]"),
    *("metric.deletion_mean_colour.walk=sideways", "baseline=[zeros]", "batch_size=0", "resume=maybe", "split=val"),
    *("pairs.kinds=[nonsense]", "pairs.count=many", "+datset=cub", "datset=cub", "min_range=nan", "device=tpu9"),
)


def once(cases: dict[str, tuple[str, ...]], quick: Collection[str]) -> list[object]:
    """Cases by their names; those that are not quick repeat what others show, and are slow."""
    return [
        pytest.param(name, words, id=name, marks=[] if name in quick else [pytest.mark.slow])
        for name, words in cases.items()
    ]


@pytest.mark.parametrize(("override", "words"), once(SETTINGS, ONE_OF_A_KIND))
def test_a_wrong_setting(run_script: Run, tmp_path: Path, override: str, words: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    says(mistake(run_script("evaluate", *TINY, f"run_dir={run}", override)), *words)
    assert not run.exists()


@pytest.mark.parametrize(
    "text",
    ["pairs:\n\tcount: 4\n", "pairs: {count: 4\n", "pairs:\n  count: 4\n  count: 5\n", "seed: !!python/name:os.x\n"],
    ids=["tab", "open", "twice", "object"],
)
def test_a_config_file_that_is_no_yaml_is_named(run_script: Run, tmp_path: Path, text: str) -> None:
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(f"# @package _global_\n{text}")
    own = ("experiment=mine", f"hydra.searchpath=[file://{tmp_path}]", f"run_dir={tmp_path / 'run'}")
    says(mistake(run_script("evaluate", *TINY, *own)), "a config file cannot be read", str(file), "line ")


def test_a_wrong_choice_of_a_literal_field(run_script: Run, tmp_path: Path) -> None:
    call = ("evaluate", *TINY, f"run_dir={tmp_path / 'run'}", "explainer=[sfam]")
    found = mistake(run_script(*call, "explainer.sfam.weight_normalisation=foo"))
    says(found, "explainer.sfam.weight_normalisation is 'foo'", "none, l1, minmax, softmax")
    says(mistake(run_script(*call, "explainer.sfam.gamma=big")), "explainer.sfam.gamma is 'big'", "a number")
    says(mistake(run_script(*call, "explainer.sfam.relu=maybe")), "explainer.sfam.relu is 'maybe'", "true or false")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("override", ["steps.intervals=0", "steps.intervals=-3", "pairs.per_class=0"])
def test_a_number_out_of_range_is_refused_before_anything_is_written(
    run_script: Run, tmp_path: Path, override: str
) -> None:
    mistake(run_script("evaluate", *TINY, f"run_dir={tmp_path / 'run'}", override))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_pairs_that_do_not_exist_leave_no_run_folder_behind(run_script: Run, tmp_path: Path) -> None:
    call = ("evaluate", *TINY, f"run_dir={tmp_path / 'run'}")
    found = mistake(run_script(*call, "dataset.test_per_class=1"))
    says(found, "no pair of kind random_positive", "choose other pairs.kinds")
    assert run_script(*call)[0] == 0  # the corrected call is not refused


@pytest.mark.slow
def test_a_plan_of_pairs_that_do_not_exist_leaves_no_folder_behind(run_script: Run, tmp_path: Path) -> None:
    given = ("submit", "verb=plan", *TINY, f"run_dir={tmp_path / 'run'}")
    says(mistake(run_script(*given, "pairs.kinds=[triplet]", "dataset.test_per_class=1")), "no pair of kind triplet")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_margin_target_without_triplets_leaves_no_run_folder_behind(run_script: Run, tmp_path: Path) -> None:
    call = ("evaluate", *TINY, f"run_dir={tmp_path / 'run'}", "target=margin")
    says(mistake(run_script(*call)), "margin", "pairs.kinds=[triplet]")
    assert run_script(*call, "pairs.kinds=[triplet]")[0] == 0


TRAINING = {
    "train.epochs=0": ("epochs",),
    "train.epochs=few": ("train.epochs is 'few'", "an integer"),
    "train.lr=fast": ("train.lr is 'fast'", "a number"),
    "train.checkpoint_steps={a: 1}": ("train.checkpoint_steps is {'a': 1}", "an integer"),
    "train.batch_size=5": ("batch_size", "per_class"),
    "train.batch_size=1000": ("batch_size", "per_class"),
    "train.per_class=-1": ("per_class",),
    "dataset.train_per_class=0": ("no split 'train'",),
    "loss=nonsense": ("no loss 'nonsense'", "arcface, baseline, baseline_pp, circle", "supcon, triplet"),
    "+loss.criterion.tmeperature=1": ("loss.criterion", "tmeperature"),
}


@pytest.mark.parametrize(
    ("override", "words"), once(TRAINING, ("train.epochs=0", "train.batch_size=5", "+loss.criterion.tmeperature=1"))
)
def test_a_wrong_setting_of_training(run_script: Run, tmp_path: Path, override: str, words: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    says(mistake(run_script("train", *TINY, "train.epochs=1", f"run_dir={run}", override)), *words)
    assert not run.exists() or not any(run.iterdir())


def test_scripts_without_a_needed_setting(run_script: Run) -> None:
    says(mistake(run_script("report")), "runs is not given")
    says(mistake(run_script("report", "runs=[]")), "no run to report", "runs=[")
    says(mistake(run_script("report", "runs=results/demo")), "runs is 'results/demo'", "a list")
    says(mistake(run_script("report", "runs=[/nowhere]")), "/nowhere", "check the path")
    says(mistake(run_script("data")), "download", "cub")
    says(mistake(run_script("data", "download=nonsense")), "no download 'nonsense'", "cub")


# Run folders


def test_a_run_folder_that_exists_is_left_alone(run_script: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    for script, hint in (("evaluate", "resume=true"), ("train", "another run_dir")):
        says(mistake(run_script(script, *TINY, f"run_dir={tmp_path}")), str(tmp_path), "exists", hint)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["evaluate", "train"])
def test_a_run_folder_that_is_a_file(run_script: Run, tmp_path: Path, script: str) -> None:
    (tmp_path / "file").write_text("precious")
    says(
        mistake(run_script(script, *TINY, f"run_dir={tmp_path / 'file'}")),
        str(tmp_path / "file"),
    )
    assert (tmp_path / "file").read_text() == "precious"


# Checkpoints


def small(**fields: object) -> SimilarityModel:
    torch.manual_seed(0)
    return build("small", planted_net(), GAP(), Cosine(), **{"image_size": 32, **fields})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save(small(), path, {})
    return path


class Malice:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def damaged(kind: str, good: Path, folder: Path) -> Path:
    """Write a checkpoint that is wrong in some way."""
    path = folder / f"{kind}.{'safetensors' if kind in ('truncated', 'empty', 'nan', 'pickled') else 'pth'}"
    state = load_file(good)
    match kind:
        case "truncated":
            path.write_bytes(good.read_bytes()[:-100])
        case "empty":
            path.touch()
        case "nan":
            save_file({**state, "trunk.layers.0.weight": state["trunk.layers.0.weight"] * torch.nan}, path)
        case "pickled":
            path.write_bytes(pickle.dumps(Malice(folder / "executed")))
        case "malicious":
            torch.save({"state_dict": Malice(folder / "executed")}, path)
        case "bare":
            path.write_bytes(pickle.dumps(Malice(folder / "executed"), protocol=2))
        case "cut":
            torch.save(state, path)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        case "list":
            torch.save(list(state.values()), path)
        case "other":
            torch.save({f"module.{key}": value for key, value in state.items()}, path)
    return path


CHECKPOINTS = {
    "missing": ("no weights at", "give the path"),
    "truncated": ("cannot read weights from", "damaged"),
    "empty": ("cannot read weights from", "damaged"),
    "cut": ("cannot read weights from", "damaged"),
    "nan": ("holds NaN or infinity in 'trunk.layers.0.weight'", "train again"),
    "pickled": ("cannot read weights from", "damaged or of another kind"),
    "malicious": ("refused to read", "more than tensors", "save only model.state_dict()"),
    "bare": ("refused to read", "more than tensors", "save only model.state_dict()"),
    "list": ("holds no plain state dict", "save model.state_dict()"),
    "other": ("does not fit the model", "missing", "unexpected"),
}


@pytest.mark.parametrize(("kind", "words"), once(CHECKPOINTS, ("missing", "truncated", "nan", "malicious", "other")))
def test_a_checkpoint_that_cannot_be_used(
    run_script: Run, checkpoint: Path, tmp_path: Path, kind: str, words: tuple[str, ...]
) -> None:
    path = damaged(kind, checkpoint, tmp_path)
    found = mistake(run_script("evaluate", *TINY, f"model.checkpoint={path}", f"run_dir={tmp_path / 'run'}"))
    says(found, str(path), *words)
    assert "\x1b" not in found
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "executed").exists()


def test_the_malice_of_this_test_is_real(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Malice(tmp_path / "executed")))  # noqa: S301
    assert (tmp_path / "executed").exists()


def test_a_checkpoint_of_another_architecture(run_script: Run, checkpoint: Path, tmp_path: Path) -> None:
    call = ("evaluate", *TINY, f"model.checkpoint={checkpoint}", f"run_dir={tmp_path / 'run'}")
    says(mistake(run_script(*call, "head=linear")), "2 entries missing", "embedder.projection", "head and pooling")
    assert not (tmp_path / "run").exists()


def test_a_model_that_does_not_exist(run_script: Run, tmp_path: Path) -> None:
    call = ("evaluate", *TINY, "model=backbone", f"run_dir={tmp_path / 'run'}")
    says(mistake(run_script(*call, "model.trunk.name=resnet51")), "timm has no model 'resnet51'", "resnet50")


# Photos


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """CUB's official files over twelve small photos; the box of 101.C/0.jpg reaches past two edges by a pixel."""
    home, draw = tmp_path / "birds", np.random.default_rng(0)
    tables: dict[str, list[str]] = {"images.txt": [], "image_class_labels.txt": [], "bounding_boxes.txt": []}
    for number in range(12):
        label = (1, 2, 101, 102)[number // 3]
        path = f"{label:03d}.C/{number % 3}.jpg"
        (home / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(draw.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(home / "images" / path)
        tables["images.txt"].append(f"{number} {path}")
        tables["image_class_labels.txt"].append(f"{number} {label}")
        tables["bounding_boxes.txt"].append(f"{number} 25.0 10.0 {26 if number == 6 else 10}.0 31.0")
    for name, lines in tables.items():
        (home / name).write_text("\n".join(lines) + "\n")
    return home


def of_birds(run_script: Run, birds: Path, *overrides: str) -> tuple[int, str, str]:
    return run_script("evaluate", *CUB, f"dataset.root={birds}", f"run_dir={birds.parent / 'run'}", *overrides)


@pytest.mark.slow
def test_good_photos_work(run_script: Run, birds: Path) -> None:
    assert of_birds(run_script, birds)[0] == 0


def test_a_root_that_is_not_there(run_script: Run, birds: Path) -> None:
    found = mistake(of_birds(run_script, birds.parent / "nowhere"))
    says(found, "no CUB-200-2011 at", "nowhere", "dataset.root", "make data-cub")
    says(mistake(of_birds(run_script, birds, "dataset.root=null")), "dataset.root is null")


@pytest.mark.parametrize("name", ["cub", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cars196", "sop"))])
def test_a_root_of_another_layout(run_script: Run, birds: Path, name: str) -> None:
    shutil.rmtree(birds / "images")
    (birds / "images.txt").rename(birds / "pictures.txt")
    says(mistake(of_birds(run_script, birds, f"dataset={name}")), str(birds), "expected", f"make data-{name}")
    assert not (birds.parent / "run").exists()


@pytest.mark.slow
def test_an_index_of_absent_files(run_script: Run, birds: Path) -> None:
    (birds / "images" / "101.C" / "0.jpg").unlink()
    code, _, err = of_birds(run_script, birds)
    assert code == 0  # a partial copy works and says so
    says(err, "11 of 11788 images", "1 that its files name are absent, such as images/101.C/0.jpg")
    shutil.rmtree(birds / "images")
    says(mistake(of_birds(run_script, birds)), "none of its 12 images is there", "images/001.C/0.jpg", "dataset.root")


@pytest.mark.slow
def test_a_truncated_photo(run_script: Run, birds: Path) -> None:
    photo = birds / "images" / "102.C" / "2.jpg"
    photo.write_bytes(photo.read_bytes()[:-500])
    found = mistake(of_birds(run_script, birds))
    says(found, str(photo), "truncated", "copy it again, or delete it")
    photo.unlink()
    assert of_birds(run_script, birds)[0] == 0  # as the message said, without another run_dir


@pytest.mark.slow
def test_a_grey_photo_and_a_box_past_the_edge_work(run_script: Run, birds: Path) -> None:
    PIL.Image.new("L", (50, 40), 90).save(birds / "images" / "101.C" / "1.jpg")
    code, _, err = of_birds(run_script, birds, "metric=[energy_pointing_game]", "pairs.count=6")
    assert code == 0, err
    records = read_records(birds.parent / "run")
    chance = records[records["metric"] == "energy_pointing_game_chance"].set_index("query_id")["value"]
    # resized by 0.8 and cut by 4 columns, the box 25..50, 10..40 becomes 16..32, 8..32, and that of 10 columns 16..24
    assert chance["6"] == pytest.approx(24 * 16 / 32**2)
    assert chance["8"] == pytest.approx(24 * 8 / 32**2)
    assert chance.notna().all()


def test_an_unknown_class_split(run_script: Run, birds: Path) -> None:
    says(
        mistake(of_birds(run_script, birds, "dataset.split=half")),
        "no split 'half'",
        "zero_shot, closed_set, few_shot, none",
    )


def test_evidence_where_there_is_none(run_script: Run, birds: Path) -> None:
    found = mistake(of_birds(run_script, birds, "pairs.kinds=[partial_match]"))
    says(found, "partial_match", "only dataset=planted")


# Degenerate pairs and maps: flagged, NaN, never pretty


@dataclass(frozen=True)
class Constant:
    """An explainer that returns one value everywhere."""

    value: float = 0.0

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        return torch.full((len(pairs), 4, 4), self.value)


@dataclass(frozen=True)
class Spotted:
    """The exact decomposition with one broken value in the second pair."""

    value: float

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        maps = SimilarityDecomposition()(model, encoded, pairs).clone()
        maps[1, 0, 0] = self.value
        return maps


@dataclass(frozen=True)
class Fewer:
    """An explainer that loses a pair."""

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        return SimilarityDecomposition()(model, encoded, pairs)[1:]


METRICS = {
    "deletion": Perturbation("deletion", steps=Midpoint(4), min_range=1e-9),
    "pointing": PointingGame(),
    "energy": EnergyPointingGame(),
}


@pytest.fixture(scope="module")
def model() -> SimilarityModel:
    return small()


@pytest.fixture
def batch() -> PairBatch:
    draw = torch.Generator().manual_seed(0)
    query, reference = (torch.rand(3, 3, 32, 32, generator=draw) for _ in range(2))
    foreground = torch.zeros(3, 32, 32, dtype=torch.bool)
    foreground[:, 8:20, 8:20] = True
    return PairBatch(("a", "b", "c"), ("x", "y", "z"), query, reference, masks={"foreground": foreground})


def flags(model: SimilarityModel, batch: PairBatch, explainer: object, metrics: object = None) -> dict[str, list[str]]:
    """Flags of each metric, one a pair; a flag goes with NaN and NaN with a flag."""
    named = {"it": explainer}
    (shard,) = evaluate(model, Similarity(), [batch], named, metrics or METRICS, "toy")  # type: ignore[arg-type]
    found: dict[str, list[str]] = {}
    for record in shard.records:
        assert (record.flag != "") == (record.value != record.value)
        found.setdefault(record.metric, []).append(record.flag)
    return found


def test_good_pairs_have_no_flag(model: SimilarityModel, batch: PairBatch) -> None:
    found = flags(model, batch, SimilarityDecomposition())
    assert found.keys() >= METRICS.keys()
    assert all(flag == ["", "", ""] for flag in found.values())


@pytest.mark.parametrize("same", ["id", "pixels"])
def test_a_self_pair_is_flagged_in_every_record(model: SimilarityModel, batch: PairBatch, same: str) -> None:
    references = batch.reference.clone()
    references[1] = batch.query[1]
    twin = replace(batch, reference=references)
    found = flags(
        model, replace(twin, reference_ids=("x", "b", "z")) if same == "id" else twin, SimilarityDecomposition()
    )
    assert all(flag == ["", "self_pair", ""] for flag in found.values())


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5])
def test_a_constant_map_is_flagged(model: SimilarityModel, batch: PairBatch, value: float) -> None:
    found = flags(model, batch, Constant(value))
    assert all(found[metric] == ["constant_map"] * 3 for metric in METRICS)
    assert found["s_full"] == ["", "", ""]  # the pair itself is sound


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_map_with_a_broken_value_is_flagged_alone(model: SimilarityModel, batch: PairBatch, value: float) -> None:
    found = flags(model, batch, Spotted(value))
    assert all(found[metric] == ["", "nonfinite_map", ""] for metric in METRICS)


@pytest.mark.parametrize("broken", [Fewer(), lambda *_: torch.zeros(3, 4), lambda *_: torch.zeros(3, 2, 4, 4)])
def test_an_explainer_that_loses_a_pair_is_refused(model: SimilarityModel, batch: PairBatch, broken: object) -> None:
    with pytest.raises((UserError, TypeError), match=r"for 3 pairs: expected \(batch, rows, cols\)|Type-check"):
        flags(model, batch, broken)


def test_an_empty_mask_is_flagged_for_the_metrics_that_need_it(model: SimilarityModel, batch: PairBatch) -> None:
    batch.masks["foreground"][2] = False
    found = flags(model, batch, SimilarityDecomposition())
    assert found["pointing"] == found["energy"] == ["", "", "empty_mask"]
    assert found["deletion"] == ["", "", ""]


def test_a_map_without_a_positive_part_has_no_energy_to_share(model: SimilarityModel, batch: PairBatch) -> None:
    found = flags(model, batch, lambda *_: -1 - torch.arange(16.0).reshape(1, 4, 4).expand(3, -1, -1))
    assert found["energy"] == ["no_positive_part"] * 3
    assert found["pointing"] == ["", "", ""]


def test_a_range_of_zero_is_flagged(model: SimilarityModel, batch: PairBatch) -> None:
    batch.query[0] = 0.5  # its own mean colour: there is nothing to delete
    found = flags(model, batch, Chance(), {"deletion": replace(METRICS["deletion"], min_range=1e-6)})
    assert found["deletion"][0] == "zero_range"


def test_a_score_that_is_no_number_is_flagged(batch: PairBatch) -> None:
    broken = small()
    nn.init.constant_(broken.trunk.layers[0].weight, torch.nan)
    found = flags(broken, batch, SimilarityDecomposition())
    assert found["s_full"] == ["nonfinite_value"] * 3
    assert all(found[metric] == ["nonfinite_map"] * 3 for metric in METRICS)


def test_explain_makes_no_pretty_map_of_an_image_with_itself(model: SimilarityModel, batch: PairBatch) -> None:
    found = explain(model, batch.query[0], batch.query[0])
    assert set(found.flags.values()) == {"self_pair"}
    for maps in (found.query_maps, found.reference_maps):
        assert maps.keys() == found.flags.keys()
        assert not any(each.any() for each in maps.values())
    sound = explain(model, batch.query[0], batch.reference[0])
    assert sound.flags == {}
    assert all(each.abs().max() > 0.5 for each in sound.query_maps.values())


def test_explain_says_what_is_wrong_with_a_picture(model: SimilarityModel, tmp_path: Path) -> None:
    good = torch.rand(3, 32, 32)
    with pytest.raises(UserError, match=r"absent\.jpg is missing: check the path"):
        explain(model, tmp_path / "absent.jpg", good)
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"cannot read .*text\.jpg"):
        explain(model, good, tmp_path / "text.jpg")
    with pytest.raises(UserError, match=r"query is of int64: give uint8, uint16, bool, or floats in \[0, 1\]"):
        explain(model, torch.zeros(3, 32, 32, dtype=torch.int64), good)


# Forward passes

PASSES = {
    "passes.mode=fast": ("passes.mode is 'fast'", "one of auto, eager, compiled, half, openvino"),
    "passes.batch=0": ("passes.batch is 0", "at least 1 or null"),
    "passes.batch=many": ("passes.batch is 'many'", "an integer of at least 1 or null"),
    "passes.tolerance=exact": ("passes.tolerance is 'exact'", "a number"),
    "passes.tolerance=-5": ("passes.tolerance is -5", "a number of at least 0"),
    "passes.payback=null": ("passes.payback is null", "a number"),
    "+passes.threads=4": ("passes has no setting 'threads'", "mode, batch"),
    "passes.threads=4": ("no setting 'passes.threads'", "check its name"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("override", "words"), PASSES.items(), ids=PASSES)
def test_a_wrong_setting_of_the_passes(run_script: Run, tmp_path: Path, override: str, words: tuple[str, ...]) -> None:
    says(mistake(run_script("evaluate", *TINY, f"run_dir={tmp_path / 'run'}", override)), *words)


@pytest.mark.parametrize("share", ["2.0", "-0.1", "1.001", "nan"])
def test_a_share_is_between_none_and_all(run_script: Run, tmp_path: Path, share: str) -> None:
    found = mistake(run_script("evaluate", *TINY, f"run_dir={tmp_path / 'run'}", f"full_share={share}"))
    says(found, f"share is {share}", "between 0 and 1")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_mode_whose_package_is_absent(run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    call = ("evaluate", *TINY, f"run_dir={tmp_path / 'run'}")
    says(mistake(run_script(*call, "passes.mode=openvino")), "passes.mode=openvino cannot be used", "choose auto")
    assert not (tmp_path / "run").exists()
    assert run_script(*call)[0] == 0  # the corrected call is not refused


@pytest.mark.parametrize(
    ("given", "words"),
    [("pairs.count=-3", ("count is -3", "at least 1")), ("pairs=mine.csv", ("queries of its own", "pairs.count"))],
)
def test_the_queries_of_an_intervention_are_checked(
    run_script: Run, tmp_path: Path, given: str, words: tuple[str, ...]
) -> None:
    small = (
        "experiment=planted",
        "dataset.size=32",
        "dataset.train_per_class=1",
        "dataset.test_per_class=2",
        UNTRAINED,
    )
    says(mistake(run_script("intervene", *small, "model.image_size=32", given, f"run_dir={tmp_path / 'run'}")), *words)
    assert not (tmp_path / "run").exists()
