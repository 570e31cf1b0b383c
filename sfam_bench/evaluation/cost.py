"""What a map costs, measured on one pair while it is tried whether a method fits model and target at all."""

from collections.abc import Mapping
from dataclasses import dataclass

from sfam_bench.core.errors import UserError
from sfam_bench.core.hooks import count_rows
from sfam_bench.core.records import PairBatch
from sfam_bench.core.targets import Target
from sfam_bench.engine.memory import peak
from sfam_bench.evaluation.evaluate import raw_maps
from sfam_bench.explainers.shared.forms import Explainer
from sfam_bench.models.similarity_model import SimilarityModel, encode_pairs


@dataclass(frozen=True)
class Cost:
    """Of one map, beyond encoding its pair: images through the trunk, gradients back to it, tensors held at the peak.

    Passes are counted as eager ones of full batches; a run shares those that several methods take.
    """

    forwards: float
    backwards: float
    megabytes: float


def try_explainers(
    explainers: Mapping[str, Explainer], model: SimilarityModel, target: Target, pairs: PairBatch
) -> tuple[dict[str, Cost], dict[str, str]]:
    """By name, what a map of some pairs costs, and of those that cannot explain such pairs with this model, why."""
    costs, why = {}, {}
    for name, explainer in explainers.items():
        # encoded anew, since a method may keep what another would take for nothing
        encoded = encode_pairs(model, target, pairs.query, pairs.reference, pairs.negative)
        try:
            with count_rows(model.trunk) as counts, peak(model.device) as held:
                raw_maps(explainer, model, encoded, pairs)
        except UserError as error:
            why[name] = str(error)
        else:
            count = len(pairs)
            costs[name] = Cost(counts.forwards / count, counts.backwards / count, held.most / count / 1e6)
    return costs, why
