"""Maps under other references: blind ones do not change, and what does change is worked out by hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor

from sfam_bench.core.maps import normalise, upsample
from sfam_bench.core.records import PairBatch
from sfam_bench.core.targets import Margin, Similarity, Target
from sfam_bench.explainers.controls import Centre, Chance, Edges, LaFAM
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.explainers.similarity_decomposition import SimilarityDecomposition
from sfam_bench.metrics.sensitivity import (
    ExchangeAsymmetry,
    OtherReference,
    ReferenceContrast,
    ReferenceSensitivity,
    ReferenceSimilarity,
)
from sfam_bench.metrics.shared.base import Explained
from sfam_bench.metrics.shared.scene import Scene
from sfam_bench.models.similarity_model import encode_pairs
from tests.contract import SETUPS, SIZE, pairs, tiny

MODEL = tiny(*SETUPS[0])
TO = ("same_class", "other_class", "noise")


def scene_of(batch: PairBatch, target: Target | None = None) -> Scene:
    return Scene(
        MODEL, encode_pairs(MODEL, target or Similarity(), batch.query, batch.reference, batch.negative), batch
    )


def explained(scene: Scene, method: Callable[..., Tensor]) -> Explained:
    raw = method(scene.model, scene.encoded, scene.pairs)
    return Explained(scene, upsample(normalise(raw), SIZE), "method", raw, method)


def red(model: object, encoded: object, batch: PairBatch) -> Tensor:
    """A map that is the reference's red."""
    return batch.reference[:, 0]


