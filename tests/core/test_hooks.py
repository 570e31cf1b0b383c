"""The only hook leaves nothing behind."""

import pytest
import torch
from torch import nn

from sfam_bench.core.hooks import count_rows, record_outputs


def test_tap_records_and_leaves_no_hook():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    with record_outputs(model[0], model[1]) as outputs:
        found = model(torch.ones(1, 2))
    assert torch.equal(outputs[model[1]], found)
    assert not any(module._forward_hooks for module in model.modules())


def test_tap_lets_go_when_the_block_raises():
    model = nn.Linear(2, 2)
    with pytest.raises(RuntimeError), record_outputs(model):
        raise RuntimeError
    assert not model._forward_hooks


def test_rows_are_counted_forwards_and_backwards():
    model = nn.Linear(2, 2)
    with count_rows(model) as counts:
        model(torch.ones(3, 2)).sum().backward()
        with torch.no_grad():
            model(torch.ones(5, 2))
    assert (counts.forwards, counts.backwards) == (8, 3)
    model(torch.ones(1, 2))
    assert counts.forwards == 8
    assert not model._forward_hooks
