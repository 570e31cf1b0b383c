"""Every preset of conf/experiment/train/ composes, its loss builds, and it claims what was published and no more."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import timm
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from sfam_bench.app.console import main
from sfam_bench.app.presets import BACKBONES, format_table, read_presets, read_published
from sfam_bench.app.settings import build, check_fields
from sfam_bench.app.training import build_loss
from sfam_bench.core.errors import UserError
from sfam_bench.training.recipe import Recipe
from tests.contract import LEAN
from tests.paths import CONF

FILES = sorted((CONF / "experiment" / "train").glob("*.yaml"))
NAMES = [file.stem for file in FILES]
DATASETS = {"cub": 100, "cars196": 98, "sop": 11_318}  # training classes
LOSSES = ("triplet", "arcface", "multi_similarity", "proxy_anchor")
R, V = "recalled", "verified"
PUBLISHED = {  # recall@1 in per cent on CUB, Cars196, SOP; of a closed-set split it would not be comparable
    ("proxy_anchor", "bn_inception"): [(69.1, V), (86.4, V), (79.2, V)],
    ("proxy_anchor", "resnet50"): [(69.9, V), (87.7, V), None],
    ("multi_similarity", "bn_inception"): [(65.7, V), (85.1, R), (74.5, R)],
    ("multi_similarity", "resnet50"): [(62.8, R), (81.7, R), (78.0, R)],
    ("triplet", "bn_inception"): [(64.2, R), (79.1, R), (72.7, R)],
    ("triplet", "resnet50"): [(62.9, R), (79.1, R), (77.4, R)],
    ("triplet", "vit_s16"): [None, None, (86.6, V)],
    ("arcface", "bn_inception"): [(67.5, R), (85.4, R), (76.2, R)],
    ("arcface", "resnet50"): [(62.7, R), (79.2, R), (77.7, R)],
}
TUNED = {  # triplet margin; ArcFace: rate of the proxies, degrees, scale; multi-similarity: alpha, beta, base
    "cub": (0.0961, (5.13e-3, 23.2, 100.0), None),  # multi-similarity on CUB is Wang's own
    "cars196": (0.1190, (7.4e-6, 20.5, 49.5), (14.35, 75.83, 0.66)),
    "sop": (0.0451, (2.0e-3, 18.6, 220.0), (8.49, 57.38, 0.41)),
}


@pytest.fixture(scope="module")
def composed() -> dict[str, DictConfig]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return {name: compose("train", [*LEAN, f"experiment=train/{name}"]) for name in NAMES}


def test_there_is_one_for_each_data_set_loss_and_backbone() -> None:
    assert set(NAMES) == {f"{d}_{each}_{m}" for d in DATASETS for each in LOSSES for m in BACKBONES}


@pytest.mark.slow
def test_each_is_what_its_name_says(composed: dict[str, DictConfig]) -> None:
    for name, cfg in composed.items():
        assert OmegaConf.to_container(cfg, resolve=True), name
        assert name.startswith(f"{cfg.dataset._target_.split('.')[-1]}_"), name
        assert name.endswith(f"_{cfg.model.name}"), name
        check_fields(OmegaConf.to_container(cfg.model, resolve=True), "model")
        assert cfg.recall_at == ([1, 10, 100, 1000] if name.startswith("sop") else [1, 2, 4, 8]), name


@pytest.mark.slow
def test_the_recipe_fills_a_batch_and_has_the_types_of_its_fields(composed: dict[str, DictConfig]) -> None:
    for name, cfg in composed.items():
        recipe = build(cfg.train)
        assert isinstance(recipe, Recipe), name
        assert set(cfg.train) == {"_target_", *(field.name for field in fields(Recipe))}, name
        if recipe.per_class:
            classes = recipe.batch_size // recipe.per_class
            assert 2 <= classes <= DATASETS[name.split("_")[0]] * (0.75 if cfg.validation else 1), name
        else:
            assert "ProxyAnchor" in cfg.loss.criterion._target_, name
        assert build(cfg.augmentation).crop == cfg.model.image_size == 224, name
        assert (build(cfg.validation) is not None) == (
            "Musgrave" in read_published().get(name, {}).get("source", "")
        ), name


@pytest.mark.slow
def test_criterion_and_miner_train_on_a_batch_of_the_recipe(composed: dict[str, DictConfig]) -> None:
    draw = torch.Generator().manual_seed(0)
    for name, cfg in composed.items():
        criterion, miner = build_loss(cfg, {"num_classes": 40, "embedding_size": 8})
        size, each = min(cfg.train.batch_size, 40), cfg.train.per_class or 3
        labels = torch.arange(size) // each
        embeddings = torch.randn(size, 8, generator=draw, requires_grad=True)
        found = criterion(embeddings, labels, *([miner(embeddings, labels)] if miner else []))
        found.backward()
        assert found.isfinite(), name
        assert embeddings.grad is not None, name
        assert embeddings.grad.abs().max() > 0, name
        assert bool(list(criterion.parameters())) == (cfg.loss.criterion._target_.split(".")[-1][:3] in ("Arc", "Pro"))


def test_published_figures_are_those_of_the_papers_and_nowhere_else() -> None:
    for preset in read_presets():
        expected = PUBLISHED.get((preset.loss, preset.backbone), [None] * 3)[list(DATASETS).index(preset.dataset)]
        if expected is None:
            assert (preset.recall_at_1, preset.source, preset.mark, preset.setting) == (None, "", "", ""), preset.name
        else:
            assert preset.recall_at_1 == pytest.approx(expected[0] / 100), preset.name
            assert preset.mark == expected[1], preset.name
            assert preset.source, preset.name
            assert "here" in preset.setting, preset.name  # where the preset differs


@pytest.mark.slow
def test_musgraves_tuned_settings_are_in_the_presets(composed: dict[str, DictConfig]) -> None:
    for dataset, (margin, arcface, similarity) in TUNED.items():
        assert composed[f"{dataset}_triplet_bn_inception"].loss.criterion.margin == margin
        cfg = composed[f"{dataset}_arcface_bn_inception"]
        assert (cfg.train.loss_lr, cfg.loss.criterion.margin, cfg.loss.criterion.scale) == arcface
        if similarity:
            criterion = composed[f"{dataset}_multi_similarity_bn_inception"].loss.criterion
            assert (criterion.alpha, criterion.beta, criterion.base) == similarity


@pytest.mark.slow
def test_proxies_of_proxy_anchor_learn_a_hundred_times_as_fast_behind_gap_and_gmp(
    composed: dict[str, DictConfig],
) -> None:
    for name, cfg in composed.items():
        if "proxy_anchor" in name and ("resnet50" in name or "bn_inception" in name):
            assert cfg.train.loss_lr == pytest.approx(100 * cfg.train.lr), name
            assert (cfg.train.clip_value, cfg.train.optimiser, cfg.train.per_class) == (10, "adamw", 0), name
            assert cfg.pooling._target_.endswith("GAPGMP"), name


@pytest.mark.slow
def test_what_is_listed_is_what_is_composed(composed: dict[str, DictConfig]) -> None:
    listed = {preset.name: preset for preset in read_presets()}
    assert list(listed) == NAMES
    for name, cfg in composed.items():
        preset = listed[name]
        assert preset.backbone == cfg.model.name, name
        assert preset.dims == cfg.head.get("dims", BACKBONES[cfg.model.name][0]), name


@pytest.mark.slow
def test_licences_and_channels_are_those_that_timm_says() -> None:
    for name in ("resnet50", "vit_s16"):
        trunk = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())["trunk"]
        channels, licence = BACKBONES[name]
        assert timm.get_pretrained_cfg(trunk["name"]).license.lower() == licence.lower()
        assert timm.create_model(trunk["name"], num_classes=0).num_features == channels


@pytest.mark.slow
def test_bn_inception_does_not_begin_with_random_weights(
    composed: dict[str, DictConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SFAM_BENCH_DATA", str(tmp_path))
    for name in (name for name in NAMES if name.endswith("bn_inception")):
        with pytest.raises(
            InstantiationException, match=rf"no weights at {tmp_path}/bn_inception-52deb4733\.pth: give the path"
        ):
            build(composed[name].model)


# The command


def test_the_command_lists_them_without_torch() -> None:
    code = (
        "import sys; from sfam_bench.app.console import main; main(['models', 'ls']); sys.exit('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    models, _, presets = run.stdout.partition("\nTraining presets (experiment=train/NAME), with published recall@1:\n")
    assert [line.split()[0] for line in models.splitlines()] == sorted(f.stem for f in (CONF / "model").glob("*.yaml"))
    head, *lines = presets.splitlines()
    assert head.split() == ["name", "dataset", "loss", "backbone", "dims", "recall@1", "source", "mark", "licence"]
    assert [line.split()[0] for line in lines] == NAMES
    line = next(line for line in lines if line.startswith("cub_proxy_anchor_resnet50"))
    assert all(word in line for word in (" 512 ", "0.699", "Kim et al., CVPR 2020", "verified", "BSD-3-Clause"))


def test_json_has_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "ls", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == NAMES
    assert "best epoch on the test classes" in rows[NAMES.index("cub_proxy_anchor_resnet50")]["setting"]


def test_a_command_that_is_none_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["models", "list"])
    assert stop.value.code == 2
    assert "models accepts ls [NAME], ls --json and check, not 'list'" in capsys.readouterr().err


def test_columns_are_aligned() -> None:
    head, *lines = format_table(read_presets()).splitlines()
    start = head.index("backbone")
    assert all(line[start - 1] == " " and line[start:].startswith(tuple(BACKBONES)) for line in lines)


def test_no_presets_and_a_broken_one_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"no presets in .*train"):
        read_presets(tmp_path)
    folder = tmp_path / "experiment" / "train"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("defaults:\n  - override /dataset: cub\n")
    with pytest.raises(UserError, match=r"cannot read .*published\.csv"):
        read_presets(tmp_path)
    (tmp_path / "published.csv").write_text("preset,recall_at_1,source,mark,setting\n")
    with pytest.raises(UserError, match=r"mine\.yaml: 'model' is unknown"):
        read_presets(tmp_path)
    (folder / "mine.yaml").write_text("defaults: [")
    with pytest.raises(UserError, match=r"cannot read .*mine\.yaml"):
        read_presets(tmp_path)
