"""What every file of conf/explainer promises, whatever the method: tried on every kind of model."""

import dataclasses
import gc
import inspect
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.core.hooks import count_rows
from sfam_bench.core.maps import find_flaws, normalise
from sfam_bench.core.method_card import Card, card_of, field_notes, formula_and_source
from sfam_bench.core.records import PairBatch
from sfam_bench.core.references import Supports, Vectors
from sfam_bench.core.targets import Margin, Similarity, swap_sides
from sfam_bench.evaluation.evaluate import evaluate
from sfam_bench.evaluation.properties import residuals
from sfam_bench.explainers.shared.forms import Explainer, Sampling
from sfam_bench.explainers.shared.prepare import Bank, Preparable
from sfam_bench.metrics.localisation import PointingGame
from sfam_bench.models.similarity_model import SimilarityModel, encode_batch, encode_pairs
from tests.contract import FILES, SETUPS, build_entries, entries, named, only, pairs, tiny, traces
from tests.transformers import tiny_transformer

EXPLAINERS = [name for group, name in FILES if group == "explainer"]
FEWER = {"masks": 50, "samples": 54, "steps": 6, "grid": 5}  # of fields that set the passes, so that tests are quick
TRANSFORMERS = [("cosine", "patch"), ("dot", "class")]


@cache
def explainer(name: str) -> Any:
    """As conf/ has it, with fewer passes."""
    made = build_entries("explainer", name)[name]
    fewer = {key: min(most, getattr(made, key)) for key, most in FEWER.items() if hasattr(made, key)}
    return dataclasses.replace(made, **fewer)


def ready(name: str, model: SimilarityModel) -> Any:
    """Prepared on some images where it needs them; skipped where the model lacks what it needs."""
    made = explainer(name)
    if made.card.needs == "attention" and not getattr(model, "attends", False):
        batch = pairs(1)
        with pytest.raises(UserError, match="transformer"):
            made(model, encode_pairs(model, Similarity(), batch.query, batch.reference), batch)
        pytest.skip("needs the attention of a vision transformer, and says so")
    if not isinstance(made, Preparable):
        return made
    references = pairs().reference  # so that each of them is nearest to a proxy of its own
    bank = torch.cat([references, 0.9 * references])
    return made.prepare(model, Bank.of(model, bank, torch.arange(len(bank)) % len(references)))


def maps(name: str, model: SimilarityModel, batch: PairBatch) -> Tensor:
    return ready(name, model)(model, encode_pairs(model, Similarity(), batch.query, batch.reference), batch)


@cache
def usual_maps(name: str, model: SimilarityModel) -> Tensor:
    """Those of three pairs, made once for all tests that compare with them."""
    return maps(name, model, pairs())


def cropped(batch: PairBatch, size: int) -> PairBatch:
    """The corners of the images, which have no regions."""
    corners = (images[..., :size, :size] for images in (batch.query, batch.reference))
    return PairBatch(batch.query_ids, batch.reference_ids, *corners)


@cache
def model_of(*parts: str) -> SimilarityModel:
    return tiny(*parts) if len(parts) == 3 else tiny_transformer(*parts)


ONE_OF_A_KIND = (SETUPS[1], TRANSFORMERS[0])
KINDS = [
    pytest.param(parts, id="-".join(parts), marks=[] if parts in ONE_OF_A_KIND else [pytest.mark.slow])
    for parts in (*SETUPS, *TRANSFORMERS)
]


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> SimilarityModel:
    return model_of(*request.param)


def usual(needs: str) -> SimilarityModel:
    """One model that a method fits, where trying it on every kind would show nothing more."""
    return model_of(*(TRANSFORMERS[0] if needs == "attention" else SETUPS[1]))


@pytest.fixture
def fitting(name: str) -> SimilarityModel:
    return usual(card_of(explainer(name)).needs)


@pytest.fixture
def half_trained(name: str) -> Iterator[SimilarityModel]:
    """A fresh model in training mode but for one layer, as it may come from a caller; none has left a trace in it."""
    model = deepcopy(usual(card_of(explainer(name)).needs))
    model.train()
    kinds = (torch.nn.BatchNorm2d, torch.nn.LayerNorm)
    next(module for module in model.modules() if isinstance(module, kinds)).eval()
    yield model
    model.eval()


# What a method says of itself


@pytest.mark.parametrize("name", EXPLAINERS)
def test_an_explainer_is_a_frozen_dataclass_whose_yaml_lists_every_field_and_default(name: str) -> None:
    made = build_entries("explainer", name)[name]
    assert isinstance(made, Explainer)
    assert dataclasses.is_dataclass(made)
    assert type(made).__dataclass_params__.frozen
    written = OmegaConf.to_container(entries("explainer", name)[name], resolve=True)
    assert isinstance(written, dict)
    del written["_target_"]
    fields = [field for field in dataclasses.fields(made) if field.init and field.name in named(type(made))]
    assert written == {field.name: field.default for field in fields}


