"""Images so plain that a linear map tells their classes apart, and a training of them as a process of its own."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TextIO

import torch
from pytorch_metric_learning.losses import NormalizedSoftmaxLoss
from safetensors.torch import save_file
from torch import Tensor, nn

from sfam_bench.core.signals import Interrupted
from sfam_bench.core.similarity import Cosine
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel
from sfam_bench.training.data import Examples
from sfam_bench.training.distributed import join_group, leave_group, rank
from sfam_bench.training.loop import train
from sfam_bench.training.recipe import Recipe
from tests.processes import PROCESSES, preload

preload("tests.training.toy")

CLASSES, EACH = 4, 5
LABELS = [10 * (k % CLASSES) for k in range(CLASSES * EACH)]  # labels of a data set need not count from 0
IDS = [str(k) for k in range(len(LABELS))]
RECIPE = Recipe(epochs=4, batch_size=8, per_class=2, lr=1e-2)


def picture(image_id: str) -> Tensor:
    """A patch of the class's colour on noise that is stronger than it."""
    noise = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(int(image_id)))
    colours = torch.eye(3).tolist()
    colour = torch.tensor([*colours, [0.6, 0.6, 0.0]][LABELS[int(image_id)] // 10])
    return 0.8 * noise + 0.2 * colour[:, None, None]


EXAMPLES = Examples(IDS, LABELS, picture)


def model() -> SimilarityModel:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    return SimilarityModel(trunk, Embedder(GAP(), nn.Linear(8, 4)), Cosine(), image_size=8).eval()


def softmax() -> NormalizedSoftmaxLoss:
    torch.manual_seed(1)
    return NormalizedSoftmaxLoss(CLASSES, 4)


def augmented(image_id: str) -> Tensor:
    """A picture with noise that is drawn anew each time."""
    return picture(image_id) + 0.1 * torch.rand(3, 8, 8)


LONG = replace(RECIPE, epochs=15, checkpoint_steps=3, freeze_batchnorm=True, lr=1e-3)


def spoken(step: int, numbers: Mapping[str, float]) -> None:
    """Say each update, with all digits of its loss."""
    if "lr" in numbers and rank() == 0:
        print(step, float(numbers["loss"]).hex(), flush=True)


def work(run: Path, out: Connection, environment: Mapping[str, str]) -> None:
    """What the process does: train, and say each update on `out`."""
    os.environ.update(environment)
    sys.stdout = os.fdopen(out.fileno(), "w", closefd=False)
    torch.set_num_threads(1)
    join_group()
    of = model()
    try:
        train(of, softmax(), None, replace(EXAMPLES, load=augmented), LONG, run=run, log=spoken)
    except Interrupted as stop:
        sys.exit(128 + stop.number)
    if rank() == 0:
        save_file(of.state_dict(), run / "model.safetensors")
    leave_group()


@contextmanager
def started(run: Path, **environment: str) -> Iterator[tuple[BaseProcess, TextIO]]:
    """The training as a process, and what it says; it is waited for at the end."""
    reader, writer = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=work, args=(run, writer, environment))
    process.start()
    writer.close()
    with reader, os.fdopen(reader.fileno(), closefd=False) as said:
        yield process, said
    process.join()
