"""Which models may be evaluated: judged by hand, by properties, and end to end through the scripts and the report."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import read_json, write_json
from sfam_bench.core.protocol import CHOICES, FAULTS, Evaluated, Protocol
from sfam_bench.report.tables import protocols
from sfam_bench.report.tables.protocols import OUTSIDE
from sfam_bench.runs.manifests import read_manifest
from sfam_bench.runs.reader import read_records
from sfam_bench.runs.store import RunStore
from tests.scripts import DATA, Run, refused

Origin = dict[str, Any]
BIRDS = Evaluated("cub", "aaaa", frozenset({3, 4}), closed=False)
CLASSES = st.sets(st.integers(0, 9), min_size=1)


def origin(chosen: str = "last epoch", source: str = "sfam_bench", **split: Any) -> Origin:
    known = {"dataset": "cub", "name": "zero-shot", "hash": "aaaa", "train_classes": [1, 2]}
    return {"source": source, "chosen": chosen, "split": {**known, **split}}


def refusal(found: Origin, evaluated: Evaluated = BIRDS, allow: list[str] | None = None) -> str:
    with pytest.raises(UserError) as refused:
        Protocol(allow or []).admit("m.safetensors", found, evaluated)
    text = str(refused.value)
    assert text.startswith("m.safetensors")
    assert "\n" not in text
    return text


ADMITTED: dict[str, Origin] = {
    "nothing known": {},
    "ImageNet": {"weights": "ImageNet (timm/resnet50.tv_in1k)", "random": []},
    "last epoch": origin(),
    "validation": origin("validation"),
    "foreign": {"source": "Proxy-Anchor", "chosen": "unknown"},
    "ours without facts": {"source": "sfam_bench", "chosen": "unknown"},
    "the same classes of other birds": origin(dataset="nabirds", hash="bbbb", train_classes=[3, 4]),
    "fewer images": origin(hash="bbbb"),
}


@pytest.mark.parametrize("found", ADMITTED.values(), ids=ADMITTED)
def test_what_keeps_to_the_protocol_is_admitted_and_said(found: Origin) -> None:
    facts = Protocol().admit("m", found, BIRDS)
    assert facts["allowed"] == {}
    assert (facts["chosen"], facts["source"]) == (found.get("chosen"), found.get("source"))
    assert facts["weights"] == found.get("weights")
    assert ("trained_on" in facts) == ("split" in found)
    assert json.loads(json.dumps(facts)) == facts


def test_what_it_was_trained_on_is_said_without_a_list_of_classes() -> None:
    split = {"dataset": "cub", "name": "zero-shot", "hash": "aaaa", "classes": 2}
    assert Protocol().admit("m", origin(), BIRDS)["trained_on"] == split


WRONG: dict[str, tuple[Origin, Evaluated, tuple[str, ...], tuple[str, ...]]] = {
    "chosen on test": (origin("test"), BIRDS, ("test_selected",), ("chosen on the test classes",)),
    "foreign, chosen on test": (
        *({"source": "Proxy-Anchor", "chosen": "test"}, BIRDS),
        *(("test_selected",), ("chosen on the test classes",)),
    ),
    "trained on one of them": (
        *(origin(train_classes=[1, 2, 3]), BIRDS),
        *(("closed_set",), ("trained on 1 of the 2 classes evaluated;",)),
    ),
    "under another split": (
        *(origin(train_classes=[3, 4], hash="bbbb"), BIRDS),
        *(("closed_set",), ("2 of the 2 classes", "another split (hash bbbb)")),
    ),
    "renamed": (
        *(origin(train_classes=[4], dataset="birds"), BIRDS),
        *(("closed_set",), ("trained on 1 of the 2",)),
    ),
    "a closed-set split": (
        *({}, Evaluated("cub", "cccc", frozenset({3}), closed=True)),
        *(("closed_set",), ("the same classes on both sides",)),
    ),
    "both": (
        *(origin("test", train_classes=[3]), BIRDS),
        *(("test_selected", "closed_set"), ("chosen on the test classes", "trained on 1 of the 2 classes")),
    ),
    "random": (
        *({"weights": "random", "random": ["trunk"]}, BIRDS),
        *(("random_weights",), ("RANDOM WEIGHTS;",)),
    ),
    "a random head": (
        *({"weights": "ImageNet (timm/resnet50.tv_in1k)", "random": ["head"]}, BIRDS),
        *(("random_weights",), ("RANDOM WEIGHTS in its head",)),
    ),
}


@pytest.mark.parametrize(("found", "evaluated", "names", "words"), WRONG.values(), ids=WRONG)
def test_what_breaks_the_protocol_is_refused_and_admitted_where_it_is_named(
    found: Origin, evaluated: Evaluated, names: tuple[str, ...], words: tuple[str, ...]
) -> None:
    text = refusal(found, evaluated)
    assert [word for word in (*words, f"protocol.allow=[{','.join(names)}]") if word not in text] == []
    others = [name for name in FAULTS if name not in names]
    assert refusal(found, evaluated, others) == text
    facts = Protocol([*FAULTS]).admit("m", found, evaluated)
    assert tuple(facts["allowed"]) == names
    said = " ".join(facts["allowed"].values())
    assert [word.strip(";") for word in words if word.strip(";") not in said] == []


def test_one_fault_of_two_is_not_enough() -> None:
    both = WRONG["both"][0]
    text = refusal(both, allow=["test_selected"])
    assert "trained on" in text
    assert "chosen" not in text
    assert "protocol.allow=[test_selected,closed_set]" in text


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"holds 'test-selected': choose from test_selected, closed_set, random_weights"
    ):
        Protocol(["closed_set", "test-selected"])


@given(CLASSES, CLASSES, st.booleans(), st.booleans())
def test_closed_set_is_a_class_in_common_of_the_same_data_set(
    trained: set[int], evaluated: set[int], same_name: bool, same_hash: bool
) -> None:
    found = origin(
        dataset="cub" if same_name else "cars", hash="aaaa" if same_hash else "bbbb", train_classes=sorted(trained)
    )
    measured = Evaluated("cub", "aaaa", frozenset(evaluated), closed=False)
    facts = Protocol([*FAULTS]).admit("m", found, measured)
    assert bool(facts["allowed"]) == bool((same_name or same_hash) and trained & evaluated)


DAMAGED: dict[str, tuple[Origin, str]] = {
    "no choice": ({"source": "sfam_bench"}, "'chosen' is None"),
    "an unknown choice": (origin("best"), "'chosen' is 'best', not one of last epoch, validation, test, unknown"),
    "a choice of another type": ({**origin(), "chosen": ["test"]}, "'chosen' is ['test']"),
    "no source": ({"chosen": "unknown"}, "'source' is None"),
    "ours without a split": ({"source": "sfam_bench", "chosen": "last epoch"}, "no 'split'"),
    "a split that is a text": ({**origin(), "split": "zero-shot"}, "'split' is 'zero-shot'"),
    "a split without its hash": (origin(hash=None), "'split.hash' is None"),
    "an empty name": (origin(dataset=""), "'split.dataset' is ''"),
    "no classes": (origin(train_classes=[]), "'split.train_classes'"),
    "classes by name": (origin(train_classes=["1", "2"]), "'split.train_classes'"),
    "classes that are truths": (origin(train_classes=[True]), "'split.train_classes'"),
    "classes that are no list": (origin(train_classes=2), "'split.train_classes'"),
    "names that are no list": (origin(class_names="jay"), "'split.class_names'"),
    "no number": (origin(train_classes=[1.0, float("nan")]), "'split.train_classes'"),
}


@pytest.mark.parametrize(("found", "word"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_origin_is_refused_whatever_is_allowed(found: Origin, word: str) -> None:
    text = refusal(found, allow=[*FAULTS])
    assert word in text
    assert "restore the JSON" in text


def test_the_classes_evaluated_are_those_of_the_images() -> None:
    index = pd.DataFrame({"label": np.array([1, 1, 2, 3]), "split": ["train", "train", "test", "test"]}, list("abcd"))
    index["class_name"] = ["jay", "jay", "tern", "wren"]
    found = Evaluated.of("cub", "aaaa", index, ["a", "c"])
    assert found == Evaluated("cub", "aaaa", frozenset({1, 2}), closed=False, names=frozenset({"jay", "tern"}))
    assert all(type(label) is int for label in found.classes)
    shared = index.assign(label=[1, 1, 1, 3])
    other = Evaluated("cub", "aaaa", frozenset({3}), closed=True, names=frozenset({"wren"}))
    assert Evaluated.of("cub", "aaaa", shared, ["d"]) == other


def test_classes_whose_numbers_have_moved_are_known_by_their_names() -> None:
    trained = {"train_classes": [0, 1], "class_names": ["jay", "tern"]}
    moved = Evaluated("cub", "cccc", frozenset({1, 2}), closed=False, names=frozenset({"tern", "wren"}))
    assert "trained on 1 of the 2 classes" in refusal(origin(**trained), moved)
    unseen = Evaluated("cub", "cccc", frozenset({0, 1}), closed=False, names=frozenset({"auk", "wren"}))
    assert Protocol().admit("m", origin(**trained), unseen)["allowed"] == {}
    older = {"train_classes": [0, 1]}  # of a file without names, the numbers are all that is known
    assert "trained on 2 of the 2 classes" in refusal(origin(**older), unseen)


# End to end

SMALL = [*DATA, "pairs.kinds=[random_positive]", "pairs.count=4", "batch_size=3", "steps.intervals=4"]
FEWER = [*SMALL, "explainer=[sfam,similarity_decomposition,lafam]", "metric=[deletion]", "min_range=-9.0"]
ALLOWED = "protocol.allow=[test_selected,closed_set]"


@pytest.fixture(scope="module")
def trained(run_script: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the training script."""
    run = tmp_path_factory.mktemp("trained") / "run"
    code, _, err = run_script("train", *DATA, "train.epochs=1", "train.per_class=2", f"run_dir={run}")
    assert code == 0, err
    return run / "model.safetensors"


