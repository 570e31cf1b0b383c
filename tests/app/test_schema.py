"""Settings that a script does not have are refused, wherever they come from; all that conf/ ships is accepted."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from sfam_bench.app import schema
from sfam_bench.app.schema import check_keys, suggestion
from sfam_bench.core.errors import UserError
from tests.paths import CONF

SCRIPTS = (
    "embed",
    "episodes",
    "evaluate",
    "explain",
    "intervene",
    "methods",
    "metrics",
    "part_agreement",
    "score",
    "submit",
    "train",
    "tune",
)
EXPERIMENTS = [path.stem for path in sorted(CONF.glob("experiment/*.yaml"))]
PRESETS = ["train/cub_triplet_vit_s16", "train/sop_proxy_anchor_bn_inception", "train/cars196_multi_similarity_vit_s16"]
FEW = ("baseline=[mean_colour,blur]", "metric=[deletion]")  # which compose sooner
OTHERS = {  # scripts with a config of their own, and what they cannot do without
    "data": ["download=cub"],
    "keep": [],
    "maps": [],
    "paper": ["table=[1_models,2_faithfulness]", "figure=[curves]", "table.table_1.runs=[sop]"],
    "report": [],
    "sweep": ["sweep=gamma", "sweep.train.pooling=[gap]"],
    "track": ["method={_target_: sfam_bench.explainers.sfam.SFAM, gamma: 2}"],
    "work": [],
}


def checked(config: str, *overrides: str, **added: object) -> None:
    """Check a script's config, with settings added as a file could."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(config, list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
        for name, value in added.items():
            node, _, key = name.rpartition("__")
            (cfg[node] if node else cfg)[key] = value
    check_keys(cfg)


@pytest.mark.parametrize("config", SCRIPTS)
def test_defaults_of_every_script(config: str) -> None:
    checked(config, *(["verb=plan"] if config == "submit" else []))


@pytest.mark.parametrize("config", OTHERS)
def test_scripts_of_their_own(config: str) -> None:
    checked(config, *OTHERS[config])
    name = "runns"
    with pytest.raises(UserError, match="no setting 'runns'"):
        checked(config, *OTHERS[config], f"+{name}=3")


def test_every_script_is_here() -> None:
    """So that none goes unchecked."""
    assert {*SCRIPTS, *OTHERS} == {path.stem for path in CONF.glob("*.yaml")} - {"base", "cluster", "local"}


@pytest.mark.slow
@pytest.mark.parametrize("experiment", [*EXPERIMENTS, *PRESETS])
def test_shipped_experiments(experiment: str) -> None:
    checked("train" if "train/" in experiment else "evaluate", f"experiment={experiment}")


@pytest.mark.parametrize(
    "overrides",
    [
        ["variants=gamma"],
        ["experiment=known_answers", "network=residual", "dataset=planted/crowd"],
        ["experiment=known_answers", "network=vit_class", "dataset=planted/scale"],
        ["variants=choices", "experiment=cub_methods", "dataset.root=x"],
        ["explainer=[rise,zhu]", "explainer.rise.masks=3"],
        ["explainer=[sfam]", "+explainer.other={_target_: sfam_bench.explainers.sfam.SFAM, gamma: 0.5}"],
        ["+explainer.mine={_target_: sfam_bench.explainers.saved_maps.SavedMaps, folder: x}"],
        [
            "explainer=[sfam]",
            "+explainer.sfam_2={_target_: sfam_bench.explainers.sfam.SFAM}",
            "++explainer.sfam_2.tau=1",
        ],
        ["steps=rise", "baseline=[mean_colour,patch_shuffle]", "metric=[parts,road]", "+metric.road.levels=2"],
        ["model=backbone", "model.trunk.name=resnet18", "head=mlp", "pooling=gem", "similarity=dot"],
        ["model=checkpoint", "model.path=x", "dataset=sop", "target=margin", "augmentation=crop_8", "validation=folds"],
        ["loss=triplet", "miner=semihard", "recipe=vit", "++seed=3", "protocol=null"],
        ["loss=triplet", "+loss.criterion.reducer=null"],
        ["hydra.job.chdir=true", "+hydra.job.env_set.X=1"],
    ],
    ids=" ".join,
)
def test_what_is_meant_is_accepted(overrides: list[str]) -> None:
    checked("evaluate", *overrides)


@pytest.mark.parametrize(
    ("override", "says"),
    {
        "+datset=cub": "no setting 'datset': did you mean dataset?",
        "++datset=cub": "no setting 'datset': did you mean dataset?",
        "+space=sfam": "no setting 'space'",  # of tune.py alone
        "+trials=3": "no setting 'trials'",
        "+pairs.cuont=3": "pairs has no setting 'cuont': did you mean count?",
        "+maps.sav=true": "maps has no setting 'sav': did you mean save?",
        "+cluster.gpu=1": "cluster has no setting 'gpu': did you mean gpus?",
        "+prepare.cahce=x": "prepare has no setting 'cahce': did you mean cache?",
        "+train.lrr=1": "train has no setting 'lrr': did you mean lr?",
        "+loss.criterion.temprature=1": "loss.criterion has no setting 'temprature': did you mean temperature?",
        "+model.trunk.layre=x": "model.trunk has no setting 'layre'",
        "+explainer.sfam.gama=1": "explainer.sfam has no setting 'gama': did you mean gamma?",
        "+explainer.other=3": "explainer has no setting 'other'",
        "+explainer.new={_target_: sfam_bench.explainers.sfam.SFAM, gama: 1}": "explainer.new has no setting 'gama'",
        "+metric.deletion_mean_colour.baseline={_target_: sfam_bench.core.baselines.Blur, sgima: 1}": "sgima",
        "+hydra.rnu.dir=x": "hydra has no setting 'rnu': did you mean run?",
    }.items(),
)
def test_typed_with_a_plus(override: str, says: str) -> None:
    with pytest.raises(UserError) as refused:
        checked("evaluate", *FEW, "explainer=[sfam]", override.replace("+metric", "++metric"))
    assert says in str(refused.value)


@pytest.mark.parametrize("added", [{"datset": "cub"}, {"pairs__cuont": 3}, {"explainer__sfam_2": 3}])
def test_from_a_file(added: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"no setting '(datset|cuont|sfam_2)'"):
        checked("evaluate", *FEW, **added)


def test_a_file_for_every_script_may_set_what_one_of_them_has() -> None:
    checked("train", curves=False)  # of evaluate.py
    with pytest.raises(UserError, match="no setting 'curves'"):
        checked("train", "+curves=false")


def test_local_settings_are_no_part_of_the_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("base.yaml", "cluster.yaml", "evaluate.yaml"):
        (tmp_path / name).write_text((CONF / name).read_text())
    for folder in CONF.iterdir():
        if folder.is_dir():
            (tmp_path / folder.name).symlink_to(folder)
    (tmp_path / "local.yaml").write_text("datset: cub\n")
    monkeypatch.setattr(schema, "CONF", tmp_path)
    schema._compose.cache_clear()
    try:
        with pytest.raises(UserError, match="no setting 'datset'"):
            checked("evaluate", datset="cub")
    finally:
        schema._compose.cache_clear()


def test_suggestions_for_what_hydra_refuses() -> None:
    assert suggestion("evaluate", "datset") == "check its name; did you mean dataset?"
    assert suggestion("evaluate", "pairs.cuont") == "check its name; did you mean pairs.count?"
    assert suggestion("evaluate", "zzz") == "check its name"
