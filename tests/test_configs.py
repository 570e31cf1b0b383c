"""The contract of conf/: every file composes, and every explainer and metric that it names keeps its promises."""

from collections.abc import Sequence
from functools import partial

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from torch import Tensor

from sfam_bench.app.settings import build
from sfam_bench.core.errors import UserError
from sfam_bench.core.targets import Similarity
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.explainers.zhu import Zhu
from sfam_bench.metrics.shared.base import Explained, Metric, Scene
from sfam_bench.models.similarity_model import encode_pairs
from tests.contract import (
    FILES,
    LEAN,
    OTHERS,
    REGIONS,
    SIZE,
    build_entries,
    choosing,
    composed,
    entries,
    gallery,
    only,
    pairs,
    tiny,
    traces,
)
from tests.paths import CONF

METRICS = [name for group, name in FILES if group == "metric"]
WHOLE = ("variants", "network")  # groups whose files set others
LISTS = ("explainer", "metric")  # each file alone is slow: entries() composes all of them at once
# whose files other tests compose, and build
BUILT = ("experiment", "loss", "miner", "space", "pooling", "head", "similarity")
ALONE = [
    pytest.param(group, name, marks=[pytest.mark.slow] if group in LISTS else [])
    for group, name in FILES
    if group not in BUILT
]


@pytest.mark.parametrize(("group", "name"), ALONE)
def test_every_file_composes_and_resolves(group: str, name: str) -> None:
    chosen = choosing(group, name)
    assert OmegaConf.to_container(chosen, resolve=True)
    if group not in WHOLE:
        assert chosen["train" if group == "recipe" else group] or name == "none"


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train", "embed", "evaluate"])
@pytest.mark.parametrize("name", [name for group, name in FILES if group == "experiment"])
def test_every_experiment_fits_every_script(script: str, name: str) -> None:
    cfg = composed(script, f"experiment={name}")
    assert OmegaConf.to_container(cfg, resolve=True)
    assert build(cfg.train).epochs > 0
    assert build(cfg.pairs).count > 0
    assert all(isinstance(metric, Metric) for metric in build(cfg.metric).values())


@pytest.mark.parametrize("group", ["explainer", "baseline"])
def test_the_key_in_the_frame_is_the_name_of_the_file(group: str) -> None:
    for file in (CONF / group).glob("*.yaml"):
        assert list(yaml.safe_load(file.read_text())) == [file.stem]


@pytest.mark.parametrize("group", ["explainer", "metric"])
def test_a_misspelt_field_is_refused(group: str) -> None:
    for name in (name for of, name in FILES if of == group):
        for key, node in entries(group, name).items():
            misspelt = OmegaConf.create({**OmegaConf.to_container(node, resolve=True), "gama": 2})
            with pytest.raises(UserError, match="no setting 'gama'"):
                build(misspelt)
            assert key


@pytest.mark.parametrize("name", [name for group, name in FILES if group == "variants"])
def test_every_file_of_variants_names_explainers_that_can_be_built(name: str) -> None:
    built = build(composed("evaluate", f"variants={name}").explainer)
    assert len(built) > 3


# Metrics


@pytest.fixture(scope="module")
def scene() -> Scene:
    model, batch = tiny("cosine", "gap", "none"), pairs()
    encoded = encode_pairs(model, Similarity(), batch.query, batch.reference)
    return Scene(model, encoded, batch, gallery=gallery(model, batch))


def random_maps(count: int = 3) -> Tensor:
    return torch.rand(count, *SIZE, generator=torch.Generator().manual_seed(1)) - 0.3


