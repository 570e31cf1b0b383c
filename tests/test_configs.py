"""The contract of conf/: every file composes, and every explainer and metric that it names keeps its promises."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from experiments.settings import build
from sfam_bench.errors import UserError
from sfam_bench.explainers.forms import Explainer
from sfam_bench.maps import normalise
from sfam_bench.metrics.base import Explained, Metric, Scene
from sfam_bench.models.similarity_model import SimilarityModel, encode_pairs
from sfam_bench.records import PairBatch
from sfam_bench.targets import Similarity

CONF = Path(__file__).parents[1] / "conf"
GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "hydra")
FILES = [(group, file.stem) for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]
EXPLAINERS = [name for group, name in FILES if group == "explainer"]
METRICS = [name for group, name in FILES if group == "metric"]
BLIND = {"lafam", "centre"}  # controls: they ignore the reference
SIZE = (37, 51)
REGIONS = ("foreground", "shared", "unshared")


def defaults(config: str) -> dict[str, Any]:
    """The groups that a script's config chooses from, with its choices."""
    entries = yaml.safe_load((CONF / f"{config}.yaml").read_text()).get("defaults", [])
    return {group: choice for entry in entries if isinstance(entry, dict) for group, choice in entry.items()}


@cache
def composed(config: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config, list(overrides))


@cache
def choosing(group: str, name: str) -> DictConfig:
    """The config of a script that uses the group, with this choice in it."""
    config = next((file.stem for file in sorted(CONF.glob("*.yaml")) if group in defaults(file.stem)), None)
    assert config, f"no script chooses from conf/{group}/"
    several = isinstance(defaults(config)[group], list)
    others = ["metric=[pointing_game]"] if group == "baseline" else []  # other metrics name their baselines
    return composed(config, f"{group}={[name] if several else name}", *others)


@pytest.mark.parametrize(("group", "name"), FILES)
def test_every_file_composes_and_resolves(group: str, name: str) -> None:
    chosen = choosing(group, name)
    assert OmegaConf.to_container(chosen, resolve=True)
    if group != "experiment":
        assert chosen[group]


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


# Explainers


def explainer(name: str, **fields: Any) -> Any:
    return build(choosing("explainer", name).explainer[name], **fields)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_an_explainer_is_a_frozen_dataclass_whose_yaml_lists_every_field_and_default(name: str) -> None:
    made = explainer(name)
    assert isinstance(made, Explainer)
    assert dataclasses.is_dataclass(made)
    assert type(made).__dataclass_params__.frozen
    written = OmegaConf.to_container(choosing("explainer", name).explainer[name], resolve=True)
    assert isinstance(written, dict)
    del written["_target_"]
    assert written == {field.name: field.default for field in dataclasses.fields(made)}


@pytest.mark.parametrize("group", ["explainer", "metric"])
def test_a_misspelt_field_is_refused(group: str) -> None:
    for name in (name for of, name in FILES if of == group):
        for key, node in choosing(group, name)[group].items():
            misspelt = OmegaConf.create({**OmegaConf.to_container(node, resolve=True), "gama": 2})
            with pytest.raises(UserError, match="no setting 'gama'"):
                build(misspelt)
            assert key


SETUPS = [("cosine", "gap", "none"), ("negative_euclidean", "gap_gmp", "linear"), ("dot", "gem", "mlp")]


def tiny(similarity: str, pooling: str, head: str) -> SimilarityModel:
    """An untrained planted_net with these parts, its layers scaled (He) so that biases do not drown the images."""
    chosen = [f"similarity={similarity}", f"pooling={pooling}", f"head={head}", "model.image_size=32"]
    dims = {"none": [], "linear": ["head.dims=6"], "mlp": ["head.dims=6", "head.hidden=10"]}[head]
    torch.manual_seed(3)
    made: SimilarityModel = build(composed("evaluate", "model=planted_net", *chosen, *dims).model)
    for layer in made.trunk.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    return made


