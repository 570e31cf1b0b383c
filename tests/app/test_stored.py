"""Configs out of files: what could run code is refused before anything is imported or called."""

import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from sfam_bench.app.settings import build, resolve
from sfam_bench.app.stored import admit_config, list_packages
from sfam_bench.core.errors import UserError
from tests.contract import composed
from tests.paths import CONF

PATH = Path("run/plan.json")
HOSTILE = [
    *("os.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "pandas.read_pickle", "torch.load"),
    *("hydra.utils.get_method", "hydra.utils.call", "hydra.utils.instantiate", "importlib.import_module"),
    *("sfam_bench.jobs.local.compute", "sfam_bench.core.files.write_json", "sfam_bench.datasets.download.download"),
    *("sfam_bench.models.build.torch.load", "sfam_bench.explainers.saved_maps.write_maps"),
    *("sfam_bench.explainers.saved_maps.Path", "sfam_bench.explainers.sfam.SFAM.__init__"),
    *(
        "sfam_bench.explainers.nothing.There",
        "sfam_bench.explainers",
        "sfam_bench.app.work.work",
        "this.s",
        "",
        ".",
        "x",
    ),
    *("torch.nn.Sequential", "sfam_bench.models.build.save", "sfam_bench.runs.store.RunStore", "os", "posix.system"),
]


def placed(node: Any) -> list[dict[str, Any]]:
    """A node wherever a config may have one."""
    harmless = {"_target_": "sfam_bench.explainers.sfam.SFAM"}
    return [
        {"model": node},
        {"explainer": {"sfam": {**harmless, "head": node}}},
        {"metric": {"deletion": [harmless, [node]]}},
        {"explainer": {"sfam": {**harmless, "deep": {"er": [{"x": {"y": node}}]}}}},
    ]


@pytest.mark.parametrize("target", HOSTILE)
def test_a_target_that_is_not_admitted_is_refused_wherever_it_is(target: str) -> None:
    for node in ({"_target_": target, "x": 1}, {"_target_": target, "_partial_": True}):
        for config in placed(node):
            with pytest.raises(UserError, match=r"run/plan.json: .*_target_ names .*not in conf/.*allow=\[") as raised:
                admit_config(config, PATH)
            assert "\n" not in str(raised.value)
    assert "this" not in sys.modules


@pytest.mark.parametrize("target", [None, 3, ["os.system"], {"_target_": "os.system"}, True])
def test_a_target_that_is_no_text_is_refused(target: Any) -> None:
    with pytest.raises(UserError, match="_target_ names"):
        admit_config({"model": {"_target_": target}}, PATH)


@pytest.mark.parametrize("key", ["_args_", "_name_", "__class__"])
def test_keys_of_hydra_that_no_config_of_ours_has_are_refused(key: str) -> None:
    with pytest.raises(UserError, match=f"{key} is no setting of a stored config"):
        admit_config({"model": {"_target_": "torch.nn.Identity", key: ["x"]}}, PATH)


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a${oc.decode:x}", "${seed}", "${cell:}"])
def test_an_interpolation_is_refused(text: str) -> None:
    for config in placed(text):
        with pytest.raises(UserError, match="has an interpolation"):
            admit_config(config, PATH)


def test_a_config_of_any_depth_is_one_error() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"x": deep}
    with pytest.raises(UserError, match="nested deeper"):
        admit_config(deep, PATH)


def test_packages_are_admitted_by_name_and_not_by_their_first_letters() -> None:
    config = {"model": {"_target_": "tests.cluster.poison.Poison"}}
    assert list_packages(config) == ["tests"]
    for allow in ([], ["test"], ["tests.cluster.poi"], ["tests.other"], ["os"]):
        with pytest.raises(UserError, match=r"pass allow=\[tests\]"):
            admit_config(config, PATH, allow)
    for allow in (["tests"], ["tests.cluster"]):
        assert type(build(admit_config(config, PATH, allow).model)).__name__ == "Poison"


def test_what_conf_names_and_classes_of_methods_are_admitted() -> None:
    cfg = resolve(composed("submit", "dataset=cub", "verb=plan"))
    assert list_packages(cfg) == []
    assert resolve(admit_config(cfg, PATH)) == cfg
    assert list_packages({"a": {"_target_": "sfam_bench.explainers.saved_maps.SavedMaps", "folder": "x"}}) == []


def test_every_choice_of_conf_is_admitted() -> None:
    """Except what no evaluation has: launchers and downloads."""
    for path in sorted(CONF.rglob("*.yaml")):
        if path.relative_to(CONF).parts[0] in ("hydra", "download"):
            continue
        assert list_packages(OmegaConf.to_container(OmegaConf.load(path), resolve=False)) == [], path  # type: ignore[arg-type]
