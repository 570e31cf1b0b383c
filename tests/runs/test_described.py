"""Manifests from before they described their metrics: what is known of a key is filled in, the rest stays."""

import json

import pytest

from sfam_bench.core.metric_card import GROUPS, ROLES
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.runs.described import add_descriptions, older_metrics

OLD = {
    "steps": {"_target_": "sfam_bench.metrics.steps.Midpoint", "intervals": 10},
    "metrics": {
        "deletion_mean": {"higher_is_better": False},
        "deletion_mean_area_error": {"higher_is_better": None},
        "energy_pointing_game": {"higher_is_better": True},
        "rise_deletion": {"higher_is_better": False},
        "of_my_own": {"higher_is_better": True},
    },
}


def test_known_keys_are_described_and_others_keep_key_and_direction() -> None:
    catalogue = Catalogue.of(add_descriptions(OLD))
    assert catalogue.title("deletion_mean") == "deletion AUC (mean colour) ↓"
    assert catalogue.fact("deletion_mean", "steps") == "Midpoint 10"
    assert catalogue.fact("rise_deletion", "steps") == "Stride 224"
    assert catalogue.chance("energy_pointing_game") == "energy_pointing_game_chance"
    assert catalogue.with_role("check", OLD["metrics"]) == ["deletion_mean_area_error"]
    assert (catalogue.group("of_my_own"), catalogue.title("of_my_own")) == ("Others", "of_my_own ↑")


@pytest.mark.parametrize("manifest", [{}, {"metrics": {}}, {"metrics": {"deletion_mean": {"group": "Others"}}}])
def test_what_a_manifest_says_itself_stays(manifest: dict) -> None:
    before = json.dumps(manifest)
    assert add_descriptions(manifest) == manifest
    assert json.dumps(manifest) == before


def test_the_list_speaks_of_groups_roles_and_chance_levels_that_there_are() -> None:
    for facts in older_metrics().values():
        assert facts["group"] in GROUPS
        assert facts.get("role", "score") in ROLES
        assert facts["label"]
        assert facts["meaning"]
        assert older_metrics()[facts["chance"]]["role"] == "chance" if "chance" in facts else True


def test_a_group_has_its_new_name() -> None:
    manifest = {"metrics": {"mine": {"group": "Metrics that see the pair", "label": "mine"}}}
    assert add_descriptions(manifest)["metrics"]["mine"] == {"group": GROUPS[0], "label": "mine"}
    assert manifest["metrics"]["mine"]["group"] == "Metrics that see the pair"
