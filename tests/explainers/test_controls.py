"""The controls: what they ignore, and that chance repeats by pair."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn

from sfam_bench.core.errors import UserError
from sfam_bench.core.records import Encoded, PairBatch, Side
from sfam_bench.core.similarity import Cosine
from sfam_bench.core.targets import Similarity
from sfam_bench.engine.passes import Passes
from sfam_bench.explainers.controls import Centre, Chance, Edges, LaFAM
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_pairs


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SimilarityModel(nn.Conv2d(3, 4, 3), Embedder(GAP()), Cosine()).eval()


def setting(model, ids=("a", "b", "c")):
    images = torch.rand(2, len(ids), 3, 12, 8, generator=torch.Generator().manual_seed(1))
    pairs = PairBatch(tuple(ids), tuple(i + "'" for i in ids), *images)
    return encode_pairs(model, Similarity(), *images), pairs


def test_chance_hangs_on_the_pair_not_on_the_batch(model):
    together = Chance()(model, *setting(model))
    turned = Chance()(model, *setting(model, ("c", "a", "b")))
    assert torch.equal(together, turned[[1, 2, 0]])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together, Chance(seed=1)(model, *setting(model)))
    encoded, pairs = setting(model)
    other = Chance()(model, encoded, replace(pairs, reference_ids=("x", "y", "z")))
    assert not torch.equal(together[0], other[0])


def test_centre_is_symmetric_and_highest_in_the_middle(model):
    maps = Centre()(model, *setting(model))
    assert maps.shape == (3, 10, 6)
    torch.testing.assert_close(maps, maps.flip(1, 2))
    assert maps[0].argmax() in (4 * 6 + 2, 4 * 6 + 3, 5 * 6 + 2, 5 * 6 + 3)


def test_lafam_is_the_channel_mean(model):
    encoded, pairs = setting(model)
    assert torch.equal(LaFAM()(model, encoded, pairs), encoded.query.activations.mean(dim=1))


@pytest.mark.parametrize("sigma", [0.0, -1.0])
def test_a_gaussian_without_width_is_refused(sigma):
    with pytest.raises(UserError, match=r"Centre\.sigma is .* above 0"):
        Centre(sigma)


def edges(images):
    """The control needs no model, and looks at no reference."""
    side = Side(images, images, images[:, :, 0, 0])
    pairs = PairBatch(*[tuple(map(str, range(len(images))))] * 2, images, images)
    nobody = SimilarityModel(nn.Identity(), Embedder(GAP()), Cosine())
    return Edges()(nobody, Encoded(side, (), Passes(lambda rows: rows)), pairs)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 9), cols=st.integers(1, 9), seed=st.integers(0, 1000))
def test_edges_are_scipys(rows, cols, seed):
    images = torch.rand(2, 3, rows, cols, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = edges(images)
    for image, ours in zip(images, found, strict=True):
        grey = (0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]).numpy()
        theirs = np.hypot(ndimage.sobel(grey, axis=0), ndimage.sobel(grey, axis=1))
        torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-9, atol=1e-12)


def test_edges_by_hand():
    step = torch.zeros(1, 3, 5, 6)
    step[..., 3:] = 0.5
    expected = torch.tensor([0.0, 0.0, 2.0, 2.0, 0.0, 0.0]).expand(1, 5, 6)  # (1 + 2 + 1) / 2 on both sides of the step
    torch.testing.assert_close(edges(step), expected)
    torch.testing.assert_close(edges(step.transpose(2, 3)), expected.transpose(1, 2))
    assert not edges(torch.full((1, 3, 4, 4), 0.5)).any()


@pytest.mark.parametrize("explainer", [LaFAM(), Centre(), Edges(), Chance()], ids=repr)
def test_a_control_reads_what_its_card_says(model, explainer):
    encoded, pairs = setting(model)
    others = torch.rand(3, 3, 12, 8, generator=torch.Generator().manual_seed(5))
    seen = encode_pairs(model, Similarity(), pairs.query, others)
    there = explainer(model, seen, replace(pairs, reference_ids=("x", "y", "z"), reference=others))
    assert torch.equal(there, explainer(model, encoded, pairs)) == (not explainer.card.reads_reference)
    assert explainer(model, encoded, pairs).min() >= 0 or explainer.card.signed