def copied(trained: Path, folder: Path, **changed: Any) -> Path:
    """The same weights with other facts beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(trained.read_bytes())
    write_json(folder / "model.json", {**facts(trained), **changed})
    return folder / "model.safetensors"


def facts(trained: Path) -> Mapping[str, Any]:
    return read_json(trained.with_suffix(".json"), "")


@pytest.mark.slow
def test_a_checkpoint_of_ours_is_admitted_on_the_other_classes_only(
    run_script: Run, trained: Path, tmp_path: Path
) -> None:
    code, out, err = run_script("embed", *DATA, f"model.checkpoint={trained}")
    assert code == 0, err
    found = json.loads(out)["protocol"]
    assert (found["source"], found["chosen"], found["allowed"]) == ("sfam_bench", "last epoch", {})
    assert found["trained_on"]["classes"] == 96
    for split, classes in {"train": 96, "all": 144}.items():
        words = (str(trained), f"trained on 96 of the {classes} classes", "protocol.allow=[closed_set]")
        refused(run_script("embed", *DATA, f"model.checkpoint={trained}", f"split={split}"), *words)
        call = ("evaluate", *FEWER, f"model.checkpoint={trained}", f"split={split}", f"run_dir={tmp_path / 'run'}")
        refused(run_script(*call), *words)
    assert not (tmp_path / "run").exists()
    assert run_script("embed", *DATA, "split=all")[0] == 0  # without training there is nothing to leak


@pytest.mark.slow
@pytest.mark.parametrize("script", ["evaluate", "part_agreement", "embed"])
def test_a_test_selected_checkpoint_is_refused_by_every_script(
    run_script: Run, trained: Path, tmp_path: Path, script: str
) -> None:
    checkpoint = copied(trained, tmp_path / "model", chosen="test")
    call = [script, *DATA, f"model.checkpoint={checkpoint}", f"run_dir={tmp_path / 'run'}"]
    refused(run_script(*call), str(checkpoint), "chosen on the test classes", "protocol.allow=[test_selected]")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_only_the_right_word_lets_it_pass(run_script: Run, trained: Path, tmp_path: Path) -> None:
    call = ["embed", *DATA, f"model.checkpoint={copied(trained, tmp_path, chosen='test')}"]
    refused(run_script(*call, "protocol.allow=[closed_set]"), "chosen on the test classes")
    refused(
        run_script(*call, "protocol.allow=[tests]"),
        "protocol.allow holds 'tests'",
        "test_selected, closed_set, random_weights",
    )
    refused(run_script(*call, "protocol.allow=test_selected"), "protocol.allow is", "a list")
    refused(run_script(*call, "protocol=null"), "chosen on the test classes")
    code, out, err = run_script(*call, "protocol.allow=[test_selected]")
    assert code == 0, err
    assert json.loads(out)["protocol"]["allowed"] == {"test_selected": "it was chosen on the test classes"}


@pytest.mark.slow
def test_a_checkpoint_without_json_is_admitted_as_unknown_and_a_broken_one_refused(
    run_script: Run, trained: Path, tmp_path: Path
) -> None:
    checkpoint = copied(trained, tmp_path)
    call = ["embed", *DATA, f"model.checkpoint={checkpoint}"]
    checkpoint.with_suffix(".json").unlink()
    code, out, err = run_script(*call)
    assert code == 0, err
    assert json.loads(out)["protocol"]["chosen"] == "unknown"
    lost = {**facts(trained), "split": {"name": "disjoint combinations"}}
    spoilt = {"{": "cannot read", json.dumps({**facts(trained), "chosen": "best"}): "is damaged"}
    for broken, said in {**spoilt, json.dumps(lost): "is damaged"}.items():
        checkpoint.with_suffix(".json").write_text(broken)
        refused(run_script(*call, ALLOWED), str(tmp_path), said, "train again")


UNTRAINED: dict[str, tuple[tuple[str, ...], str]] = {
    "planted_net": ((), "RANDOM WEIGHTS"),
    "a backbone by name": (
        ("model=backbone", "model.trunk.name=resnet10t", "model.image_size=32"),
        "RANDOM WEIGHTS",
    ),
    "code of one's own": (("model.trunk._target_=tests.app.own_trunks.untrained",), "RANDOM WEIGHTS"),
    "a head of its own": (
        ("model.trunk._target_=tests.app.own_trunks.known", "head=linear", "head.dims=4"),
        "RANDOM WEIGHTS in its head",
    ),
    "a head of one's own code": (
        ("model.trunk._target_=tests.app.own_trunks.known", "head=linear", "head._target_=tests.app.own_trunks.head"),
        "RANDOM WEIGHTS in its head",
    ),
}


@pytest.mark.parametrize(
    ("model", "why"),
    [
        pytest.param(*case, id=name, marks=[] if name in ("planted_net", "a head of its own") else [pytest.mark.slow])
        for name, case in UNTRAINED.items()
    ],
)
def test_random_weights_are_refused_unless_allowed(run_script: Run, model: tuple[str, ...], why: str) -> None:
    call = ["embed", *DATA, *model]
    refused(run_script(*call, "protocol.allow=[]"), f"{why}; take", "protocol.allow=[random_weights]")
    code, out, err = run_script(*call, "protocol.allow=[random_weights]")
    assert code == 0, err
    assert json.loads(out)["protocol"]["allowed"] == {"random_weights": why}


def test_code_of_ones_own_whose_weights_do_not_depend_on_the_seed_is_admitted(run_script: Run) -> None:
    target = "tests.app.own_trunks.known"
    code, out, err = run_script("embed", *DATA, f"model.trunk._target_={target}", "protocol.allow=[]")
    assert code == 0, err
    assert json.loads(out)["protocol"]["weights"] == "of tests.app.own_trunks.known"


@pytest.mark.slow
def test_every_table_of_random_weights_says_so(run_script: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_script("evaluate", *FEWER, f"run_dir={run}")[0] == 0
    code, out, err = run_script("report", f"runs=[{run}]", f"out={tmp_path / 'report'}")
    assert code == 0, err
    assert f"{OUTSIDE}: RANDOM WEIGHTS" in " ".join(out.split())
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("RANDOM WEIGHTS") >= page.count('<figure class="table">') > 0
    for path in [*(tmp_path / "report").glob("*.md"), *(tmp_path / "report").glob("*.tex")]:
        assert "RANDOM WEIGHTS" in path.read_text(), path


@pytest.fixture(scope="module")
def allowed(run_script: Run, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model that was chosen on the test classes and trained on a class of them."""
    home = tmp_path_factory.mktemp("allowed")
    split = facts(trained)["split"]
    split = {**split, "train_classes": [*split["train_classes"], 100]}
    checkpoint = copied(trained, home / "model", chosen="test", split=split)
    call = ["evaluate", *FEWER, f"model.checkpoint={checkpoint}", f"run_dir={home / 'run'}"]
    refused(run_script(*call), "chosen on the test classes", "trained on 1 of the 48 classes")
    code, _, err = run_script(*call, ALLOWED)
    assert code == 0, err
    return home / "run"


