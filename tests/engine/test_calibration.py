"""The choice of a mode, with modes that are as fast and as true as they say."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import read_json, write_json
from sfam_bench.engine import calibration
from sfam_bench.engine.calibration import Calibration, ModeTrial, rate
from sfam_bench.engine.modes import GAIN, SETUP
from sfam_bench.engine.passes import Passes

IMAGES = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(0))
MINUTE = 600  # passes that take a minute in eager mode, at ten a second
LONG = 100 * MINUTE


@dataclass
class Way:
    """A made-up mode: so many images a second, with so much added to each output."""

    speed: float
    off: float = 0.0
    error: Exception | None = None
    late: bool = False  # raises when it is called, not when it is built


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """`modes(compiled=Way(20))` are the ways that there are beside eager's ten a second; gives the list of built."""

    def use(**ways: Way) -> list[str]:
        built: list[str] = []

        def builder(name: str, way: Way):
            def build(model, batch):
                built.append(name)
                if way.error and not way.late:
                    raise way.error

                def function(images):
                    if way.error:
                        raise way.error
                    with torch.no_grad():
                        return model(images) + way.off

                function.speed = float(way.speed)
                return function

            return build

        every = {"eager": Way(10), **ways}
        monkeypatch.setattr(calibration, "MODES", {name: builder(name, way) for name, way in every.items()})
        monkeypatch.setattr(calibration, "available", lambda device: list(every))
        monkeypatch.setattr(calibration, "rate", lambda function, batch, seconds: function.speed)
        monkeypatch.setattr(calibration, "SETUP", dict.fromkeys(every, 60.0))
        monkeypatch.setattr(calibration, "GAIN", {"cpu": dict.fromkeys(every, math.inf)})
        return built

    return use


def network(dims=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, dims))


def products(items, others):
    return items @ others.T


def entries(cache):
    return list(read_json(cache, "").values())


def choose(planned=LONG, model=None, images=IMAGES, **fields):
    return Calibration(**fields)(model or network(), products, images, planned)


@pytest.mark.parametrize(
    ("planned", "expected"), [(0, "eager"), (MINUTE - 1, "eager"), (MINUTE, "compiled"), (LONG, "compiled")]
)
def test_other_modes_are_tried_once_they_can_save_a_minute(modes, tmp_path, planned, expected):
    built, cache = modes(compiled=Way(20)), tmp_path / "passes.json"
    facts = choose(planned, cache=str(cache)).facts
    assert facts["mode"] == expected
    assert built == ["eager", "compiled"][: 1 + (planned >= MINUTE)]
    assert list(facts["images_per_second"]) == built
    assert facts["refused"] == {}
    (known,) = entries(cache)
    assert known == {"rates": {"eager": 10.0, **({"compiled": 20.0} if planned >= MINUTE else {})}, "batch": 16}


def test_the_payback_can_be_set(modes):
    modes(compiled=Way(20))
    assert choose(10, payback=0.0).facts["mode"] == "compiled"
    assert choose(LONG, payback=1e9).facts["mode"] == "eager"


@pytest.mark.parametrize(
    ("minutes", "openvino", "expected"),
    [
        (0.3, 15, []),  # of 18 s in eager mode, OpenVINO can save 9
        (0.4, 15, ["openvino"]),
        (1.1, 5, ["openvino", "compiled"]),  # of 66 s, compiling can save 22
        (1.1, 12, ["openvino"]),  # but of the 55 s that remain with OpenVINO, 11
        (90, 16, ["openvino"]),  # what cannot be faster is not tried
    ],
)
def test_a_mode_is_tried_only_if_it_can_save_what_it_costs(modes, monkeypatch, minutes, openvino, expected):
    built = modes(compiled=Way(14), openvino=Way(openvino))
    monkeypatch.setattr(calibration, "SETUP", SETUP)
    monkeypatch.setattr(calibration, "GAIN", GAIN)
    choose(round(minutes * MINUTE))
    assert built == ["eager", *expected]


def test_a_short_run_does_not_decide_for_a_long_one(modes, monkeypatch, cache):
    built = modes(compiled=Way(14), openvino=Way(9))
    monkeypatch.setattr(calibration, "SETUP", SETUP)
    monkeypatch.setattr(calibration, "GAIN", GAIN)
    for planned, expected in ((0.4 * MINUTE, "eager"), (LONG, "compiled"), (0.4 * MINUTE, "eager"), (LONG, "compiled")):
        assert choose(round(planned), cache=str(cache)).facts["mode"] == expected
    assert built == ["eager", "openvino", "eager", "compiled", "eager", "eager", "compiled"]


