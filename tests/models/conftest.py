"""What tests of files of weights share: cuts that are compared on small images."""

import pytest
import torchvision

from sfam_bench.models import backbones


@pytest.fixture
def small_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNets are cut with probes of 64 px instead of 224; test_backbones.py has probes of full size."""
    full = backbones._size
    monkeypatch.setattr(
        backbones, "_size", lambda net: (64, 64) if isinstance(net, torchvision.models.ResNet) else full(net)
    )
