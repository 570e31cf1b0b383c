"""Perturbed and moved queries, by hand and against Captum."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.core.maps import normalise, upsample
from sfam_bench.core.records import PairBatch
from sfam_bench.core.targets import Similarity
from sfam_bench.explainers.controls import Centre
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.metrics.shared.base import Explained
from sfam_bench.metrics.shared.likeness import spearman
from sfam_bench.metrics.shared.scene import Scene
from sfam_bench.metrics.stability import AugmentationAgreement, MaxSensitivity, Moved, Noisy
from sfam_bench.models.similarity_model import encode_pairs
from tests.contract import SETUPS, SIZE, pairs, tiny

MODEL = tiny(*SETUPS[0])


def scene_of(batch: PairBatch) -> Scene:
    return Scene(MODEL, encode_pairs(MODEL, Similarity(), batch.query, batch.reference), batch)


def explained(method: Callable[..., Tensor], batch: PairBatch | None = None) -> Explained:
    scene = scene_of(batch or pairs())
    raw = method(scene.model, scene.encoded, scene.pairs)
    return Explained(scene, upsample(normalise(raw), SIZE), "method", raw, method)


def grey(contrast: float) -> PairBatch:
    """Queries that lie within the range of images, so that noise is not cut off."""
    return replace(pairs(), query=pairs().query * contrast + (1 - contrast) / 2)


def red(model: object, encoded: object, batch: PairBatch) -> Tensor:
    """A map that is the query's red."""
    return batch.query[:, 0]


def fixed(model: object, encoded: object, batch: PairBatch) -> Tensor:
    return torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(2))


def test_captum_agrees() -> None:
    metrics = pytest.importorskip("captum.metrics")
    seen = explained(SFAM(), grey(0.8))
    noisy = (Noisy(sample, 0.05, 3)(seen.scene).pairs.query for sample in range(4))

    def maps(images: Tensor | tuple[Tensor]) -> tuple[Tensor]:  # a tensor's first pair would be taken for all there
        query = images[0] if isinstance(images, tuple) else images
        encoded = encode_pairs(MODEL, Similarity(), query, seen.scene.pairs.reference)
        return (upsample(SFAM()(MODEL, encoded, seen.scene.pairs), SIZE),)

    images = seen.scene.encoded.query.images
    options = {"n_perturb_samples": 4, "max_examples_per_batch": len(images)}
    theirs = metrics.sensitivity_max(maps, images, perturb_func=lambda _: next(noisy), **options)
    ours = MaxSensitivity(samples=4, radius=0.05, scale="raw", seed=3)(seen).values
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert (ours > 1e-4).all()


def test_the_greatest_of_the_samples_by_hand() -> None:
    scene = scene_of(pairs())
    factors = iter([1.5, 0.2, 1.1])

    def grows(model: object, encoded: object, batch: PairBatch) -> Tensor:
        return own * next(factors)

    own = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(1))
    seen = Explained(scene, upsample(normalise(own), SIZE), "grows", own, grows)
    assert MaxSensitivity(samples=3, scale="raw")(seen).values.tolist() == pytest.approx([0.8] * 3)
    factors = iter([1.5, 0.2, 1.1])
    again = Explained(scene, upsample(normalise(own), SIZE), "grows", own, grows)
    assert MaxSensitivity(samples=3)(again).values.tolist() == pytest.approx([0] * 3, abs=1e-6)  # the peak is always 1


def test_noise_keeps_to_its_radius_and_to_the_range_of_images() -> None:
    scene = scene_of(pairs())
    moved = Noisy(0, 0.1, 0)(scene).pairs.query
    change = (moved - scene.pairs.query).abs()
    assert 0.09 < change.max() <= 0.1 + 1e-6
    assert 0 <= moved.min() <= moved.max() <= 1
    others = [Noisy(1, 0.1, 0), Noisy(0, 0.1, 1)]
    assert not any(torch.equal(other(scene).pairs.query, moved) for other in others)
    assert torch.equal(Noisy(0, 0.1, 0)(scene).pairs.query, moved)