@pytest.mark.parametrize("name", EXPLAINERS)
def test_the_docstring_gives_formula_source_and_the_meaning_of_every_field(name: str) -> None:
    method = type(explainer(name))
    formula, source = formula_and_source(method)
    assert formula, 'the docstring\'s first line must be "formula; source."'
    assert source, 'the docstring\'s first line must be "formula; source."'
    assert not inspect.getdoc(method).split("\n")[1:2] or not inspect.getdoc(method).split("\n")[1]
    assert set(field_notes(method)) == set(named(method))
    assert isinstance(getattr(method, "card", None), Card), "a method has a card: see sfam_bench/core/method_card.py"


# Maps


@pytest.mark.parametrize("name", EXPLAINERS)
def test_maps_are_finite_and_one_a_pair(name: str, model: SimilarityModel) -> None:
    found = usual_maps(name, model)
    assert found.shape[0] == 3
    assert found.ndim == 3
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert not found.requires_grad
    assert explainer(name).card.signed or found.min() >= 0, "the card says signed=False, but the map is negative"


@pytest.mark.parametrize("name", EXPLAINERS)
def test_a_map_depends_on_the_reference_unless_the_card_says_not(name: str, model: SimilarityModel) -> None:
    ours, theirs = map(normalise, (usual_maps(name, model), maps(name, model, only(pairs(), [0, 1, 2], [1, 2, 0]))))
    differ = ((ours - theirs).abs().amax(dim=(1, 2)) > 1e-5).tolist()
    reads = card_of(explainer(name)).reads_reference
    assert differ == [reads] * 3, f"the card says reads_reference={reads}; maps that changed with it: {differ}"


@pytest.mark.parametrize("name", EXPLAINERS)
def test_the_margin_is_explained_or_refused_as_the_card_says(name: str, model: SimilarityModel) -> None:
    batch, method = pairs(), ready(name, model)
    triplets = dataclasses.replace(batch, negative_ids=("r", "s", "t"), negative=batch.reference.flip(0, 3))
    encoded = encode_pairs(model, Margin(), triplets.query, triplets.reference, triplets.negative)
    if card_of(method).margin:
        assert method(model, encoded, triplets).isfinite().all()
    else:
        with pytest.raises(UserError, match="margin"):
            method(model, encoded, triplets)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_the_map_of_the_reference_is_the_map_of_the_swapped_pair(name: str, fitting: SimilarityModel) -> None:
    batch, method = pairs(), ready(name, fitting)
    turned = dataclasses.replace(batch, query=batch.reference, reference=batch.query)
    one = method(fitting, swap_sides(encode_pairs(fitting, Similarity(), batch.query, batch.reference)), batch)
    other = method(fitting, encode_pairs(fitting, Similarity(), turned.query, turned.reference), turned)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("name", [name for name in EXPLAINERS if card_of(explainer(name)).total != "none"])
def test_a_map_sums_to_what_its_card_says(name: str) -> None:
    made, model, batch = explainer(name), tiny(*SETUPS[0]), pairs()
    encoded = encode_pairs(model, Similarity(), batch.query, batch.reference)
    left = residuals(made, model, encoded, made(model, encoded, batch))
    assert left is not None
    assert left.max() < (1e-5 if made.card.total == "score" else 0.05)  # what is integrated has few steps here


@pytest.mark.parametrize("name", EXPLAINERS)
def test_pairs_apart_and_together_have_the_same_maps(name: str, model: SimilarityModel) -> None:
    together = usual_maps(name, model)
    apart = torch.cat([maps(name, model, only(pairs(), rows)) for rows in ([0, 1], [2])])
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-4 * float(together.abs().max()))


@pytest.mark.parametrize("name", EXPLAINERS)
def test_a_single_position_gives_a_finite_map(name: str, fitting: SimilarityModel) -> None:
    found = maps(name, fitting, cropped(pairs(2), 8))
    assert found.isfinite().all()
    if found[0].numel() == 1:
        assert find_flaws(found)[1].all()


@pytest.mark.parametrize("name", EXPLAINERS)
def test_the_layout_of_the_memory_does_not_matter(name: str, fitting: SimilarityModel) -> None:
    batch, last = pairs(), torch.channels_last
    turned = dataclasses.replace(
        batch, query=batch.query.to(memory_format=last), reference=batch.reference.to(memory_format=last)
    )
    expected = usual_maps(name, fitting)
    torch.testing.assert_close(
        maps(name, fitting, turned), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
    )


