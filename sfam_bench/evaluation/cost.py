"""The cost of a map, and whether a method supports a model and target, both measured on one pair."""

from collections.abc import Mapping
from dataclasses import dataclass

from sfam_bench.core.errors import UserError
from sfam_bench.core.hooks import count_rows
from sfam_bench.core.records import PairBatch
from sfam_bench.core.targets import Target
from sfam_bench.engine.memory import peak
from sfam_bench.evaluation.evaluate import raw_maps
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.models.similarity_model import SimilarityModel, encode_batch


@dataclass(frozen=True)
class Cost:
    """The cost of one map without encoding: images through the trunk, gradients back to it, and peak memory of tensors.

    Passes are those of eager mode in full batches; a run shares the passes of several methods.
    """

    forwards: float
    backwards: float
    megabytes: float


def try_explainers(
    explainers: Mapping[str, Explainer], model: SimilarityModel, target: Target, pairs: PairBatch
) -> tuple[dict[str, Cost], dict[str, str]]:
    """By name, the cost of a map, and the error of each method that cannot explain such pairs with this model."""
    costs, errors = {}, {}
    for name, explainer in explainers.items():
        # encoded again for each method, since methods share cached results
        encoded = encode_batch(model, target, pairs)
        try:
            with count_rows(model.trunk) as counts, peak(model.device) as held:
                raw_maps(explainer, model, encoded, pairs)
        except UserError as error:
            errors[name] = str(error)
        else:
            count = len(pairs)
            costs[name] = Cost(counts.forwards / count, counts.backwards / count, held.most / count / 1e6)
    return costs, errors
