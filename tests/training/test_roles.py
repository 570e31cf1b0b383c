"""Which images train, choose the epoch, and measure."""

import numpy as np
import pytest

from sfam_bench.app.training import Roles
from sfam_bench.core.errors import UserError
from sfam_bench.training.validation import Validation
from tests.datasets.test_pairs import Toy


def toy(*splits: str) -> Toy:
    data = Toy()
    data.index["split"] = np.repeat(splits, len(data.index) // len(splits))
    return data


def test_the_validation_classes_of_a_split_choose_the_epoch() -> None:
    roles = Roles.of(toy("train", "validation", "test"), Validation(folds=None))
    assert [len(images) for images in (roles.train, roles.validation, roles.test)] == [8, 8, 8]
    assert roles.validation[0] == "i08"


def test_without_validation_nobody_sees_the_validation_classes() -> None:
    roles = Roles.of(toy("train", "train", "validation", "test"), None)
    assert [len(images) for images in (roles.train, roles.validation, roles.test)] == [12, 0, 6]


def test_a_split_without_validation_classes_is_refused() -> None:
    with pytest.raises(UserError, match="toy has no split 'validation': choose test, train or all"):
        Roles.of(toy("train", "test"), Validation(folds=None))