def seen(scene: Scene, rows: Sequence[int] = (0, 1, 2)) -> Explained:
    """Random maps of a method that, asked again, makes those of SFAM, and has Zhu's pairs of positions."""
    maps = random_maps()[list(rows)]
    joint = partial(Zhu().point_pairs, scene.model, scene.encoded, scene.pairs)
    return Explained(scene, maps, "sfam", maps, SFAM(), point_pairs=joint)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_what_it_is_and_gives_one_value_a_pair(name: str, scene: Scene) -> None:
    before, weights = traces(scene.model), {k: v.clone() for k, v in scene.model.state_dict().items()}
    for key, metric in build_entries("metric", name).items():
        assert isinstance(metric, Metric), key
        assert type(metric).__dataclass_params__.frozen
        assert metric.higher_is_better in (True, False, None)
        assert set(metric.needs) <= {*REGIONS, *OTHERS, "keypoints", "negative", "gallery", "redraws"}
        explained = seen(scene)
        found = metric(explained)
        values, reasons = found.values, found.reasons
        assert all(isinstance(reason, str) and reason for reason in reasons)
        assert torch.equal(torch.stack(list(reasons.values())).any(dim=0), values.isnan())
        assert values.shape == (3,)
        assert not values.isinf().any()
        assert not values.requires_grad
    assert traces(scene.model) == before
    assert all(torch.equal(value, weights[key]) for key, value in scene.model.state_dict().items())


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_independent_of_the_batch(name: str, scene: Scene) -> None:
    for key, metric in build_entries("metric", name).items():
        together = metric(seen(scene)).values
        for row in range(3):
            batch = only(scene.pairs, [row])
            encoded = encode_pairs(scene.model, Similarity(), batch.query, batch.reference)
            alone = Scene(scene.model, encoded, batch, gallery=scene.gallery)
            value = metric(seen(alone, [row])).values
            torch.testing.assert_close(value, together[row : row + 1], rtol=1e-4, atol=1e-5, equal_nan=True, msg=key)


@pytest.mark.parametrize("name", METRICS)
def test_an_empty_region_is_nan_and_no_other_pair_suffers(name: str, scene: Scene) -> None:
    for key, metric in build_entries("metric", name).items():
        for region in set(metric.needs) & set(REGIONS):
            batch = only(scene.pairs, [0, 1, 2])
            batch.masks[region][1] = False
            explained = seen(Scene(scene.model, scene.encoded, batch, gallery=scene.gallery))
            if region == getattr(metric, "only_with", None):
                continue  # it only says to which batches the metric applies
            found = metric(explained)
            assert found.reasons["empty_mask"].tolist() == [False, True, False], key
            lacking = found.reasons["empty_mask"] | found.reasons.get("zero_range", torch.tensor(False))
            assert torch.equal(found.values.isnan(), lacking), key
            assert not lacking.all(), key


# Parts of a model, baselines


@pytest.mark.parametrize(("group", "name"), [file for file in FILES if file[0] in ("pooling", "head", "similarity")])
def test_a_part_of_a_model_gives_unit_embeddings_and_finite_scores(group: str, name: str) -> None:
    built = build(composed("evaluate", *LEAN, "model=planted_net", "model.image_size=32", f"{group}={name}").model)
    batch = pairs()
    query, reference = built.encode(batch.query).embeddings, built.encode(batch.reference).embeddings
    torch.testing.assert_close(query.norm(dim=1), torch.ones(3))
    scores = built.similarity(query, reference)
    assert scores.isfinite().all()
    torch.testing.assert_close(built.similarity.matrix(query, reference).diagonal(), scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for group, name in FILES if group == "baseline"])
def test_a_baseline_keeps_shape_and_range_and_takes_the_content_away(name: str) -> None:
    images = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    replaced = build(choosing("baseline", name).baseline[name])(images)
    assert replaced.shape == images.shape
    assert 0 <= replaced.min() <= replaced.max() <= 1
    own, left = (side - side.mean(dim=(2, 3), keepdim=True) for side in (images, replaced))
    assert ((own * left).mean(dim=(2, 3)) < 0.2 * images.var(dim=(2, 3))).all()  # a shuffle keeps the variance
