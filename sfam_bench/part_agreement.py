"""part_agreement: one query against many references of other classes; costs no pass beyond encoding."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from sfam_bench.datasets.attributes import PartColours
from sfam_bench.datasets.base import Dataset
from sfam_bench.errors import UserError
from sfam_bench.evaluate import raw_maps
from sfam_bench.explainers.forms import Explainer
from sfam_bench.maps import flagged, normalise, upsample
from sfam_bench.metrics.part_agreement import mass_near_parts, rank_agreement
from sfam_bench.models.similarity_model import SimilarityModel, encode_pairs
from sfam_bench.records import PairBatch, Record, pair_seed
from sfam_bench.targets import Similarity
from sfam_bench.types import Keypoints

METRIC, SHUFFLED = "part_agreement", "part_agreement_shuffled"
MANY = "*"  # stands for the reference of a value over many


@dataclass(frozen=True)
class PartAgreement:
    """Settings: the `references` nearest images of other classes; `sigma` of the Gaussian as a share of the image side.

    After the probe that METHODS describes; defined here. Shuffling the agreement over references gives the null.
    """

    references: int = 60
    sigma: float = 24 / 224
    seed: int = 0

    def __post_init__(self) -> None:
        if self.references < 3 or not self.sigma > 0:
            raise UserError(
                f"agreement.references={self.references}, agreement.sigma={self.sigma}: expected at least 3, and > 0"
            )

    def __call__(
        self,
        model: SimilarityModel,
        dataset: Dataset,
        image_ids: Sequence[str],
        queries: Sequence[str],
        explainers: Mapping[str, Explainer],
        colours: PartColours,
        batch: int = 32,
    ) -> Iterator[list[Record]]:
        """The records of each query in turn; `image_ids` are the gallery, all of whose sides are held.

        That is some 0.9 MB an image of 224 px with 1280 channels of 7 x 7.
        """
        samples = [dataset.sample(image_id) for image_id in image_ids]
        images = torch.stack([sample.image for sample in samples])
        sides = [model.encode(chunk) for chunk in images.split(batch)]
        gallery = torch.cat([side.embeddings for side in sides])
        activations = torch.cat([side.activations for side in sides])
        images = torch.cat([side.images for side in sides])
        labels = torch.tensor(dataset.index.loc[list(image_ids), "label"].to_numpy(), device=gallery.device)
        place = {image_id: number for number, image_id in enumerate(image_ids)}
        for query in queries:
            at = place[query]
            scores = model.similarity.matrix(gallery[at : at + 1], gallery)[0]
            scores = scores.masked_fill(labels == labels[at], -torch.inf)
            count = min(self.references, int((labels != labels[at]).sum()))
            chosen = scores.argsort(descending=True, stable=True)[:count]
            ids = tuple(image_ids[number] for number in chosen.tolist())
            pairs = PairBatch((query,) * count, ids, images[[at]].expand(count, -1, -1, -1), images[chosen])
            encoded = encode_pairs(model, Similarity(), pairs.query[:1], pairs.reference[:1])
            one = (at * torch.ones_like(chosen)).tolist()
            held = [
                replace(encoded.query, images=images[rows], activations=activations[rows], embeddings=gallery[rows])
                for rows in (one, chosen.tolist())
            ]
            encoded = replace(encoded, query=held[0], terms=(replace(encoded.terms[0], side=held[1]),), kept={})
            keypoints, agreement = samples[at].keypoints, colours.agreement(query, ids)
            names = (dataset.name, model.name, "similarity")
            found = []
            for name, explainer in explainers.items():
                raw = raw_maps(explainer, model, encoded, pairs)
                for metric, (value, flag) in self.values(raw, images.shape[-2:], keypoints, agreement, query).items():
                    found.append(Record(*names, name, metric, query, MANY, value, flag))
            yield found

    def values(
        self,
        raw: torch.Tensor,
        size: Sequence[int],
        keypoints: Keypoints | None,
        agreement: np.ndarray,
        query: str,
    ) -> dict[str, tuple[float, str]]:
        """Value and reason of both metrics for one query's raw maps over its references."""
        nonfinite, constant = flagged(raw)
        if keypoints is None or not (keypoints[:, 2] > 0).any():
            return dict.fromkeys((METRIC, SHUFFLED), (float("nan"), "no_parts"))
        maps = upsample(normalise(raw), (size[0], size[1]))
        mass = mass_near_parts(maps, keypoints, self.sigma * max(size)).cpu().double().numpy()
        mass[(nonfinite | constant).cpu().numpy()] = np.nan
        shuffle = np.random.default_rng(pair_seed(self.seed, query, MANY, METRIC)).permutation(len(agreement))
        found = {METRIC: rank_agreement(mass, agreement), SHUFFLED: rank_agreement(mass, agreement[shuffle])}
        why = "nonfinite_map" if nonfinite.all() else "constant_map" if constant.all() else "no_positive_part"
        return {name: (value, "" if np.isfinite(value) else why) for name, value in found.items()}