def test_the_fastest_true_mode_wins_and_the_rates_of_all_are_kept(modes):
    built = modes(compiled=Way(20), half=Way(40), openvino=Way(30))
    facts = choose().facts
    assert facts["mode"] == "half"
    assert built == ["eager", "compiled", "half", "openvino"]
    assert facts["images_per_second"] == {"eager": 10, "compiled": 20, "half": 40, "openvino": 30}
    assert facts["score_differences"] == {"compiled": 0, "half": 0, "openvino": 0}
    assert facts["batch"] == 16
    assert facts["threads"] == torch.get_num_threads()
    json.dumps(facts, allow_nan=False)  # it goes into a manifest


def test_eager_wins_where_it_is_the_fastest(modes):
    modes(compiled=Way(9))
    assert choose().facts["mode"] == "eager"


UNUSABLE = {
    "far": (Way(99, off=1.0), "scores differ by", "more than 1e-03"),
    "a little": (Way(99, off=1e-2), "scores differ by", "more than 1e-03"),
    "nan": (Way(99, off=math.nan), "scores differ by nan"),
    "inf": (Way(99, off=math.inf), "scores differ by"),
    "broken": (Way(99, error=RuntimeError("no such operation\nat line 3")), "cannot be built (no such operation at"),
    "late": (Way(99, error=ValueError("wrong shape"), late=True), "cannot be built (wrong shape)"),
    "wordless": (Way(99, error=NotImplementedError()), "cannot be built (NotImplementedError)"),
    "blank": (Way(99, error=RuntimeError("\n\n  said late")), "cannot be built (said late)"),
    "long": (Way(99, error=RuntimeError("word " * 1000)), "cannot be built (word word"),
    "absent": (Way(99, error=ImportError("No module named 'openvino'")), "No module named 'openvino'"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_mode_that_is_untrue_or_cannot_be_built_is_refused_with_its_reason(modes, kind):
    way, *words = UNUSABLE[kind]
    modes(compiled=way)
    facts = choose().facts
    assert facts["mode"] == "eager"
    assert list(facts["images_per_second"]) == ["eager"]
    assert list(facts["refused"]) == ["compiled"]
    assert all(word in facts["refused"]["compiled"] for word in words)
    assert len(facts["refused"]["compiled"].splitlines()) == 1
    assert len(facts["refused"]["compiled"]) < 200


def test_the_next_best_takes_the_place_of_one_that_is_refused(modes):
    modes(compiled=Way(20), half=Way(40, off=1.0), openvino=Way(30, error=OSError("no library")))
    facts = choose().facts
    assert facts["mode"] == "compiled"
    assert facts["refused"].keys() == {"half", "openvino"}


def test_the_tolerance_is_of_scores(modes):
    modes(half=Way(40, off=3e-3))
    for tolerance, expected in ((1e-6, "eager"), (1.0, "half")):
        assert choose(tolerance=tolerance).facts["mode"] == expected


def test_a_mode_that_is_given_is_taken_however_slow_and_however_short_the_run(modes):
    built = modes(compiled=Way(5), half=Way(40))
    assert choose(0, mode="compiled").facts["mode"] == "compiled"
    assert built == ["eager", "compiled"]
    assert choose(LONG, mode="eager").facts["mode"] == "eager"
    assert "half" not in built


@pytest.mark.parametrize("kind", ["broken", "late", "wordless", "blank", "long", "absent"])
def test_a_mode_that_is_given_and_cannot_be_built_is_an_error_of_one_line(modes, kind):
    modes(compiled=UNUSABLE[kind][0])
    with pytest.raises(UserError, match=r"passes\.mode=compiled cannot be used here: .*; choose auto") as found:
        choose(0, mode="compiled")
    assert len(str(found.value).splitlines()) == 1
    assert len(str(found.value)) < 300


@pytest.mark.parametrize("kind", ["far", "nan"])
def test_a_mode_that_is_given_and_untrue_gives_way_to_eager_and_it_is_said(modes, kind):
    modes(half=UNUSABLE[kind][0])
    facts = choose(0, mode="half").facts
    assert facts["mode"] == "eager"
    assert "scores differ by" in facts["refused"]["half"]


# What is remembered


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "deep" / "folder" / "passes.json"


def test_the_second_run_builds_only_what_won(modes, cache):
    built = modes(compiled=Way(20), half=Way(40), openvino=Way(30))
    first, counted = choose(cache=str(cache)).facts, len(built)
    second = choose(cache=str(cache)).facts
    assert first["mode"] == second["mode"] == "half"
    assert built[counted:] == ["eager", "half"]
    assert list(second["images_per_second"]) == ["eager", "half"]


def test_that_eager_won_is_remembered_too(modes, cache):
    built = modes(compiled=Way(5))
    choose(cache=str(cache))
    assert choose(cache=str(cache)).facts["mode"] == "eager"
    assert built == ["eager", "compiled", "eager"]


def test_what_is_remembered_is_not_doubted_for_one_slow_run(modes, cache):
    modes(compiled=Way(20))
    choose(cache=str(cache))
    known = cache.read_text()
    modes(compiled=Way(9))
    assert choose(cache=str(cache)).facts["mode"] == "compiled"
    assert cache.read_text() == known


def test_the_load_of_the_moment_does_not_change_what_a_command_takes(modes, cache):
    modes(compiled=Way(20))
    assert choose(MINUTE, cache=str(cache)).facts["mode"] == "compiled"
    assert choose(MINUTE - 1, cache=str(cache)).facts["mode"] == "eager"
    modes(eager=Way(1000), compiled=Way(20))  # an idle machine: the run would last less than a minute
    assert choose(MINUTE, cache=str(cache)).facts["mode"] == "compiled"
    modes(eager=Way(0.1), compiled=Way(20))  # a busy one
    assert choose(MINUTE - 1, cache=str(cache)).facts["mode"] == "eager"


def test_the_batch_that_was_found_is_remembered(modes, cache, monkeypatch):
    modes()
    choose(0, cache=str(cache))
    (key,) = read_json(cache, "")
    write_json(cache, {key: {"rates": {"eager": 10.0}, "batch": 64}})  # as a search on CUDA would have found
    assert choose(0, cache=str(cache)).batch == 64


def test_a_changed_memory_is_not_believed(modes, cache, caplog):
    modes(compiled=Way(20))
    choose(cache=str(cache))
    cache.write_text(cache.read_text().replace("compiled", "half"))
    assert choose(cache=str(cache)).facts["mode"] == "compiled"
    assert "modes are measured again" in caplog.text


def test_nothing_is_remembered_without_a_file(modes, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    built = modes(compiled=Way(20))
    for cache in (None, ""):
        built.clear()
        for _ in range(2):
            assert choose(cache=cache).facts["mode"] == "compiled"
        assert built == ["eager", "compiled"] * 2
    assert not list(tmp_path.iterdir())


CHANGES = {
    "model": {"model": network(5)},
    "image": {"images": torch.rand(3, 3, 2, 2).reshape(3, 3, 4, 1)},
    "batch": {"batch": 4},
}


@pytest.mark.parametrize("change", [*CHANGES, "machine", "threads", "torch"])
def test_another_model_shape_or_machine_is_measured_anew(modes, cache, monkeypatch, change):
    modes(compiled=Way(20), half=Way(15))
    choose(cache=str(cache))
    built = modes(compiled=Way(20), half=Way(40))
    match change:
        case "machine":
            monkeypatch.setattr(calibration.platform, "node", lambda: "elsewhere")
        case "threads":
            monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
        case "torch":
            monkeypatch.setattr(torch, "__version__", "99.0")
    assert choose(cache=str(cache), **CHANGES.get(change, {})).facts["mode"] == "half"
    assert built == ["eager", "compiled", "half"]
    assert [*map(list, (known["rates"] for known in entries(cache)))] == [["eager", "compiled", "half"]] * 2


CORRUPT = ["", "{", "null", "5", "[1, 2]", '[["a", "b"]]', '"text"', "\x00\x01", '{"a": ', "[" * 100_000]


@pytest.mark.parametrize("text", CORRUPT, ids=[text[:12] for text in CORRUPT])
def test_a_file_that_is_damaged_is_written_anew(modes, cache, text):
    built = modes(compiled=Way(20))
    cache.parent.mkdir(parents=True)
    cache.write_bytes(text.encode() + b"\xff" * (text == "\x00\x01"))
    for _ in range(2):
        assert choose(cache=str(cache)).facts["mode"] == "compiled"
    assert built == ["eager", "compiled"] * 2
    assert [list(known["rates"]) for known in entries(cache)] == [["eager", "compiled"]]


@pytest.mark.parametrize("kind", ["folder_is_a_file", "file_is_a_folder", "no_home", "read_only", "too_long"])
def test_a_file_that_cannot_be_written_does_no_harm(modes, tmp_path, monkeypatch, kind):
    modes(compiled=Way(20))
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    cache = {
        "folder_is_a_file": f"{tmp_path}/file/passes.json",
        "file_is_a_folder": f"{tmp_path}/folder",
        "no_home": "~nobody-of-this-name/passes.json",
        "read_only": f"{tmp_path}/folder/passes.json",
        "too_long": f"{tmp_path}/{'a' * 300}.json",
    }[kind]
    if kind == "read_only":  # by hand, since root may write anywhere

        def refuse(path, facts):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(calibration, "write_json", refuse)
    assert choose(cache=cache).facts["mode"] == "compiled"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_remembered_mode_that_is_not_there_any_more_is_forgotten(modes, cache):
    modes(openvino=Way(40))
    choose(cache=str(cache))
    built = modes(compiled=Way(20))
    assert choose(cache=str(cache)).facts["mode"] == "compiled"
    assert built == ["eager", "compiled"]


@pytest.mark.parametrize(
    "known", ["warp", 3, None, ["compiled"], {"rates": 1}, {"rates": {"eager": 1.0, "warp": 9.0}, "batch": 16}]
)
def test_a_remembered_mode_that_never_was_is_forgotten(modes, cache, known):
    modes(compiled=Way(20))
    choose(cache=str(cache))
    write_json(cache, dict.fromkeys(read_json(cache, ""), known))
    assert choose(cache=str(cache)).facts["mode"] == "compiled"
    assert [list(known["rates"]) for known in entries(cache)] == [["eager", "compiled"]]


@pytest.mark.parametrize("kind", ["far", "broken"])
def test_a_remembered_mode_must_still_be_true(modes, cache, kind):
    modes(compiled=Way(20))
    choose(cache=str(cache))
    modes(compiled=UNUSABLE[kind][0])
    facts = choose(cache=str(cache)).facts
    assert facts["mode"] == "eager"
    assert "compiled" in facts["refused"]


# Settings, batches, rates


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_holds_at_least_one_image(batch):
    with pytest.raises(UserError, match=rf"Calibration\.batch is {batch}: expected a number of at least 1"):
        Calibration(batch=batch)


def test_modes_are_those_there_are():
    with pytest.raises((UserError, TypeError), match=r"Calibration\.mode is 'fast': choose one of auto|Type-check"):
        Calibration(mode="fast")


@pytest.mark.parametrize("size", [1, 2, 3, 8, 16, None])
def test_the_batch_is_the_first_images_over_and_over(modes, size):
    modes()
    trial = ModeTrial(network(), products, IMAGES, size)
    assert len(trial.batch) == (size or 16)
    assert all(torch.equal(row, IMAGES[i % 3]) for i, row in enumerate(trial.batch))
    assert trial.batch.is_contiguous()
    passes = choose(0, batch=size)
    assert passes.batch == passes.facts["batch"] == (size or 16)


def test_the_choice_is_ready_for_use(modes):
    modes(compiled=Way(20, off=1e-4))
    model, passes = network(), choose()
    assert isinstance(passes, Passes)
    with torch.no_grad():
        torch.testing.assert_close(passes.function(IMAGES), model(IMAGES) + 1e-4)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_the_callers_mode_and_that_of_the_model_do_not_matter(mode):
    model = nn.Sequential(nn.BatchNorm2d(3), network()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with mode():
        passes = Calibration(seconds=0.0)(model, products, IMAGES.clone(), 0)
        outputs = passes.function(IMAGES.clone())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not outputs.requires_grad
    torch.testing.assert_close(outputs, network()(IMAGES / (1 + 1e-5) ** 0.5).detach())


@pytest.mark.parametrize(("seconds", "passes"), [(0.0, 1), (3.0, 2)])
def test_a_rate_is_rows_by_seconds_and_takes_one_pass_at_least(monkeypatch, seconds, passes):
    clock, calls = count(), []  # a second passes with each look at it
    monkeypatch.setattr(calibration, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    found = rate(lambda rows: calls.append(len(rows)) or rows, torch.zeros(5, 1), seconds)
    assert calls == [5] * (1 + passes)  # the first is for warmth
    assert found == 5 * passes / (1 + passes)
