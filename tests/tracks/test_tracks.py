"""Tracks: what is frozen stays so, code and maps give the same row, and cheats are refused or marked."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from sfam_bench.app.settings import signature
from sfam_bench.app.tracks import build_parts, open_track, read_method
from sfam_bench.core.errors import UserError
from sfam_bench.core.files import write_json
from sfam_bench.core.protocol import Evaluated, list_faults
from sfam_bench.datasets.base import split_hash
from sfam_bench.datasets.planted.dataset import Planted
from sfam_bench.datasets.planted.hidden import Hidden
from sfam_bench.evaluation.intervention import intervention_check, intervention_facts
from sfam_bench.explainers.controls import Chance, LaFAM
from sfam_bench.explainers.saved_maps import pair_file, write_maps
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.metrics.shared.effects import measure_effects
from sfam_bench.models.checkpoint import content_digest, weights
from sfam_bench.tracks.card import SubmissionCard
from sfam_bench.tracks.maps import Maps, compute_maps, read_maps
from sfam_bench.tracks.measure import control, describe_values, measure, open_scene
from sfam_bench.tracks.submission import Code, Submission, make_row, summarise_row
from sfam_bench.tracks.track import FROZEN, Track, folder_digest, list_ids, list_tracks, read_spec
from tests.tracks.conftest import KEY
from tests.tracks.rows import check_row

CARD = SubmissionCard("mine", ("query", "reference"), "Somebody, 2026", "https://example.org/mine")
REAL = list_tracks()


@pytest.fixture(scope="module")
def maps(opened: Track) -> Maps:
    return compute_maps(opened, SFAM())


def row_of(track: Track, maps: Maps, name: str = "mine") -> dict[str, Any]:
    values = measure(track, {name: maps})[name]
    submission = replace(Submission.of(track, None, maps, values), card=replace(CARD, name=name))
    return make_row(submission, track, values, control(track, {name: maps}, {})[name], "maps")


# What is frozen


@pytest.mark.parametrize("file", ["track.yaml", "pairs.csv", "chance.csv", "model.safetensors", "model.json"])
def test_a_changed_byte_is_found(file: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny, tmp_path / "frozen")
    monkeypatch.setattr("sfam_bench.tracks.track.FROZEN", tmp_path / "frozen")
    assert read_spec("tiny-v1").digest == folder_digest(tiny / "tiny-v1")
    content = bytearray((path := tmp_path / "frozen" / "tiny-v1" / file).read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="another digest"):
        read_spec("tiny-v1")


def test_other_weights_and_other_images_are_refused(tiny: Path) -> None:
    spec = read_spec("tiny-v1")
    dataset, model, target, metrics = build_parts(spec, None, None)
    with pytest.raises(UserError, match="the images of tiny-v1 are not those"):
        Track.of(spec, replace(dataset, clutter=2), model, target, metrics)
    next(model.parameters()).data[0] += 1e-6
    with pytest.raises(UserError, match="the weights of tiny-v1 are not those"):
        Track.of(spec, dataset, model, target, metrics)


def test_an_unknown_track_is_refused() -> None:
    with pytest.raises(UserError, match=r"choose .*planted-v1"):
        read_spec("planted-v2")


@pytest.mark.parametrize("name", REAL)
def test_a_frozen_track_states_every_setting_and_no_machine(name: str) -> None:
    spec = read_spec(name)
    for node in spec.settings["metrics"].values():
        fields = signature(node["_target_"]) or {}
        stated = {*node} - {"_target_"}
        assert stated <= {*fields}, node["_target_"]
        # what was added since must be off by default, so that the values of a frozen track stay
        assert not any(fields[name].default for name in {*fields} - stated), node["_target_"]
    for file in spec.folder.iterdir():
        assert file.stat().st_size < 2e6
        assert not any(place in file.read_bytes() for place in (b"/root", b"/home", b"/work", b"/tmp"))
    assert spec.settings["headline"] in spec.settings["metrics"]
    assert len(spec.chance) == len(spec.pairs)
    assert not spec.pairs.duplicated(["query_id", "reference_id"]).any()


@pytest.mark.parametrize("name", [name for name in REAL if name.startswith("planted") and "hidden" not in name])
def test_the_network_of_a_track_was_not_trained_on_its_classes(name: str) -> None:
    dataset, model, _, _ = build_parts(read_spec(name), None, None)
    queries = [*dict.fromkeys(read_spec(name).pairs["query_id"])]
    evaluated = Evaluated.of(dataset.name, split_hash(dataset.index), dataset.index, queries)
    assert list_faults(model.origin, evaluated) == {}
    assert model.origin["split"]["dataset"] == dataset.name


def test_only_the_key_draws_hidden_images(tiny: Path) -> None:
    sizes = {"size": 32, "test_per_class": 1, "train_per_class": 1}
    ours, other, public = Hidden(**sizes, key=KEY), Hidden(**sizes, key=KEY[1:] + "x"), Planted(**sizes)
    name = str(ours.index.index[-1])
    images = [dataset.sample(name).image for dataset in (ours, other, public)]
    assert torch.equal(images[0], Hidden(**sizes, key=KEY).sample(name).image)
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    assert ours.index.equals(public.index)
    assert KEY not in repr(ours)
    with pytest.raises(UserError, match="private to who scores"):
        open_track("tiny-hidden-v1")
    with pytest.raises(UserError, match="not that of tiny-hidden-v1"):
        open_track("tiny-hidden-v1", key=KEY + "x")
    assert len(open_track("tiny-hidden-v1", key=KEY).pairs) == 12


# Values


def test_code_and_its_saved_maps_give_the_same_values(opened: Track, maps: Maps, tmp_path: Path) -> None:
    assert write_maps(tmp_path / "maps", maps.named(opened)) == len(opened.explained)
    read = read_maps(opened, tmp_path / "maps")
    assert read.facts == maps.facts
    found = measure(opened, {"code": maps, "maps": read})
    assert found["code"].table.equals(found["maps"].table)
    assert found["code"].table.notna().all(axis=None)


def test_the_frozen_chance_is_that_of_random_maps(opened: Track) -> None:
    found = measure(opened, {"chance": compute_maps(opened, Chance())})["chance"].table
    np.testing.assert_allclose(found, opened.chance, atol=1e-4)


def test_a_method_sees_ids_and_images_alone(opened: Track) -> None:
    seen = []

    def spy(model: Any, encoded: Any, pairs: Any) -> torch.Tensor:
        seen.append((pairs.masks, pairs.redraws, pairs.keypoints, pairs.others))
        return encoded.query.activations.mean(dim=1)

    compute_maps(opened, spy)
    assert seen
    assert all(answers == ({}, None, None, {}) for answers in seen)


def test_a_method_that_changes_the_network_changes_nothing_for_others(opened: Track) -> None:
    def spoil_weights(model: Any, encoded: Any, pairs: Any) -> torch.Tensor:
        for parameter in model.parameters():
            parameter.data.zero_()
        model.trunk.register_forward_hook(lambda *_: 1 / 0)
        return encoded.query.activations.mean(dim=1)

    before = content_digest(weights(opened.model))
    compute_maps(opened, spoil_weights)
    assert content_digest(weights(opened.model)) == before
    compute_maps(opened, LaFAM())


def test_undefined_values_count_as_chance(opened: Track, maps: Maps) -> None:
    raw = maps.raw.clone()
    raw[0] = 1.0
    row = row_of(opened, Maps(raw))
    assert row["values"]["causal_agreement"][0] is None
    assert row["reasons"]["causal_agreement"] == {"constant_map": 1}
    assert row["summary"]["undefined"] == 1  # a pair, with two values
    assert row["values"]["selectivity_energy"][0] is None
    expected = [opened.chance["causal_agreement"][0], *row["values"]["causal_agreement"][1:]]
    assert row["summary"]["means"]["causal_agreement"]["mean"] == pytest.approx(np.mean(expected), abs=1e-5)


def test_a_control_without_values_marks_nothing(opened: Track, maps: Maps) -> None:
    row = row_of(opened, maps)
    assert "unchecked" in row["summary"]["marks"]  # maps cannot be made for random weights
    nothing = [None] * len(opened.controlled)
    row["controls"] |= {"randomised": nothing, "randomised_exact": [0.1] * len(nothing)}
    assert "random" not in (marks := summarise_row(row)["marks"])
    assert "unchecked" in marks
    assert (
        "unchecked"
        not in summarise_row(row | {"controls": row["controls"] | {"randomised": [0.2] * len(nothing)}})["marks"]
    )
    row["controls"]["follows"] = nothing
    assert "follows" in summarise_row(row)["marks"]


def test_a_method_that_returns_no_tensor_is_refused(opened: Track) -> None:
    with pytest.raises(UserError, match="returned ndarray: expected a tensor"):
        compute_maps(opened, lambda model, encoded, pairs: encoded.query.activations.mean(dim=1).numpy())


def test_a_row_of_somebody_else_stays(opened: Track, maps: Maps, tmp_path: Path) -> None:
    write_json(path := tmp_path / "mine.json", row_of(opened, maps))
    own = Submission.of(opened, None, maps, measure(opened, {"a": maps})["a"], CARD)
    own.check_row(path)
    own.check_row(tmp_path / "absent.json")
    with pytest.raises(UserError, match=r"the row of another method .its paper is 'Somebody, 2026'"):
        replace(own, card=replace(CARD, paper="Somebody else, 2026")).check_row(path)
    with pytest.raises(UserError, match="its class is ''"):
        replace(own, code=Code("", {"_target_": "mine.Mine"})).check_row(path)


def test_hidden_files_of_a_file_manager_do_not_change_a_track(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny / "tiny-v1", tmp_path / "tiny-v1")
    (tmp_path / "tiny-v1" / ".DS_Store").write_bytes(b"x")
    assert folder_digest(tmp_path / "tiny-v1") == folder_digest(tiny / "tiny-v1")


# The reference


def test_a_map_for_every_reference_is_marked_blind(opened: Track, maps: Maps) -> None:
    first = {query: one for (query, _), one in reversed([*zip(list_ids(opened.explained), maps.raw, strict=True)])}
    blind = Maps(torch.stack([first[query] for query, _ in list_ids(opened.explained)]))
    row = row_of(opened, blind)
    assert row["controls"]["follows"] == [0.0] * len(opened.controlled)
    assert "blind" in row["summary"]["marks"]
    assert row["card"]["reads"] == ["query", "reference"]  # whatever the card says
    assert "blind" in row_of(opened, compute_maps(opened, LaFAM()))["summary"]["marks"]
    assert "blind" not in row_of(opened, maps)["summary"]["marks"]


def test_noise_does_not_hide_that_a_map_does_not_follow_the_reference(opened: Track) -> None:
    lafam = compute_maps(opened, LaFAM()).raw
    noise = torch.rand(lafam.shape, generator=torch.Generator().manual_seed(0))
    marks = row_of(opened, Maps(lafam + 0.5 * lafam.mean() * noise))["summary"]["marks"]
    assert "blind" not in marks
    assert "follows" in marks


def test_maps_that_are_the_effects_follow_the_reference(opened: Track) -> None:
    """Each part of the query, painted with its measured effect."""
    made = []
    for frame in opened.batches(opened.explained):
        effects = measure_effects(open_scene(opened, frame), 2)
        made.append(
            torch.einsum(
                "bp,bpij->bij", effects.means, effects.regions.float() / effects.regions.sum((2, 3), True).clamp_min(1)
            )
        )
    row = row_of(opened, Maps(torch.cat(made)))
    assert row["summary"]["means"]["causal_agreement"]["mean"] == pytest.approx(1, abs=1e-3)
    assert row["summary"]["controls"]["follows"]["low"] > 0
    assert row["summary"]["marks"] == ["unchecked"]


# Cheats with maps


def spoil(track: Track, folder: Path, kind: str) -> None:
    (first, second) = (folder / pair_file(*pair) for pair in list_ids(track.explained)[:2])
    if kind == "missing":
        first.unlink()
    elif kind == "strange":
        first.rename(folder / pair_file("test-9999-00", "test-0096-00"))
        shutil.copy(second, first)
    elif kind == "shape":
        np.save(first, np.zeros((3, 5)))
    elif kind == "large":
        np.save(first, np.zeros((2000, 2000), dtype=np.float32))
    elif kind == "nan":
        one = np.load(first)
        one[0, 0] = np.nan
        np.save(first, one)
    elif kind == "pickle":
        np.save(first, np.array([{}]), allow_pickle=True)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "lacks 1 of the 24 maps"),
        ("strange", "is no pair of tiny-v1"),
        ("shape", "save all on one grid"),
        ("large", "give at most 512 x 512 cells"),
        ("nan", "hold NaN or infinity, the first of test-"),
        ("pickle", "cannot read"),
    ],
)
def test_maps_that_do_not_fit_are_refused(opened: Track, maps: Maps, tmp_path: Path, kind: str, message: str) -> None:
    write_maps(tmp_path / "maps", maps.named(opened))
    spoil(opened, tmp_path / "maps", kind)
    with pytest.raises(UserError, match=message):
        read_maps(opened, tmp_path / "maps")


def test_maps_of_the_wrong_pairs_are_refused(opened: Track, maps: Maps) -> None:
    submission = Submission.of(opened, None, maps, measure(opened, {"a": maps})["a"])
    wrong = Maps(maps.raw.roll(1, dims=0))
    with pytest.raises(UserError, match="not those of the submission"):
        submission.check_maps(wrong)
    forged = replace(submission, maps=wrong.facts)  # whose digest was adjusted
    forged.check_maps(wrong)
    with pytest.raises(UserError, match="values do not recompute"):
        forged.check_values(measure(opened, {"a": wrong})["a"].table)


# Cheats with the file


def test_an_edited_file_is_refused_and_a_sealed_forgery_does_not_recompute(
    opened: Track, maps: Maps, tmp_path: Path
) -> None:
    found = measure(opened, {"a": maps})["a"]
    submission = Submission.of(opened, None, maps, found)
    submission.write(path := tmp_path / "submission.json")
    assert Submission.read(path).facts == submission.facts
    facts = json.loads(path.read_text())
    facts["values"]["causal_agreement"] = [1.0] * 12
    path.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="damaged or was edited"):
        Submission.read(path)
    write_json(path, facts)
    with pytest.raises(UserError, match="12 of 24 values do not recompute"):
        Submission.read(path).check_values(found.table)
    write_json(path, {**facts, "values": {"causal_agreement": facts["values"]["causal_agreement"]}})
    with pytest.raises(UserError, match="other metrics or pairs"):
        Submission.read(path).check_values(found.table)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": {"ours": "os.system", "settings": {}, "source": {}}}, "no name of conf/explainer"),
        ({"method": {"ours": 3, "settings": {}, "source": {}}}, "ours is 3, which no run writes"),
        ({"method": {"ours": "sfam", "settings": {}, "source": {}, "path": "x"}}, "path is 'x', which no run"),
        ({"method": {"ours": "sfam"}}, "settings is None, which no run"),
        ({"method": "sfam"}, "ours is None, which no run"),
        ({"values": {"causal_agreement": ["high"]}}, "values is .*, which no run writes"),
        ({"maps": [1]}, "maps is"),
        ({"seconds": "fast"}, "seconds is"),
        ({"format": 2}, "this version reads 1"),
    ],
)
def test_a_file_with_other_content_is_refused_and_runs_nothing(
    opened: Track, maps: Maps, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    facts = Submission.of(opened, Code("sfam", {}), maps, measure(opened, {"a": maps})["a"]).facts
    write_json(tmp_path / "submission.json", facts)
    Submission.read(tmp_path / "submission.json")
    write_json(tmp_path / "submission.json", facts | changed)
    with pytest.raises(UserError, match=message):
        Submission.read(tmp_path / "submission.json")


def test_another_version_of_the_track_is_refused(opened: Track, maps: Maps) -> None:
    submission = Submission.of(opened, None, maps, measure(opened, {"a": maps})["a"])
    submission.check_track(opened)
    for other in ({"digest": "0" * 64}, {"track": "tiny-v2"}):
        with pytest.raises(UserError, match="run it on this track"):
            replace(submission, **other).check_track(opened)


def test_other_code_than_was_entered_is_refused(tmp_path: Path) -> None:
    (tmp_path / "entered.py").write_text(
        "from sfam_bench.explainers.sfam import SFAM\n\n\nclass Entered(SFAM):\n    pass\n"
    )
    entry = read_method(f"{tmp_path}/entered.py:Entered")
    assert entry.code.source.keys() == {"entered.Entered"}
    entry.code.check(entry.code)
    for changed in ({"source": {"entered.Entered": "0" * 64}}, {"settings": {**entry.code.settings, "gamma": 9.0}}):
        with pytest.raises(UserError, match="not the one that was entered"):
            replace(entry.code, **changed).check(entry.code)
    with pytest.raises(UserError, match="no such file"):
        read_method(f"{tmp_path}/absent.py:Entered")
    (tmp_path / "helper_of_entered.py").write_text("def scale(maps):\n    return maps\n")
    (tmp_path / "helped.py").write_text(
        "import torch\nfrom helper_of_entered import scale\nfrom sfam_bench.explainers.sfam import SFAM\n\n\n"
        "class Helped(SFAM):\n    def __call__(self, *given):\n        return scale(super().__call__(*given))\n"
    )
    helped = read_method(f"{tmp_path}/helped.py:Helped").code
    assert helped.source.keys() == {"helped.Helped", "helper_of_entered"}
    (tmp_path / "wave.py").write_text("Entered = int\n")  # the standard library's, if it is not imported yet
    with pytest.raises(UserError, match="has the name of another module, wave"):
        read_method(f"{tmp_path}/wave.py:Entered")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"paper": "<b>Best</b>, 2026"}, "without HTML"),
        ({"paper": "[x](javascript:alert(1))"}, "without HTML"),
        ({"paper": "a|b"}, "plain text"),
        ({"code": "javascript:alert(1)"}, "an https address"),
        ({"code": 'https://example.org/"onclick="x'}, "an https address"),
        ({"name": "../mine"}, "use 1 to 40"),
        ({"name": "<i>"}, "use 1 to 40"),
        ({"reads": ["query", "the answer"]}, "out of query"),
        ({"reads": []}, "reads is empty"),
        ({"reads": "query"}, "give a list"),
        ({"seconds": -1}, "at least 0"),
        ({"seconds": "fast"}, "a number or null"),
        ({"rank": 1}, "has no field 'rank'"),
    ],
)
def test_a_card_holds_plain_text_alone(changed: dict[str, Any], message: str) -> None:
    assert SubmissionCard.of(CARD.facts, "card.yaml") == CARD
    with pytest.raises(UserError, match=message):
        SubmissionCard.of({**CARD.facts, **changed}, "card.yaml")


def test_a_row_whose_summary_was_improved_is_refused(opened: Track, maps: Maps, tmp_path: Path) -> None:
    path = tmp_path / "tiny-v1" / "mine.json"
    row = json.loads(json.dumps(row_of(opened, maps)))
    check_row(row, opened, path)
    better = json.loads(json.dumps(row))
    better["summary"]["means"]["causal_agreement"]["mean"] += 0.1
    unmarked = {**row, "summary": {**row["summary"], "marks": ["none"]}}
    lenient = {**row, "chance": describe_values(opened.chance - 1)}
    turned = {name: {**facts, "higher_is_better": False} for name, facts in row["metrics"].items()}
    for wrong, message in (
        (better, "not that of its values"),
        (unmarked, "not that of its values"),
        ({**lenient, "summary": summarise_row(lenient)}, "chance is not that"),
        ({**row, "classes": [0] * 12}, "classes is not that"),
        ({**row, "metrics": turned}, "metrics is not that"),
        ({**row, "controls": {"change_other": row["controls"]["change_other"]}}, "controls lack change_self"),
        ({**row, "values": {**row["values"], "causal_agreement": [1.0]}}, "causal_agreement has another number"),
        ({**row, "recomputed_from": "nothing"}, "recomputed_from is 'nothing'"),
    ):
        with pytest.raises(UserError, match=message):
            check_row(wrong, opened, path)
    with pytest.raises(UserError, match=r"TRACK/NAME\.json"):
        check_row(row, opened, path.with_name("other.json"))


def test_every_real_track_has_its_own_files() -> None:
    known = yaml.safe_load((FROZEN / "digests.yaml").read_text())
    assert {*known} == {*REAL}
    assert Code("sfam", {"_target_": "x"}).facts["source"] == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in REAL if name.startswith("planted") and "hidden" not in name])
def test_the_network_of_a_planted_track_uses_its_causes(name: str) -> None:
    dataset, model, _, _ = build_parts(read_spec(name), None, None)
    found = intervention_check(lambda images: model.encode(images).embeddings, dataset, 30)
    assert intervention_facts(found, dataset)["fails"] == ""
