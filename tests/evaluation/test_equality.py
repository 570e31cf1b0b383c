"""Networks by name beside themselves, and the page that lists them."""

import re

import pytest
import torch

from sfam_bench.core.errors import UserError
from sfam_bench.core.similarity import Cosine
from sfam_bench.evaluation.equality import HEAD, NETWORKS, compare, format_row
from sfam_bench.models.backbones import trunk_and_tail
from sfam_bench.models.build import build
from sfam_bench.models.cuts import TOLERANCE
from sfam_bench.models.poolings import GAP, Own
from tests.paths import ROOT


def test_the_page_lists_networks_that_are_equal_or_refused():
    page = (ROOT / "docs/networks.md").read_text()
    assert HEAD in page
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if re.match(r"\| \w+ \| (timm|torchv)", line)]
    assert {row[1] for row in rows} <= {*NETWORKS}
    assert all(row[2].startswith("refused: ") or float(row[5]) <= TOLERANCE for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "exact"),
    [("resnet10t", True), ("mobilenetv3_small_050", False), ("convnext_atto", False), ("vit_tiny_patch16_224", False)],
)
def test_a_network_is_equal_to_itself(name, exact):
    row = compare(f"timm/{name}")
    assert not row.refused
    assert row.difference <= TOLERANCE
    assert (row.residual < 1e-4) is exact or name.startswith("mobilenet")
    assert f"timm/{name}" in format_row(row)


def test_what_is_refused_says_why():
    row = compare("torchvision/squeezenet1_1")
    assert "convolutional classifier and no embedding of its own" in row.refused
    assert "refused: " in format_row(row)


@pytest.mark.slow
def test_a_pooling_that_leaves_a_norm_out_is_refused_unless_it_was_chosen():
    torch.manual_seed(0)
    cut = trunk_and_tail("timm", "convnext_atto")
    with pytest.raises(UserError, match=r"differs from the network's own embedding by .*: it leaves out head.norm"):
        build("convnext", cut, GAP(), Cosine())
    assert build("convnext", cut, Own(), Cosine()).embedding == "own"
    pooled = trunk_and_tail("timm", "convnext_atto", embedding="pooled")
    assert build("convnext", pooled, GAP(), Cosine()).embedding == "pooled last grid"
    assert (
        build("convnext", cut, GAP(), Cosine(), torch.nn.Linear(320, 8)).embedding
        == "GAP of the last grid, with a head"
    )