@pytest.mark.parametrize("name", EXPLAINERS)
def test_a_caller_under_autocast_gets_a_finite_map(name: str, fitting: SimilarityModel) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = maps(name, fitting, pairs())
    assert found.isfinite().all()
    assert found.shape[0] == 3


# What a method must leave as it was


@pytest.mark.parametrize("name", EXPLAINERS)
def test_an_explainer_leaves_no_trace_and_takes_a_model_in_any_mode(name: str, half_trained: SimilarityModel) -> None:
    before, weights = traces(half_trained), {k: v.clone() for k, v in half_trained.state_dict().items()}
    assert any(before["modes"])
    assert not all(before["modes"])
    found = maps(name, half_trained, pairs())
    assert traces(half_trained) == before
    assert all(torch.equal(value, weights[key]) for key, value in half_trained.state_dict().items())
    assert torch.equal(found, usual_maps(name, usual(card_of(explainer(name)).needs)))  # whose modules are in eval mode


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPLAINERS)
def test_frozen_parameters_and_callers_without_gradients_work(name: str, fitting: SimilarityModel) -> None:
    expected = usual_maps(name, fitting)
    asked = [parameter.requires_grad for parameter in fitting.parameters()]
    contexts: list[Callable[[], Any]] = [nullcontext, torch.no_grad, torch.inference_mode]
    try:
        fitting.requires_grad_(False)
        for context in contexts:
            with context():
                assert torch.equal(maps(name, fitting, pairs()), expected)
    finally:
        for parameter, was in zip(fitting.parameters(), asked, strict=True):
            parameter.requires_grad_(was)
    for context in contexts[1:]:
        with context():
            assert torch.equal(maps(name, fitting, pairs()), expected)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_ten_calls_leave_no_tensor_behind(name: str) -> None:
    model = usual(card_of(explainer(name)).needs)
    small, method = cropped(pairs(1), 16), ready(name, model)

    def call() -> None:
        method(model, encode_pairs(model, Similarity(), small.query, small.reference), small)

    def held() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    call()
    gc.freeze()  # all that there is by now: counting what is new is quicker
    call()
    before = held()
    for _ in range(10):
        call()
    assert held() <= before


# Passes, and the image with itself


@pytest.mark.parametrize("name", EXPLAINERS)
def test_no_more_passes_are_taken_than_stated(name: str, fitting: SimilarityModel) -> None:
    method, batch = ready(name, fitting), pairs()
    encoded = encode_pairs(fitting, Similarity(), batch.query, batch.reference)
    with count_rows(fitting.trunk) as counts:
        method(fitting, encoded, batch)
    if isinstance(method, Sampling):
        filled = encoded.passes.batch  # the last batch of a stream is filled up
        assert 0 <= counts.forwards - counts.backwards <= 3 * method.forwards(encoded.query) + filled


@pytest.mark.parametrize("name", EXPLAINERS)
def test_an_image_with_itself_is_flagged(name: str, fitting: SimilarityModel) -> None:
    batch = pairs(2)
    same = dataclasses.replace(batch, reference=torch.stack([batch.query[0], batch.reference[1]]))
    (shard,) = evaluate(
        fitting, Similarity(), [same], {name: ready(name, fitting)}, {"pointing_game": PointingGame()}, "pairs"
    )
    flags = [record.flag for record in shard.records if record.explainer == name]
    assert flags[0] == "self_pair"
    assert flags[1] != "self_pair"


@pytest.mark.parametrize("name", EXPLAINERS)
def test_prototypes_are_explained_and_vectors_refused_where_the_card_says(name: str) -> None:
    card = card_of(explainer(name))
    model = model_of(*(TRANSFORMERS[0] if card.needs == "attention" else SETUPS[0]))
    batch, method = pairs(), ready(name, model)
    images = torch.cat([batch.reference_images, batch.reference_images.flip(2)])
    several = dataclasses.replace(batch, reference=Supports(images, ((0, 3), (1, 4), (2, 5)), tuple("uvwxyz")))
    if card.one_image:
        with pytest.raises(UserError, match="the reference is not one image, but a prototype"):
            method(model, encode_batch(model, Similarity(), several), several)
        return
    assert method(model, encode_batch(model, Similarity(), several), several).isfinite().all()
    vectors = dataclasses.replace(batch, reference=Vectors(model.encode(batch.reference_images).embeddings))
    encoded = encode_batch(model, Similarity(), vectors)
    if card.needs_images:
        with pytest.raises(UserError, match="the reference is a vector"):
            method(model, encoded, vectors)
    else:
        torch.testing.assert_close(method(model, encoded, vectors), maps(name, model, batch), rtol=1e-4, atol=1e-5)
