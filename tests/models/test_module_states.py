"""Modules as users hand them over: in train mode, frozen, in another memory format; the maps do not change."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sfam_bench.api import Explanation, explain
from sfam_bench.core.errors import UserError
from sfam_bench.models.wrapping import wrap


class Small(nn.Module):
    """Batch norm and dropout, which differ in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU()
        )
        self.rest = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 6))

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.rest(self.layers(images))
        return found


def small() -> nn.Module:
    torch.manual_seed(0)
    return Small()


def explained(module: nn.Module) -> Explanation:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return explain(wrap(module, image_size=32), images[0], images[1], ["sfam", "grad_cam"])


STATES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "train mode": lambda module: module.train(),
    "frozen": lambda module: module.requires_grad_(False),
    "channels last": lambda module: module.to(memory_format=torch.channels_last),
    "float64": lambda module: module.double(),
    "DataParallel": nn.DataParallel,
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_the_maps_do_not_depend_on_the_state_of_a_module(state: Callable[[nn.Module], nn.Module]) -> None:
    expected, found = explained(small()), explained(state(small()))
    assert found.score == pytest.approx(expected.score, abs=1e-5)
    for name, own in expected.query_maps.items():
        torch.testing.assert_close(found.query_maps[name].to(own), own, rtol=1e-4, atol=1e-4)


def test_weights_without_values_are_refused() -> None:
    with pytest.raises(UserError, match="the weights of Small are on the meta device"):
        wrap(small().to("meta"), image_size=32)
