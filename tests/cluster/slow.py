"""An explainer that takes its time, so that a fault can be timed."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.controls import Centre
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class Slow:
    """The map of Centre, after as many seconds a batch as PAUSE says, until the file NO_PAUSE exists."""

    card: ClassVar[Card] = Card(margin=True)

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        if not Path(os.environ.get("NO_PAUSE", "")).is_file():
            time.sleep(float(os.environ.get("PAUSE", "0")))
        return Centre()(model, encoded, pairs)
