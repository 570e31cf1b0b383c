"""Class weights that are fitted on the supports of an episode, the references of Baseline++."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfam_bench.core.errors import Checked
from sfam_bench.core.ranges import Count, NotNegative, Positive
from sfam_bench.core.similarity import SimilarityFunction

Weights = Float[Tensor, "ways dims"]
Supports = Float[Tensor, "episodes ways shots dims"]


@dataclass(frozen=True)
class ClassWeights(Checked):
    """A vector for each class, fitted by cross-entropy of scale * similarity(support, vector).

    With cosine, the classifier of Baseline++ (Chen et al., ICLR 2019, section 3.2); with the dot product, that of
    Baseline without its bias. Optimiser, steps and scale are those of the authors' code, which also learns a norm for
    each class; here there is none, so that the score of a class is the similarity that is explained.

    scale: of the similarity, 2 in the authors' code for up to 200 classes.
    epochs, batch_size: over the supports, in a random order each.
    lr, weight_decay: of SGD with momentum 0.9 and dampening 0.9.
    """

    scale: Positive = 2.0
    epochs: Count = 100
    batch_size: Count = 4
    lr: Positive = 0.01
    weight_decay: NotNegative = 0.001

    def fit(
        self, similarity: SimilarityFunction, supports: Supports, seeds: Sequence[Sequence[int]]
    ) -> Float[Tensor, "episodes ways dims"]:
        """The vectors of each episode; start and order of its supports depend on its seed alone.

        Episodes share the steps, not their losses: the vectors of one do not depend on the others.
        """
        count, ways, shots, dims = supports.shape
        draws = [np.random.default_rng(seed) for seed in seeds]
        start = np.stack([draw.uniform(-1, 1, (ways, dims)) for draw in draws]) / dims**0.5  # as torch's linear layers
        compare, episode = torch.vmap(similarity.matrix), torch.arange(count)[:, None]
        with torch.inference_mode(mode=False), torch.enable_grad():
            examples = supports.flatten(1, 2).clone()
            weights = nn.Parameter(torch.from_numpy(start).to(examples))
            optimiser = torch.optim.SGD([weights], self.lr, momentum=0.9, dampening=0.9, weight_decay=self.weight_decay)
            for _ in range(self.epochs):
                order = torch.from_numpy(np.stack([draw.permutation(ways * shots) for draw in draws]))
                for rows in order.split(self.batch_size, dim=1):
                    scores = self.scale * compare(examples[episode, rows], weights)
                    classes = (rows // shots).to(scores.device)
                    loss = nn.functional.cross_entropy(scores.flatten(0, 1), classes.flatten(), reduction="sum")
                    optimiser.zero_grad()
                    (loss / rows.shape[1]).backward()
                    optimiser.step()
        return weights.detach()
