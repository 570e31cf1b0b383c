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


def test_modules_keep_the_mode_of_each_part() -> None:
    module = small().train()
    module.layers[1].eval()
    modes = [part.training for part in module.modules()]
    image = torch.rand(3, 224, 224)
    explain(module, image, image.flip(1), "sfam")
    with pytest.raises(UserError, match="size"):
        explain(module, image, torch.rand(3, 32, 64), "sfam")
    with pytest.raises(UserError, match="runs no layer"):
        wrap(module, "none", image_size=32)
    assert [part.training for part in module.modules()] == modes
    head = nn.Dropout()
    wrap(module, image_size=32, head=head)
    assert head.training


def test_a_model_is_not_wrapped_again() -> None:
    model, images = wrap(small(), image_size=32), torch.rand(2, 3, 32, 32)
    expected = explain(model, *images, "sfam").score
    assert explain(nn.DataParallel(model), *images, "sfam").score == expected
    assert explain(torch.compile(model), *images, "sfam").score == expected
    with pytest.raises(UserError, match="Small is a SimilarityModel already: use it as it is"):
        wrap(model)


def exported(module: nn.Module) -> nn.Module:
    return torch.export.export(module.eval(), (torch.rand(2, 3, 32, 32),)).module()


REFUSED: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "half": (lambda module: module.half(), r"weights of Small are float16: call .float\(\)"),
    "bfloat16": (lambda module: module.bfloat16(), r"weights of Small are bfloat16: call .float\(\)"),
    "TorchScript": (
        lambda module: torch.jit.trace(module.eval(), torch.rand(2, 3, 32, 32)),
        "is made by TorchScript or torch.export, and cannot be cut: give the original module",
    ),
    "a part of TorchScript": (
        lambda module: nn.Sequential(torch.jit.trace(module.eval(), torch.rand(2, 3, 32, 32))),
        "cannot be cut: its part '0' is made by TorchScript; put the original module in its place",
    ),
    "torch.export": (exported, "is made by TorchScript or torch.export, and cannot be cut: give the original module"),
    "a part of torch.export": (
        lambda module: nn.Sequential(exported(module)),
        "is made by TorchScript or torch.export, and cannot be cut: give the original module",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_modules_that_cannot_be_cut_are_refused_at_once(name: str) -> None:
    made, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        wrap(made(small()), image_size=32)
