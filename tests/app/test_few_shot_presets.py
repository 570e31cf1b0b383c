"""Every preset of conf/experiment/few_shot/ composes and its loss builds; the published accuracies are those found."""

import pytest

from sfam_bench.app.presets import read_published_few_shot
from sfam_bench.app.settings import build
from sfam_bench.app.training import build_loss
from sfam_bench.datasets.episodes import Episodes
from sfam_bench.training.few_shot import check_episodes
from tests.contract import LEAN, composed
from tests.paths import CONF

FILES = [file.stem for file in sorted((CONF / "experiment" / "few_shot").glob("*.yaml"))]
RETRIEVAL = "sfam_paper/retrieval_cub"
PAPER = [f"sfam_paper/{file.stem}" for file in sorted((CONF / "experiment" / "sfam_paper").glob("*.yaml"))]
NAMES = [*(f"few_shot/{name}" for name in FILES), *(name for name in PAPER if name != RETRIEVAL)]
PUBLISHED = {  # 1 and 5 shots: Chen et al. (ICLR 2019), record/few_shot_exp_figures.xlsx; README of ICCV 2021
    "cub_protonet_conv4": ((51.31, 0.91), (70.77, 0.69)),
    "cub_matching_conv4": ((61.16, 0.89), (72.86, 0.70)),
    "cub_baseline_conv4": ((47.12, 0.74), (64.16, 0.71)),
    "cub_baseline_pp_conv4": ((60.53, 0.83), (79.34, 0.61)),
    "mini_imagenet_baseline_resnet12": ((58.91, None), (77.76, None)),
    "mini_imagenet_meta_baseline_resnet12": ((63.17, None), (79.26, None)),
}


@pytest.mark.parametrize("name", [*NAMES, pytest.param(RETRIEVAL, marks=pytest.mark.slow)])
def test_each_composes_and_its_loss_fits_its_batches(name: str) -> None:
    root = f"dataset.{'seed=0' if 'planted' in name else 'root=nowhere'}"
    untrained = ["model.trunk.pretrained=false"] if name == RETRIEVAL else []
    cfg = composed("train", *LEAN, f"experiment={name}", root, *untrained)
    recipe = build(cfg.train)
    criterion, _ = build_loss(cfg, {"num_classes": 100, "embedding_size": 8})
    check_episodes(criterion, recipe)
    assert isinstance(build(cfg.episodes), Episodes) or name == RETRIEVAL
    assert build(cfg.augmentation) is None or build(cfg.augmentation).crop == cfg.model.image_size
    if geometry := cfg.dataset.get("geometry"):
        assert build(geometry).size == build(cfg.model).geometry.size
    elif "planted" in name:
        assert cfg.dataset.size == cfg.model.image_size


def test_the_published_accuracies_are_those_of_the_sources() -> None:
    found = read_published_few_shot()
    assert {name for name, _ in found} == {*PUBLISHED} <= {*FILES}
    for name, figures in PUBLISHED.items():
        for shots, (accuracy, interval) in zip((1, 5), figures, strict=True):
            row = found[name, shots]
            assert row["accuracy"] == pytest.approx(accuracy / 100)
            assert row["interval"] == (None if interval is None else pytest.approx(interval / 100))
            assert row["mark"] == "verified"
            assert row["source"]
            assert row["setting"]
