"""What the score of a pair owes to the background and to the side from which the object is seen; no map is needed."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from sfam_bench.core.baselines import Baseline
from sfam_bench.core.errors import Checked
from sfam_bench.core.metric_card import ANY, MetricCard, label
from sfam_bench.core.ranges import Finite
from sfam_bench.core.types import Images, Scores
from sfam_bench.engine.modes import evaluating
from sfam_bench.metrics.perturbation import MEAN
from sfam_bench.metrics.shared.base import Explained, Measured, mask_values
from sfam_bench.metrics.shared.scene import Scene


def score_queries(scene: Scene, name: object, images: Images) -> Scores:
    """The target of changed queries, computed once for all methods."""

    def compute() -> Scores:
        with torch.no_grad(), evaluating(scene.model):
            embeddings = scene.model(images)
        return torch.cat([scene.read(row[None], pair) for pair, row in enumerate(embeddings)])

    return scene.cache.once(("changed queries", name), compute)


@dataclass(frozen=True)
class ContextRatio(Checked):
    """Score of the background alone over that of the foreground alone; after Rueda-Toicen et al., arXiv 2604.09690.

    Both are scores of the query with the other part replaced, minus s_base; NaN where that of the foreground is below
    `min_range`. At 0, the background alone does not raise the score. The paper compares retrieval on inpainted images;
    here hidden pixels have the baseline's colour, and the silhouette of the object remains. The same for all methods.
    """

    baseline: Baseline = MEAN
    min_range: Finite = 0.05
    needs: ClassVar[tuple[str, ...]] = ("foreground",)
    higher_is_better: ClassVar[bool | None] = None

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=ANY,
            degenerate=("a foreground that is a box holds background too",),
            group="Metrics that depend on the pair",
            label=label("context ratio", self.baseline.name),
            meaning="score of the background alone, as a share of that of the foreground alone",
            family="context_ratio",
            baseline=self.baseline.name,
            role="check",
        )

    def __call__(self, explained: Explained) -> Measured:
        scene = explained.scene
        images, behind, object_ = scene.encoded.query.images, scene.without(self.baseline), scene.region("foreground")
        alone = torch.where(object_[:, None], images, behind), torch.where(object_[:, None], behind, images)
        base = scene.base(self.baseline)
        front, back = (score_queries(scene, (self.baseline, k), one) - base for k, one in enumerate(alone))
        flat = object_.flatten(1)
        reasons = {"empty_mask": ~flat.any(dim=1), "no_background": flat.all(dim=1)}
        return mask_values(back / front, {**reasons, "zero_range": front < self.min_range})


@dataclass(frozen=True)
class Laterality(Checked):
    """Fall of the score when the query is mirrored left to right; after Rueda-Toicen et al., arXiv 2604.09690.

    Above 0 the model tells the sides of an object apart; about 0 it does not. The same for all methods.

    mirror: "query" is the fall of the pair's score; "self" is the score of the query with itself minus that with its
        mirror image, which needs no partner.
    """

    mirror: Literal["query", "self"] = "query"
    needs: ClassVar[tuple[str, ...]] = ()
    higher_is_better: ClassVar[bool | None] = None

    @property
    def card(self) -> MetricCard:
        return MetricCard(
            range=ANY,
            degenerate=("mirroring the background lowers the score too: compare pairs with the same or no background",),
            group="Metrics that depend on the pair",
            label=label("laterality", "with itself" if self.mirror == "self" else ""),
            meaning="fall of the score when the query is mirrored left to right"
            if self.mirror == "query"
            else "how much less similar the query is to its mirror image than to itself",
            family=f"laterality_{self.mirror}",
            role="check",
        )

    def __call__(self, explained: Explained) -> Measured:
        scene = explained.scene
        if self.mirror == "query":
            values = scene.full() - score_queries(scene, "mirrored", scene.encoded.query.images.flip(-1))
        else:
            values = scene.cache.once("laterality with itself", lambda: self._of_queries(scene))
        return mask_values(values, {"nonfinite_score": ~values.isfinite()})

    def _of_queries(self, scene: Scene) -> Scores:
        query = scene.encoded.query
        with torch.no_grad(), evaluating(scene.model):
            mirrored = scene.model(query.images.flip(-1))
        similarity = scene.model.similarity
        return similarity(query.embeddings, query.embeddings) - similarity(mirrored, query.embeddings)
