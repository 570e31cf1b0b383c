"""Pairs listed in a CSV."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sfam_bench.core.errors import UserError
from sfam_bench.core.similarity import Cosine
from sfam_bench.datasets.pair_list import PairList
from tests.datasets.test_pairs import Toy

IDS = [f"i{k:02d}" for k in range(24)]


def listed(folder: Path, *lines: str) -> PairList:
    (folder / "pairs.csv").write_text("\n".join(lines))
    return PairList(str(folder / "pairs.csv"))


@pytest.fixture
def gallery() -> torch.Tensor:
    return torch.randn(24, 5, generator=torch.Generator().manual_seed(0))


def test_the_pairs_are_those_of_the_file_with_their_scores(tmp_path: Path, gallery: torch.Tensor) -> None:
    found = listed(tmp_path, "reference,query", "i03,i07", "i00,i01")(Toy(), Cosine(), gallery, IDS)
    assert found[["query_id", "reference_id", "negative_id", "kind"]].to_numpy().tolist() == [
        ["i07", "i03", "", "listed"],
        ["i01", "i00", "", "listed"],
    ]
    expected = torch.nn.functional.cosine_similarity(gallery[[7, 1]], gallery[[3, 0]])
    np.testing.assert_allclose(found["score"], expected, rtol=1e-6)
    assert list(found["query_class"]) == ["class 1", "class 0"]


def test_triplets(tmp_path: Path, gallery: torch.Tensor) -> None:
    pairs = listed(tmp_path, "query,reference,negative", "i00,i01,i09")
    assert pairs.kinds == ("triplet",)
    found = pairs(Toy(), Cosine(), gallery, IDS)
    assert found.loc[0, ["negative_id", "kind"]].tolist() == ["i09", "triplet"]


def test_pairs_to_verify_are_accepted_or_rejected(tmp_path: Path) -> None:
    gallery = torch.eye(24)
    gallery[1], gallery[5] = gallery[0], gallery[4]  # two same pairs of cosine 1, two different ones of 0
    lines = ("query,reference,same", "i00,i01,true", "i04,i05,1", "i00,i05,false", "i01,i04,0")
    found = listed(tmp_path, *lines)(Toy(), Cosine(), gallery, IDS)
    assert list(found["kind"]) == ["same_accepted", "same_accepted", "different_rejected", "different_rejected"]
    few = listed(tmp_path, *lines[:2], lines[3])(Toy(), Cosine(), gallery, IDS)
    assert list(few["kind"]) == ["same", "different"]  # too few to judge one by the others


def test_further_references_are_added(tmp_path: Path, gallery: torch.Tensor) -> None:
    (tmp_path / "pairs.csv").write_text("query,reference\ni00,i01")
    found = PairList(str(tmp_path / "pairs.csv"), others=True)(Toy(), Cosine(), gallery, IDS)
    assert found.loc[0, "same_class_id"] in ("i02", "i03")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            ("query,reference", "i00,i01", "i00,absent.jpg"),
            "line 3: reference 'absent.jpg' is not one of the 24",
        ),
        (("query,reference", "i00,../i01"), "line 2: reference '../i01' is not one of"),
        (("query,reference", "i00,i00"), "line 2: compares i00 with itself"),
        (("query,reference,negative", "i00,i01,i00"), "line 2: compares i00 with itself"),
        (("query,reference", "i00,i01", "i00,i01"), "line 3: this pair is listed twice"),
        (("query,reference,negative", "i00,i01,"), "line 2: negative is empty"),
        (("query,reference,same", "i00,i01,maybe"), "line 2: same is 'maybe': expected True or False"),
        (("query,reference,same,negative", "i00,i01,true,i02"), "has the columns negative and same"),
        (("query,positive", "i00,i01"), "lacks the columns reference"),
        (("query,reference",), "lists no pairs"),
    ],
)
def test_bad_lists(tmp_path: Path, lines: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        listed(tmp_path, *lines).check(Toy(), IDS)