def test_only_the_query_changes_and_its_embedding_with_it() -> None:
    scene = scene_of(pairs())
    for change in (Noisy(0, 0.1, 0), Moved("flip"), Moved("crop")):
        _, encoded, asked = change(scene)
        assert encoded.terms is scene.encoded.terms
        torch.testing.assert_close(encoded.query.embeddings, MODEL.encode(asked.query).embeddings)
        assert not torch.equal(encoded.query.embeddings, scene.encoded.query.embeddings)


def test_a_map_that_does_not_look_at_the_query_is_steady() -> None:
    assert MaxSensitivity()(explained(Centre())).values.tolist() == [0.0] * 3


@settings(deadline=None, max_examples=10)
@given(st.floats(1e-3, 0.05), st.floats(1.5, 4))
def test_more_noise_changes_a_map_of_pixels_more(radius: float, times: float) -> None:
    seen = explained(red, grey(0.5))
    small, great = (MaxSensitivity(samples=1, radius=r, scale="raw")(seen).values for r in (radius, radius * times))
    torch.testing.assert_close(great, small * times, rtol=1e-2, atol=1e-6)


def test_an_unsound_further_map_is_a_reason_and_no_value() -> None:
    scene = scene_of(pairs())
    own = torch.rand(3, 4, 5)

    def breaks(*_: object) -> Tensor:
        return own + torch.tensor([0.0, torch.nan, 0.0])[:, None, None]

    for scale in ("peak", "raw"):
        seen = Explained(scene, upsample(normalise(own), SIZE), "breaks", own, breaks)
        assert MaxSensitivity(samples=2, scale=scale)(seen).values.isnan().tolist() == [False, True, False]
    metric = MaxSensitivity(samples=2)
    assert metric(seen).reasons["nonfinite_further_map"].tolist() == [False, True, False]


@pytest.mark.parametrize("fields", [{"samples": 0}, {"radius": 0}, {"radius": -0.1}])
def test_no_sample_and_no_radius_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"expected a number (of at least 1|above 0)"):
        MaxSensitivity(**fields)  # type: ignore[arg-type]


def test_a_map_that_moves_along_agrees_and_one_that_stays_does_not() -> None:
    for by in ("flip", "crop"):
        assert AugmentationAgreement(by=by)(explained(red)).values.tolist() == pytest.approx([1] * 3, abs=1e-5)
        stays = explained(fixed)
        found = AugmentationAgreement(by=by)(stays).values
        torch.testing.assert_close(found, spearman(Moved(by).maps(stays.maps), stays.maps))
        assert (found < 0.95).all()


def test_moves_by_hand() -> None:
    ramp = torch.arange(float(SIZE[1])).expand(1, *SIZE)
    assert torch.equal(Moved("flip").maps(ramp)[0, 0], torch.arange(SIZE[1] - 1.0, -1, -1))
    rows, cols = Moved("crop").maps(torch.arange(float(SIZE[0])).view(-1, 1).expand(1, *SIZE)), Moved("crop").maps(ramp)
    assert rows.shape == cols.shape == (1, *SIZE)
    assert (rows.min().item(), rows.max().item()) == (2, SIZE[0] - 3)  # 37 // 16 rows go on each side
    assert (cols.min().item(), cols.max().item()) == (3, SIZE[1] - 4)  # and 51 // 16 columns
    assert cols[0, 0, SIZE[1] // 2] == SIZE[1] // 2


def test_images_are_moved_as_maps_are() -> None:
    scene = scene_of(pairs())
    for by in ("flip", "crop"):
        query = Moved(by)(scene).pairs.query
        for channel in range(3):
            torch.testing.assert_close(query[:, channel], Moved(by).maps(scene.pairs.query[:, channel]))


def test_a_map_that_is_constant_inside_the_crop_has_nothing_to_compare() -> None:
    def corner(model: object, encoded: object, batch: PairBatch) -> Tensor:
        maps = torch.zeros(3, *SIZE)
        maps[:2, 0, 0] = 1
        maps[2, 9:20, 9:20] = 1
        return maps

    seen = explained(corner)
    assert AugmentationAgreement(by="crop")(seen).values.isnan().tolist() == [True, True, False]
    assert AugmentationAgreement(by="crop")(seen).reasons["constant_map"].tolist() == [True, True, False]
    assert AugmentationAgreement(by="flip")(seen).values.isfinite().all()
