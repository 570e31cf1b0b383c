"""Average drop and increase by hand, and against torchcam's own metric."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfam_bench.core.baselines import Zeros
from sfam_bench.core.maps import normalise
from sfam_bench.metrics.keeping import Keeping
from sfam_bench.metrics.shared.base import Explained

DROP, INCREASE = (Keeping(value, Zeros(), min_range=0.0) for value in ("drop", "increase"))
RED = torch.tensor([[[8.0, 4.0, 2.0, 2.0]]]) / 8


def red_image(red):
    image = torch.zeros(len(red), 3, *red.shape[1:])
    image[:, 0] = red
    return image


def test_by_hand(explained):
    maps = torch.tensor([[[1.0, 0.5, -1.0, 0.0]]])  # keeps 8 and half of 4 of 16
    seen = explained(red_image(RED), maps)
    assert DROP(seen).values.item() == pytest.approx(100 * (1 - 10 / 16))
    assert INCREASE(seen).values.item() == 0
    whole = explained(red_image(RED), torch.ones(1, 1, 4))
    assert (DROP(whole).values.item(), INCREASE(whole).values.item()) == (0, 0)


def test_without_what_speaks_against_the_score_rises(explained):
    red = torch.tensor([[[8.0, 4.0, -2.0, -2.0]]]) / 8
    seen = explained(red_image(red), (red > 0).float())
    assert (DROP(seen).values.item(), INCREASE(seen).values.item()) == (0, 100)


def test_minmax_is_that_of_the_map_before_it_was_resized(explained):
    raw = torch.tensor([[[-2.0, 6.0]]])
    metric = Keeping("drop", Zeros(), "minmax", min_range=0.0)
    cells = torch.tensor([[[-2.0, 0.0, 4.0, 6.0]]]) / 6
    first = explained(red_image(RED), cells)
    seen = Explained(first.scene, cells, "", raw)
    torch.testing.assert_close(metric.probes[0].mask_of(seen), torch.tensor([[[0, 0.25, 0.75, 1]]]))
    assert metric(seen).values.item() == pytest.approx(100 * (1 - (4 * 0.25 + 2 * 0.75 + 2) / 16))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.floats(-1, 1), min_size=4, max_size=4), factor=st.sampled_from([0.25, 2.0, 1024.0]))
def test_values_stay_in_range_and_do_not_hang_on_the_scale_of_the_map(explained, values, factor):
    maps = torch.tensor(values).view(1, 1, 4)
    found = []
    for scaled in (normalise(maps), normalise(maps * factor)):
        seen = explained(red_image(RED), scaled)
        drop, increase = DROP(seen).values.item(), INCREASE(seen).values.item()
        assert 0 <= drop <= 100 + 1e-4  # a positive score has no more to lose
        assert increase in (0, 100)
        found.append((drop, increase))
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_the_more_a_map_keeps_the_less_is_lost(explained):
    drops = [
        DROP(explained(red_image(RED), torch.full((1, 1, 4), kept))).values.item() for kept in (0.0, 0.25, 0.5, 1.0)
    ]
    assert drops == pytest.approx([100, 75, 50, 0])


def test_the_true_map_beats_its_inverse(explained):
    red = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0)) - 0.3
    true, inverse = (explained(red_image(red), sign * red.sign()) for sign in (1, -1))
    assert DROP(true).values.item() == 0
    assert DROP(inverse).values.item() > 100
    assert (INCREASE(true).values.item(), INCREASE(inverse).values.item()) == (100, 0)


def test_nothing_to_lose_is_undefined_and_asks_nothing(explained):
    image = torch.cat([red_image(RED), torch.zeros(1, 3, 1, 4)])
    seen = explained(image, torch.ones(2, 1, 4))
    for value in ("drop", "increase"):
        metric = Keeping(value, Zeros(), min_range=0.05)
        assert metric(seen).reasons["zero_range"].tolist() == [False, True]
        assert metric(seen).values.isnan().tolist() == [False, True]
    assert {pair for _, pair in seen.answers} == {0}
    assert len(seen.answers) == 1  # both metrics ask one image