@pytest.mark.slow
def test_what_was_allowed_is_part_of_the_run(run_script: Run, allowed: Path) -> None:
    kept = read_manifest(allowed)["protocol"]
    assert list(kept["allowed"]) == ["test_selected", "closed_set"]
    assert kept["weights"].startswith("trained here, model.safetensors (sha256 ")
    checkpoint = allowed.parent / "model" / "model.safetensors"
    call = ["evaluate", *FEWER, f"model.checkpoint={checkpoint}", f"run_dir={allowed}", "resume=true"]
    assert run_script(*call, ALLOWED)[0] == 0
    facts_file = checkpoint.with_suffix(".json")
    before = facts_file.read_text()
    try:  # a run cannot become a better one by what is written beside its weights
        write_json(facts_file, {**facts(checkpoint), "chosen": "validation"})
        refused(run_script(*call, ALLOWED), "another config")
    finally:
        facts_file.write_text(before)


@pytest.mark.slow
def test_every_table_says_what_was_allowed(run_script: Run, trained: Path, allowed: Path, tmp_path: Path) -> None:
    good = tmp_path / "good"
    call = ["evaluate", *FEWER, f"model.checkpoint={trained}", "model.name=other", f"run_dir={good}"]
    assert run_script(*call)[0] == 0
    code, out, err = run_script("report", f"runs=[{allowed},{good}]", f"out={tmp_path / 'report'}")
    assert code == 0, err
    why = "it was chosen on the test classes; it was trained on 1 of the 48 classes evaluated"
    remark = f"{OUTSIDE}: planted · planted_net: {why}."
    flat = " ".join(out.split())
    assert flat.count(f"{OUTSIDE}: {why}") == 1
    assert flat.count("Training: last epoch, on planted, disjoint combinations: 96 classes") == 1
    folder = tmp_path / "report"
    page = (folder / "index.html").read_text()
    clean = [folder / f"table-planted-other-similarity.{kind}" for kind in ("md", "tex")]
    assert [path for path in clean if OUTSIDE in path.read_text()] == []
    assert "by sfam_bench" in clean[0].read_text()
    for name in ("table-planted-planted-net-similarity", "meta"):
        markdown, latex = ((folder / f"{name}.{kind}").read_text() for kind in ("md", "tex"))
        assert markdown.count(remark) == markdown.count("\n## ") > 0
        captions = [line for line in latex.splitlines() if line.startswith(r"\caption")]
        assert captions
        assert [line for line in captions if "chosen on the test classes" not in line] == []
    figures = page.split('<figure class="table">')[1:]
    clean_section = page.split('id="planted-other-similarity"')[1].split("</section>")[0]
    assert page.count(remark) == len(figures) - clean_section.count('<figure class="table">')


