"""A SLURM of one node, and a lab on it; without SLURM these tests are skipped by name."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.cluster.lab import Lab, lacking, slurm


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """What the environment must hold to use it."""
    if why := lacking():
        pytest.skip(why)
    with ExitStack() as stack:
        try:
            env = stack.enter_context(slurm())
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"no SLURM here: {error}")
        yield env


@pytest.fixture(scope="module")
def lab(cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A trained model, and the records of one uninterrupted process."""
    return Lab.of(tmp_path_factory.mktemp("lab"), cluster)
