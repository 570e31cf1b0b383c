"""Explainers that do to the process of a shard what befalls it on a cluster, for a query that the environment names."""

import os
import signal
from dataclasses import dataclass
from typing import ClassVar

from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.controls import Centre
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class Poison:
    """The map of Centre; POISON is the query at which it raises, SIGNAL=query:number that at which a signal comes."""

    card: ClassVar[Card] = Card(margin=True)

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        at, _, number = os.environ.get("SIGNAL", "").partition(":")
        if at in pairs.query_ids:
            os.kill(os.getpid(), signal.Signals(int(number)))
        if os.environ.get("POISON") in ("every", *pairs.query_ids):
            raise RuntimeError("the map\nis poisoned")
        return Centre()(model, encoded, pairs)
