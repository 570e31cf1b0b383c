"""Feature Activation Map, the predecessor of SFAM."""

from dataclasses import dataclass
from typing import ClassVar

from sfam_bench.core.errors import Checked
from sfam_bench.core.method_card import Card
from sfam_bench.core.records import Encoded, PairBatch
from sfam_bench.core.types import RawMaps
from sfam_bench.explainers.sfam import SFAM, EuclideanCIS, Head, Normalisation, Order
from sfam_bench.models.similarity_model import SimilarityModel


@dataclass(frozen=True)
class FAM(Checked):
    """sum_k norm(c)_k A_k, c_k the share of channel k in the similarity; Liao et al., arXiv 2307.05017, reconstructed.

    From its abstract, which only names "normalized contribution weights": no published figure is reproduced. It is not
    the Feature Activation Mapping of Wu et al. (CVPR 2022), which explains a single feature vector.

    weight_normalisation: how the weights of a pair are scaled. minmax and softmax add a multiple of the channel mean,
        which ignores the reference; none and l1 rank positions as SFAM does.
    head, order, euclidean_cis, relu: as in SFAM.
    """

    card: ClassVar[Card] = Card(
        identities=(
            "it is SFAM with the same weight normalisation",
            "under minmax and cosine it is SFAM minus its least weight times the channel sum, over the weights' range",
        ),
        degenerate=("one outlying channel makes the other weights nearly equal: the map is nearly that channel",),
    )

    weight_normalisation: Normalisation = "minmax"
    head: Head = "pull_back"
    order: Order = "pull_back_first"
    euclidean_cis: EuclideanCIS = "exponential"
    relu: bool = False

    def __call__(self, model: SimilarityModel, encoded: Encoded, pairs: PairBatch) -> RawMaps:
        sfam = SFAM(
            head=self.head,
            order=self.order,
            euclidean_cis=self.euclidean_cis,
            weight_normalisation=self.weight_normalisation,
            relu=self.relu,
        )
        return sfam(model, encoded, pairs)
