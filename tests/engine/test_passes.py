"""Packing: every series gets its own outputs, in full batches, as late and as few as can be."""

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sfam_bench.engine.modes import without_grad
from sfam_bench.engine.passes import Passes
from sfam_bench.engine.series import Replaced

lengths = st.lists(st.integers(0, 13), max_size=8)
batches = st.integers(1, 6)
packing = settings(max_examples=200, deadline=None)


@dataclass
class Numbers:
    """Rows (key, number), which say whose they are; `wrote` keeps the numbers that were composed."""

    key: int
    count: int
    wrote: list[int] = field(default_factory=list)

    @property
    def like(self):
        return torch.zeros(2)

    def __len__(self):
        return self.count

    def write(self, first, out):
        numbers = range(first, first + len(out))
        self.wrote.extend(numbers)
        out.copy_(torch.tensor([[self.key, number] for number in numbers]))

    @property
    def inputs(self):
        return torch.tensor([[float(self.key), float(number)] for number in range(self.count)]).view(-1, 2)


def folded(rows):
    """One output of three values for each row."""
    return rows @ torch.tensor([[1.0, 0.0, 100.0], [0.0, 1.0, 1.0]])


class Counted:
    """`folded`, with the number of rows of each call."""

    def __init__(self):
        self.calls = []

    def __call__(self, rows):
        self.calls.append(len(rows))
        return folded(rows)


def series_of(counts):
    return [Numbers(key, count) for key, count in enumerate(counts)]


@packing
@given(counts=lengths, batch=batches)
def test_each_series_gets_its_own_outputs_in_order_and_in_full_batches(counts, batch):
    function, asked = Counted(), series_of(counts)
    found = list(Passes(function, batch)((f"s{each.key}", each) for each in asked))
    assert [key for key, _ in found] == [f"s{each.key}" for each in asked]
    for each, (_, outputs) in zip(asked, found, strict=True):
        assert len(outputs) == len(each)
        if each.count:
            assert torch.equal(outputs, folded(each.inputs))
    assert function.calls == [batch] * math.ceil(sum(counts) / batch)
    assert [each.wrote for each in asked] == [list(range(count)) for count in counts]  # each input once, none beyond


@packing
@given(counts=lengths, batch=batches)
def test_a_series_is_taken_only_when_there_is_room_and_handed_out_once_it_is_whole(counts, batch):
    function, given_out, asked = Counted(), set(), series_of(counts)
    ends = list(accumulate(counts))

    def one_by_one():
        for each in asked:
            assert ends[each.key] - each.count - sum(function.calls) < batch  # there is room
            whole = {key for key in range(each.key) if counts[key] and ends[key] <= sum(function.calls)}
            assert whole <= given_out
            yield each.key, each

    for key, _ in Passes(function, batch)(one_by_one()):
        if counts[key]:
            assert len(function.calls) == math.ceil(ends[key] / batch)
        given_out.add(key)
    assert given_out == set(range(len(counts)))


def test_nothing_happens_before_the_first_output_is_asked_for():
    function = Counted()
    stream = Passes(function, 2)((each.key, each) for each in series_of([2, 2]))
    assert function.calls == []
    next(stream)
    assert function.calls == [2]  # the second series waits until somebody wants it
    stream.close()
    assert function.calls == [2]


def test_no_series_and_series_of_nothing_cost_no_pass():
    function = Counted()
    assert list(Passes(function)([])) == []
    assert [key for key, _ in Passes(function)([("a", Numbers(0, 0)), ("b", Numbers(1, 0))])] == ["a", "b"]
    assert function.calls == []


def kept():
    """As a CUDA graph does, give one tensor at every call."""
    output = torch.empty(0)

    def function(rows):
        nonlocal output
        output = folded(rows) if not len(output) else output.copy_(folded(rows))
        return output

    return function


@pytest.mark.parametrize(("function", "expected"), [(lambda rows: rows, lambda rows: rows), (kept(), folded)])
def test_outputs_that_share_memory_with_the_next_batch_are_kept_apart(function, expected):
    asked = series_of([3, 9, 2])
    for each, (_, outputs) in zip(asked, list(Passes(function, 4)((s.key, s) for s in asked)), strict=True):
        assert torch.equal(outputs, expected(each.inputs))


def walk(seed, count=5, learns=False):
    draw = torch.Generator().manual_seed(seed)
    start = torch.rand(3, 4, 4, generator=draw).requires_grad_(learns)
    ranks = torch.randperm(16, generator=draw, dtype=torch.int32).view(4, 4)
    return Replaced(start, torch.zeros(3, 4, 4), ranks, torch.arange(1, count + 1, dtype=torch.int32))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def modes():
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad, nullcontext])
@pytest.mark.parametrize("learns", [False, True], ids=["images", "images_with_gradient"])
def test_the_callers_mode_does_not_matter_and_stays(mode, learns):
    model = network().train()
    passes = Passes(without_grad(model, model), 4)
    expected = dict(passes([(seed, walk(seed)) for seed in range(3)]))
    with mode():
        before = modes()
        for seed, outputs in passes((seed, walk(seed, learns=learns)) for seed in range(3)):
            assert modes() == before
            assert not outputs.requires_grad
            torch.testing.assert_close(outputs, expected[seed])
        assert modes() == before
    assert model.training


@pytest.mark.parametrize("first", [torch.inference_mode, nullcontext])
def test_the_mode_may_change_on_the_way(first):
    model = network()
    passes = Passes(without_grad(model, model), 4)
    with first():
        asked = [(seed, walk(seed)) for seed in range(4)]
        stream = passes(asked)
        found = [next(stream)]
    with nullcontext() if first is torch.inference_mode else torch.inference_mode():
        found.append(next(stream))
    found.extend(stream)
    expected = dict(passes(asked))
    for seed, outputs in found:
        torch.testing.assert_close(outputs, expected[seed])


def test_a_function_that_raises_says_so_to_the_caller():
    function = Counted()

    def fragile(rows):
        if len(function.calls) == 2:
            raise RuntimeError("out of memory")
        return function(rows)

    stream = Passes(fragile, 3)((each.key, each) for each in series_of([3, 4, 5]))
    assert next(stream)[0] == 0
    with pytest.raises(RuntimeError, match="out of memory"):
        list(stream)


def test_series_that_raise_say_so_too():
    def asked():
        yield 0, Numbers(0, 2)
        raise KeyError("no map")

    stream = Passes(Counted(), 2)(asked())
    assert next(stream)[0] == 0
    with pytest.raises(KeyError, match="no map"):
        next(stream)