@pytest.mark.parametrize("method", [LaFAM(), Edges(), Centre(), Chance()], ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("to", TO)
def test_a_map_that_is_blind_to_the_reference_scores_exactly_0(method: Callable[..., Tensor], to: str) -> None:
    seen = explained(scene_of(pairs()), method)
    assert ReferenceSensitivity(to=to)(seen).values.tolist() == [0.0] * 3
    assert ReferenceContrast()(seen).values.tolist() == [0.0] * 3


def test_values_by_hand() -> None:
    batch = pairs()
    seen = explained(scene_of(batch), red)
    for to in ("same_class", "other_class"):
        sides = zip(batch.reference[:, 0], batch.others[to][:, 0], strict=True)
        by_hand = [1 - stats.spearmanr(one.ravel(), other.ravel()).statistic for one, other in sides]
        assert ReferenceSensitivity(to=to)(seen).values.tolist() == pytest.approx(by_hand, abs=1e-5)
    difference = (
        ReferenceSensitivity(to="other_class")(seen).values - ReferenceSensitivity(to="same_class")(seen).values
    )
    torch.testing.assert_close(ReferenceContrast()(seen).values, difference)


def test_the_map_that_follows_the_class_has_the_greatest_contrast_and_its_opposite_the_least() -> None:
    batch = pairs()
    batch.others["same_class"] = 0.5 * batch.reference + 0.2
    batch.others["other_class"] = 1 - batch.reference
    follows = explained(scene_of(batch), red)
    assert ReferenceSensitivity(to="same_class")(follows).values.tolist() == pytest.approx([0] * 3, abs=1e-5)
    assert ReferenceSensitivity(to="other_class")(follows).values.tolist() == pytest.approx([2] * 3, abs=1e-5)
    assert ReferenceContrast()(follows).values.tolist() == pytest.approx([2] * 3, abs=1e-5)
    batch.others.update(same_class=batch.others["other_class"], other_class=batch.others["same_class"])
    assert ReferenceContrast()(explained(scene_of(batch), red)).values.tolist() == pytest.approx([-2] * 3, abs=1e-5)


def test_a_method_that_reads_the_reference_is_told_from_one_that_does_not() -> None:
    seen = explained(scene_of(pairs()), SFAM())
    for to in TO:
        assert (ReferenceSensitivity(to=to)(seen).values > 1e-5).all()
        assert (ReferenceSensitivity(to=to, measure="ssim")(seen).values > 1e-5).all()


def test_a_pair_without_a_further_reference_is_left_out_and_no_other_suffers() -> None:
    batch = pairs()
    whole = explained(scene_of(batch), SFAM())
    lacking = replace(batch, others={role: images.clone() for role, images in batch.others.items()})
    lacking.others["same_class"][1] = torch.nan
    seen = explained(scene_of(lacking), SFAM())
    for metric in (ReferenceSensitivity(to="same_class"), ReferenceContrast(), ReferenceSimilarity("same_class")):
        assert metric(seen).reasons["no_other_reference"].tolist() == [False, True, False]
        expected = metric(whole).values
        expected[1] = torch.nan
        torch.testing.assert_close(metric(seen).values, expected, equal_nan=True)
    assert ReferenceSensitivity(to="other_class")(seen).values.isfinite().all()


def test_the_similarity_of_the_references_is_the_models() -> None:
    batch = pairs()
    seen = explained(scene_of(batch), SFAM())
    for to in ("same_class", "other_class"):
        own, other = (MODEL.encode(images).embeddings for images in (batch.reference, batch.others[to]))
        torch.testing.assert_close(ReferenceSimilarity(to)(seen).values, MODEL.similarity(own, other))
    batch.others["same_class"] = batch.reference
    assert ReferenceSimilarity("same_class")(explained(scene_of(batch), SFAM())).values.tolist() == pytest.approx(
        [1] * 3
    )


def test_noise_hangs_on_the_pair_and_the_seed() -> None:
    scene = scene_of(pairs())
    images = OtherReference("noise", 0).images(scene)
    assert torch.equal(images, OtherReference("noise", 0).images(scene))
    assert not torch.equal(images, OtherReference("noise", 1).images(scene))
    assert not torch.equal(images[0], images[1])
    assert images.shape == scene.pairs.reference.shape
    assert 0 <= images.min() < 0.01 < 0.99 < images.max() <= 1


def test_only_the_reference_changes() -> None:
    batch = pairs()
    scene = scene_of(batch, Margin())
    _, encoded, asked = OtherReference("other_class", 0)(scene)
    assert (asked.query_ids, asked.reference_ids) == (batch.query_ids, batch.reference_ids)
    assert torch.equal(asked.reference, batch.others["other_class"])
    assert encoded.query is scene.encoded.query
    assert encoded.terms[1] is scene.encoded.terms[1]  # the negative
    assert encoded.terms[0].sign == 1
    torch.testing.assert_close(encoded.terms[0].side.embeddings, MODEL.encode(batch.others["other_class"]).embeddings)
    assert encoded.kept == {}


def test_several_metrics_ask_for_a_map_once() -> None:
    asked = []

    def method(*given: object) -> Tensor:
        asked.append(given)
        return SFAM()(*given)  # type: ignore[arg-type]

    seen = explained(scene_of(pairs()), method)
    asked.clear()
    for metric in (ReferenceContrast(), ReferenceSensitivity(), ReferenceSensitivity(measure="ssim")):
        metric(seen)
    assert len(asked) == 2
    other = explained(seen.scene, SFAM())
    ReferenceSensitivity()(other)
    assert (
        other.scene.cache["change", OtherReference("other_class", 0)].encoded is asked[1][1]
    )  # encoded once for all methods


def test_the_asymmetry_of_totals_by_hand() -> None:
    totals = {"abc": [3.0, 2.0, 0.0], "uvw": [1.0, -2.0, 0.0]}

    def method(model: object, encoded: object, batch: PairBatch) -> Tensor:
        maps = torch.tensor([[[-1.0, 1.0]]]).repeat(3, 1, 1)
        return maps + torch.tensor(totals["".join(batch.query_ids)])[:, None, None] / 2

    seen = explained(scene_of(replace(pairs(), negative=None)), method)
    found = ExchangeAsymmetry()(seen).values
    assert found[:2].tolist() == pytest.approx([0.5, 1])
    assert ExchangeAsymmetry()(seen).reasons["no_total"].tolist() == [False, False, True]
    assert found[2].isnan()


def test_a_method_that_shares_out_the_score_is_symmetric() -> None:
    batch = replace(pairs(), negative=None)
    found = ExchangeAsymmetry()(explained(scene_of(batch), SimilarityDecomposition())).values
    assert found.tolist() == pytest.approx([0] * 3, abs=1e-5)
    assert (ExchangeAsymmetry()(explained(scene_of(batch), LaFAM())).values > 1e-3).all()


def test_a_target_with_two_references_cannot_be_exchanged() -> None:
    seen = explained(scene_of(pairs(), Margin()), SFAM())
    assert ExchangeAsymmetry()(seen).values.isnan().all()
    assert ExchangeAsymmetry()(seen).reasons["no_raw_map"].all()
