"""Thresholds of acceptance: calibrated on one half of the classes, measured on the other."""

import pytest
import torch

from sfam_bench.core.errors import UserError
from sfam_bench.core.similarity import Cosine
from sfam_bench.retrieval import thresholds
from sfam_bench.retrieval.thresholds import find_thresholds


def test_thresholds_are_of_one_half_and_rates_of_the_other() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(6)
    gallery = torch.eye(8)[labels] + 0.7 * torch.rand(48, 8, generator=draw)
    found = find_thresholds(Cosine(), gallery, labels)
    halves = []
    for half in (0, 1):
        rows = (labels % 2 == half).nonzero()[:, 0]
        pairs = [(i, j) for i in rows.tolist() for j in rows.tolist() if i < j]
        scores = torch.stack([Cosine()(gallery[[i]], gallery[[j]])[0] for i, j in pairs])
        halves.append((scores, torch.tensor([bool(labels[i] == labels[j]) for i, j in pairs])))
    assert found.pop("images") == {"compared": 48, "all": 48}
    for name, rates in found.items():
        (scores, same), (others, alike) = halves
        if name != "equal_error":
            assert (scores[~same] >= rates["threshold"]).float().mean() <= float(name.removeprefix("far_"))
        assert rates["false_accepts"] == pytest.approx(float((others[~alike] >= rates["threshold"]).float().mean()))
        assert rates["true_accepts"] == pytest.approx(float((others[alike] >= rates["threshold"]).float().mean()))
    assert "equal_error" in found


def test_what_is_compared_of_many_images_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thresholds, "MOST", 10)
    labels = torch.arange(8).repeat_interleave(6)
    gallery = torch.eye(8)[labels] + 0.1 * torch.rand(48, 8, generator=torch.Generator().manual_seed(0))
    assert find_thresholds(Cosine(), gallery, labels)["images"] == {"compared": 20, "all": 48}


def test_they_need_two_classes_in_each_half() -> None:
    with pytest.raises(UserError, match="thresholds need four classes"):
        find_thresholds(Cosine(), torch.rand(6, 3), torch.arange(3).repeat(2))