@pytest.mark.slow
def test_runs_of_before_are_still_reported(run_script: Run, allowed: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for path in allowed.rglob("*"):
        target = old / path.relative_to(allowed)
        target.mkdir(parents=True, exist_ok=True) if path.is_dir() else target.write_bytes(path.read_bytes())
    manifest = read_manifest(old)
    del manifest["protocol"]
    RunStore(old).write_manifest(manifest)
    assert len(read_records(old)) == len(read_records(allowed))
    code, out, err = run_script("report", f"runs=[{old}]", f"out={tmp_path / 'report'}")
    assert code == 0, err
    assert "Training" not in out


@pytest.mark.parametrize("chosen", CHOICES)
def test_every_choice_has_its_words_in_the_table(chosen: str) -> None:
    words = protocols.describe_training(Protocol([*FAULTS]).admit("m", origin(chosen), BIRDS))
    assert words == f"{CHOICES[chosen]}, on cub, zero-shot: 2 classes (hash aaaa), by sfam_bench"


def test_the_words_of_models_of_which_less_is_known() -> None:
    old = {"source": None, "chosen": None, "allowed": {}}
    assert protocols.describe_training(old) == "none here, initial weights"
    image_net = {"weights": "ImageNet (timm/resnet50)", "random": []}
    facts = Protocol().admit("m", image_net, BIRDS)
    assert protocols.describe_training(facts) == "none here, weights: ImageNet (timm/resnet50)"
    foreign = {"source": "Proxy-Anchor", "chosen": "unknown"}
    assert (
        protocols.describe_training(Protocol().admit("m", foreign, BIRDS))
        == "not known how it was chosen, by Proxy-Anchor"
    )
    assert protocols.describe_training(None) == ""
