"""Two processes that share each batch train as one does with the whole."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import TCPStore

from tests.training.toy import started

pytestmark = pytest.mark.slow


def go(run: Path, count: int) -> dict[int, float]:
    """The losses of so many processes, in the environment that torchrun would give them."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    group = {"WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}
    with ExitStack() as stack:
        many = [
            stack.enter_context(
                started(run, **group, RANK=str(k), LOCAL_RANK=str(k), TORCHELASTIC_USE_AGENT_STORE="True")
            )
            for k in range(count)
        ]
        said, *nothing = [[line.split() for line in lines] for _, lines in many]
    assert [process.exitcode for process, _ in many] == [0] * count
    assert not any(nothing)
    return {int(step): float.fromhex(loss) for step, loss in said}


def test_two_gloo_processes_give_the_loss_curve_of_one(tmp_path: Path) -> None:
    one, two = go(tmp_path / "one", 1), go(tmp_path / "two", 2)
    assert two.keys() == one.keys()
    assert len(one) == 30  # steps
    assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-4)
    weights, expected = load_file(tmp_path / "two/model.safetensors"), load_file(tmp_path / "one/model.safetensors")
    for key, value in expected.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-3, atol=1e-5)