def pairs(count: int = 3) -> PairBatch:
    draw = torch.Generator().manual_seed(7)
    query, reference = (
        torch.nn.functional.interpolate(torch.rand(count, 3, 4, 5, generator=draw), SIZE, mode="bilinear")
        for _ in range(2)
    )
    masks = {name: torch.zeros(count, *SIZE, dtype=torch.bool) for name in REGIONS}
    for k, mask in enumerate(masks.values()):
        mask[:, 4 + 6 * k : 12 + 6 * k, 9:30] = True
    ids = tuple("abcdef"[:count]), tuple("uvwxyz"[:count])
    return PairBatch(*ids, query, reference, masks=masks)


def only(batch: PairBatch, rows: list[int], references: list[int] | None = None) -> PairBatch:
    """Some pairs of a batch, perhaps with other references."""
    others = rows if references is None else references
    return PairBatch(
        tuple(batch.query_ids[row] for row in rows),
        tuple(batch.reference_ids[row] for row in others),
        batch.query[rows],
        batch.reference[others],
        masks={name: mask[rows] for name, mask in batch.masks.items()},
    )


def maps(name: str, model: SimilarityModel, batch: PairBatch) -> Tensor:
    return explainer(name)(model, encode_pairs(model, Similarity(), batch.query, batch.reference), batch)


def traces(model: SimilarityModel) -> dict[str, Any]:
    """All that an explainer might leave behind in a model."""
    hooks = [len(getattr(module, kind)) for module in model.modules() for kind in vars(module) if "hooks" in kind]
    modes = [module.training for module in model.modules()]
    asked = [parameter.requires_grad for parameter in model.parameters()]
    grads = [parameter.grad is not None for parameter in model.parameters()]
    return {"hooks": hooks, "modes": modes, "requires_grad": asked, "grads": grads}


@pytest.fixture(scope="module", params=SETUPS, ids="-".join)
def model(request: pytest.FixtureRequest) -> SimilarityModel:
    return tiny(*request.param)


@pytest.fixture
def half_trained(model: SimilarityModel) -> Iterator[SimilarityModel]:
    """The model in training mode but for one layer, as it may come from a caller."""
    model.train()
    next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)).eval()
    yield model
    model.eval()


@pytest.mark.parametrize("name", EXPLAINERS)
def test_maps_are_finite_and_one_a_pair(name: str, model: SimilarityModel) -> None:
    found = maps(name, model, pairs())
    assert found.shape[0] == 3
    assert found.ndim == 3
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert not found.requires_grad


@pytest.mark.parametrize("name", EXPLAINERS)
def test_an_explainer_leaves_no_trace(name: str, half_trained: SimilarityModel) -> None:
    before, weights = traces(half_trained), {k: v.clone() for k, v in half_trained.state_dict().items()}
    assert any(before["modes"])
    assert not all(before["modes"])
    maps(name, half_trained, pairs())
    assert traces(half_trained) == before
    assert all(torch.equal(value, weights[key]) for key, value in half_trained.state_dict().items())


@pytest.mark.parametrize("name", EXPLAINERS)
def test_the_mode_of_the_model_does_not_matter(name: str, half_trained: SimilarityModel) -> None:
    trained = maps(name, half_trained, pairs())
    half_trained.eval()
    assert torch.equal(maps(name, half_trained, pairs()), trained)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_frozen_parameters_and_callers_without_gradients_work(name: str, model: SimilarityModel) -> None:
    expected = maps(name, model, pairs())
    asked = [parameter.requires_grad for parameter in model.parameters()]
    contexts: list[Callable[[], Any]] = [nullcontext, torch.no_grad, torch.inference_mode]
    try:
        model.requires_grad_(False)
        for context in contexts:
            with context():
                assert torch.equal(maps(name, model, pairs()), expected)
    finally:
        for parameter, was in zip(model.parameters(), asked, strict=True):
            parameter.requires_grad_(was)
    for context in contexts:
        with context():
            assert torch.equal(maps(name, model, pairs()), expected)


@pytest.mark.parametrize("name", EXPLAINERS)
def test_one_by_one_equals_together(name: str, model: SimilarityModel) -> None:
    together = maps(name, model, pairs())
    single = torch.cat([maps(name, model, only(pairs(), [row])) for row in range(3)])
    torch.testing.assert_close(single, together, rtol=1e-4, atol=1e-4 * float(together.abs().max()))


