"""BN-Inception against the port that metric learning fine-tunes."""

import pytest
import torch

from sfam_bench.models.backbones import trunk_and_tail
from sfam_bench.models.bn_inception import BNInception
from tests.models.weights import randomised


def test_it_is_the_port_that_metric_learning_uses():
    theirs = randomised(pytest.importorskip("pretrainedmodels").bninception(pretrained=None))
    ours = BNInception().eval()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("last_linear.")}
    assert ours.state_dict().keys() == state.keys()
    ours.load_state_dict(state)
    for rows, cols in ((224, 224), (97, 130)):
        images = torch.rand(2, 3, rows, cols)
        with torch.no_grad():
            torch.testing.assert_close(ours(images), theirs.features(images), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("block", "channels"), [("3c", 576), ("5a", 1024)])
def test_it_is_cut_behind_a_block(block, channels):
    whole = randomised(BNInception())
    images = torch.rand(1, 3, 96, 96)
    trunk, tail = trunk_and_tail("sfam_bench", "bn_inception", f"inception_{block}_output", state=whole.state_dict())
    with torch.no_grad():
        activations = trunk(images)
        assert activations.shape[1] == channels
        torch.testing.assert_close(tail(activations), whole(trunk[0](images)))


def test_it_sees_blue_green_red_less_a_mean_colour():
    (standardise, _), _ = trunk_and_tail("sfam_bench", "bn_inception")
    pixels = torch.tensor([200.0, 100.0, 50.0]).view(1, 3, 1, 1) / 255
    assert standardise(pixels).flatten().tolist() == pytest.approx([50 - 104, 100 - 117, 200 - 128], abs=1e-3)


def test_caffes_flat_statistics_are_read():
    whole = randomised(BNInception())
    flat = {key: value[None] if value.ndim == 1 else value for key, value in whole.state_dict().items()}
    trunk, _ = trunk_and_tail("sfam_bench", "bn_inception", state=flat)
    loaded = trunk[1].state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in whole.state_dict().items() if "_bn." not in key)
    assert torch.equal(loaded["conv1_7x7_s2_bn.running_var"], whole.conv1_7x7_s2_bn.running_var)