@pytest.mark.parametrize("name", EXPLAINERS)
def test_a_map_depends_on_the_reference_unless_it_is_a_control(name: str, model: SimilarityModel) -> None:
    ours, theirs = (normalise(maps(name, model, only(pairs(), [0, 1, 2], refs))) for refs in ([0, 1, 2], [1, 2, 0]))
    differ = ((ours - theirs).abs().amax(dim=(1, 2)) > 1e-5).tolist()
    assert differ == [name not in BLIND] * 3


# Metrics


@pytest.fixture(scope="module")
def scene() -> Scene:
    model, batch = tiny("cosine", "gap", "none"), pairs()
    return Scene(model, encode_pairs(model, Similarity(), batch.query, batch.reference), batch)


def metrics(name: str) -> dict[str, Any]:
    return build(choosing("metric", name).metric)


def random_maps(count: int = 3) -> Tensor:
    return torch.rand(count, *SIZE, generator=torch.Generator().manual_seed(1)) - 0.3


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_what_it_is_and_gives_one_value_a_pair(name: str, scene: Scene) -> None:
    before, weights = traces(scene.model), {k: v.clone() for k, v in scene.model.state_dict().items()}
    for key, metric in metrics(name).items():
        assert isinstance(metric, Metric), key
        assert type(metric).__dataclass_params__.frozen
        assert metric.higher_is_better in (True, False, None)
        assert set(metric.needs) <= set(REGIONS)
        explained = Explained(scene, random_maps())
        values, reasons = metric(explained), metric.undefined(explained)
        assert all(isinstance(reason, str) and reason for reason in reasons)
        assert torch.equal(torch.stack(list(reasons.values())).any(dim=0), values.isnan())
        assert values.shape == (3,)
        assert not values.isinf().any()
        assert not values.requires_grad
    assert traces(scene.model) == before
    assert all(torch.equal(value, weights[key]) for key, value in scene.model.state_dict().items())


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_independent_of_the_batch(name: str, scene: Scene) -> None:
    for key, metric in metrics(name).items():
        together = metric(Explained(scene, random_maps()))
        for row in range(3):
            batch = only(scene.pairs, [row])
            alone = Scene(scene.model, encode_pairs(scene.model, Similarity(), batch.query, batch.reference), batch)
            value = metric(Explained(alone, random_maps()[row : row + 1]))
            torch.testing.assert_close(value, together[row : row + 1], rtol=1e-4, atol=1e-5, equal_nan=True, msg=key)


@pytest.mark.parametrize("name", METRICS)
def test_an_empty_region_is_nan_and_no_other_pair_suffers(name: str, scene: Scene) -> None:
    for key, metric in metrics(name).items():
        for region in metric.needs:
            batch = only(scene.pairs, [0, 1, 2])
            batch.masks[region][1] = False
            explained = Explained(Scene(scene.model, scene.encoded, batch), random_maps())
            if region == getattr(metric, "only_with", None):
                continue  # it only says to which batches the metric applies
            assert metric(explained).isnan().tolist() == [False, True, False], key
            assert metric.undefined(explained)["empty_mask"].tolist() == [False, True, False], key


# Parts of a model, losses, baselines


@pytest.mark.parametrize("name", [name for group, name in FILES if group == "loss"])
def test_a_loss_is_finite_and_has_a_gradient(name: str) -> None:
    cfg = composed("train", f"loss={name}").loss
    sizes = {"num_classes": 4, "embedding_size": 6}
    criterion = build(cfg.criterion, **{key: size for key, size in sizes.items() if key in set(cfg.criterion)})
    embeddings = torch.randn(12, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.arange(12) % 4
    miner = build(cfg.miner)
    loss = criterion(embeddings, labels, *([miner(embeddings, labels)] if miner else []))
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad is not None
    assert embeddings.grad.abs().max() > 0


@pytest.mark.parametrize(("group", "name"), [file for file in FILES if file[0] in ("pooling", "head", "similarity")])
def test_a_part_of_a_model_gives_unit_embeddings_and_finite_scores(group: str, name: str) -> None:
    built = build(composed("evaluate", "model=planted_net", "model.image_size=32", f"{group}={name}").model)
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
    assert (replaced.var(dim=(2, 3)) < 0.2 * images.var(dim=(2, 3))).all()
