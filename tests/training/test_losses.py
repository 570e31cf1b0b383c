"""Losses and miners by name: finite on whatever a sampler draws, with gradients, and right by hand or by other code."""

import math
import re

import pytest
import torch
from omegaconf import DictConfig
from pytorch_metric_learning import losses as peers
from torch import Tensor, nn
from torch.nn import functional as F

from sfam_bench.app.training import build_loss
from sfam_bench.core.errors import UserError
from tests.contract import FILES, LEAN, composed

LOSSES = [name for group, name in FILES if group == "loss"]
MINERS = [name for group, name in FILES if group == "miner"]
SIZES = {"num_classes": 6, "embedding_size": 8}
DRAWN = {  # labels of a batch, as a sampler draws them
    "four_of_a_class": [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2],
    "two_of_a_class": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5],
    "without_regard_to_class": [3, 3, 3, 0, 5, 1, 1, 4, 3, 2, 0, 3],
    "one_of_a_class": [0, 1, 2, 3, 4, 5],
    "one_class": [2, 2, 2, 2],
    "one_image": [1],
}
ROOM = ("four_of_a_class", "two_of_a_class", "without_regard_to_class")  # where each loss has something to compare
PROXIES = {  # how many learn beside the model
    **dict.fromkeys(("arcface", "cosface", "normalised_softmax", "proxy_anchor", "proxy_nca_pp"), 6 * 8),
    **{"subcentre_arcface": 3 * 6 * 8, "soft_triple": 10 * 6 * 8, "margin": 6},
    **{"baseline": 6 * 8 + 6, "baseline_pp": 6 * 8 + 6, "meta_baseline": 1},
}
EPISODIC = ("protonet", "matching", "meta_baseline")  # whose batches are episodes
WITH_QUERIES = ("four_of_a_class", "two_of_a_class", "one_class")  # one support of each class, and queries


def of_loss(name: str) -> DictConfig:
    return config(f"loss={name}", *(["loss.criterion.shots=1"] if name in EPISODIC else []))


def config(*chosen: str) -> DictConfig:
    return composed("train", *LEAN, *chosen)


def drawn(name: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    labels = torch.tensor(DRAWN[name])
    return torch.randn(len(labels), 8, generator=torch.Generator().manual_seed(seed)), labels


def value(cfg: DictConfig, embeddings: Tensor, labels: Tensor) -> Tensor:
    torch.manual_seed(0)
    criterion, miner = build_loss(cfg, SIZES)
    loss: Tensor = criterion(embeddings, labels, *([miner(embeddings, labels)] if miner else []))
    return loss


@pytest.mark.parametrize("composition", DRAWN)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_finite_and_so_is_its_gradient_on_any_batch(name: str, composition: str) -> None:
    embeddings, labels = drawn(composition)
    if name in EPISODIC and composition not in WITH_QUERIES:
        with pytest.raises(UserError, match="a class of the batch has 1 images, 1 of them supports"):
            value(of_loss(name), embeddings, labels)
        return
    loss = value(of_loss(name), embeddings.requires_grad_(), labels)
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()
    if composition in ROOM:
        assert embeddings.grad.abs().max() > 0


OF_TUPLES = ["triplet", "margin", "contrastive", "multi_similarity"]
MINED = [
    *((name, miner, "four_of_a_class") for name in OF_TUPLES for miner in MINERS),
    *(("triplet", miner, composition) for miner in MINERS for composition in DRAWN),
]


@pytest.mark.parametrize(("name", "miner", "composition"), dict.fromkeys(MINED))
def test_any_miner_serves_a_loss_of_tuples(name: str, miner: str, composition: str) -> None:
    embeddings, labels = drawn(composition)
    loss = value(config(f"loss={name}", f"miner={miner}"), embeddings.requires_grad_(), labels)
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_its_proxies_are_parameters(name: str) -> None:
    criterion, _ = build_loss(of_loss(name), SIZES)
    assert sum(weight.numel() for weight in criterion.parameters() if weight.requires_grad) == PROXIES.get(name, 0)


@pytest.mark.parametrize("name", LOSSES)
def test_two_steps_move_model_and_proxies_and_lower_the_loss(name: str) -> None:
    torch.manual_seed(0)
    model, (images, labels) = nn.Linear(8, 8), drawn("four_of_a_class", seed=1)
    criterion, miner = build_loss(of_loss(name), SIZES)
    weights = [*model.parameters(), *(weight for weight in criterion.parameters() if weight.requires_grad)]
    before = [weight.detach().clone() for weight in weights]
    optimiser = torch.optim.SGD(weights, 1e-3)

    def step() -> float:
        torch.manual_seed(1)  # miners draw
        embeddings = model(images)
        loss: Tensor = criterion(embeddings, labels, *([miner(embeddings, labels)] if miner else []))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    first, second = step(), step()
    assert second < first
    assert all(not torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


@pytest.mark.parametrize("name", ["triplet", "margin", "multi_similarity"])
def test_a_loss_brings_a_miner_which_can_be_changed(name: str) -> None:
    own = {
        "triplet": "TripletMarginMiner",
        "margin": "DistanceWeightedMiner",
        "multi_similarity": "MultiSimilarityMiner",
    }
    assert type(build_loss(config(f"loss={name}"), SIZES)[1]).__name__ == own[name]
    assert build_loss(config(f"loss={name}", "miner=none"), SIZES)[1] is None
    other = build_loss(config(f"loss={name}", "miner=batch_easy_hard"), SIZES)[1]
    assert type(other).__name__ == "BatchEasyHardMiner"


# By hand


def corners() -> tuple[Tensor, Tensor]:
    """Two classes on the axes of a plane: positives are the same vector, negatives at a right angle."""
    return torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0, 1, 1])


def proxied(name: str, **changed: float) -> nn.Module:
    """A loss of the plane whose proxies are the axes."""
    settings = [f"loss.criterion.{key}={number}" for key, number in changed.items()]
    criterion, _ = build_loss(config(f"loss={name}", *settings), {"num_classes": 2, "embedding_size": 2})
    (proxies,) = criterion.parameters()
    with torch.no_grad():
        proxies.copy_(torch.eye(2))
    return criterion


def test_the_margin_of_arcface_is_in_degrees() -> None:
    """An image on its proxy: logits scale * cos(margin) and 0."""
    loss = proxied("arcface", margin=60.0, scale=2.0)(*corners())
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2 * math.cos(math.radians(60.0)))), abs=1e-5)


def test_cosface_takes_its_margin_from_the_cosine() -> None:
    loss = proxied("cosface", margin=0.25, scale=4.0)(*corners())
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-4 * 0.75)), abs=1e-5)


def test_normalised_softmax_divides_by_its_temperature() -> None:
    loss = proxied("normalised_softmax", temperature=0.5)(*corners())
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1 / 0.5)), abs=1e-5)


def test_proxy_anchor_adds_what_each_proxy_pulls_and_pushes() -> None:
    """Eq. 4: each proxy pulls two images at cosine 1 and pushes two at cosine 0."""
    loss = proxied("proxy_anchor", margin=0.1, alpha=4.0)(*corners())
    pulled = math.log(1 + 2 * math.exp(-4 * (1 - 0.1)))
    pushed = math.log(1 + 2 * math.exp(4 * (0 + 0.1)))
    assert loss.item() == pytest.approx(pulled + pushed, abs=1e-5)


def test_proxy_nca_pp_is_a_softmax_over_squared_distances_with_the_own_proxy_in_it() -> None:
    """Unit vectors: |x - p|^2 = 2 - 2 cos; temperature 1/9, and 3 as the scale of both sides, are the same."""
    criterion, _ = build_loss(config("loss=proxy_nca_pp"), SIZES)
    (proxies,) = criterion.parameters()
    embeddings, labels = drawn("without_regard_to_class")
    x, p = 3 * F.normalize(embeddings), 3 * F.normalize(proxies)
    expected = F.cross_entropy(-torch.cdist(x, p).square(), labels)
    torch.testing.assert_close(criterion(embeddings, labels), expected, rtol=1e-4, atol=1e-5)


def test_one_centre_is_arcface_and_more_take_the_nearest() -> None:
    embeddings, labels = drawn("two_of_a_class")
    sub, _ = build_loss(config("loss=subcentre_arcface"), SIZES)
    nearest = (F.normalize(embeddings) @ F.normalize(sub.W, dim=0)).unflatten(1, (6, 3)).max(dim=2)
    torch.testing.assert_close(sub.get_cosine(embeddings), nearest.values)
    one, _ = build_loss(config("loss=subcentre_arcface", "loss.criterion.sub_centers=1"), SIZES)
    plain, _ = build_loss(config("loss=arcface"), SIZES)
    with torch.no_grad():
        one.W.copy_(plain.W)
    torch.testing.assert_close(one(embeddings, labels), plain(embeddings, labels))


def test_triplet_and_contrastive_by_hand() -> None:
    """Distances 0 and the root of 2: no triplet is violated, and negatives lie beyond a margin of 1."""
    for name in ("triplet", "contrastive"):
        assert value(config(f"loss={name}", "miner=none"), *corners()).item() == 0
    wide = config("loss=contrastive", "loss.criterion.neg_margin=2.0")
    assert value(wide, *corners()).item() == pytest.approx(2 - math.sqrt(2), abs=1e-3)


@pytest.mark.parametrize(("pos", "neg"), [("easy", "semihard"), ("hard", "hard"), ("easy", "hard")])
def test_batch_easy_hard_takes_the_positive_and_the_negative_that_it_names(pos: str, neg: str) -> None:
    embeddings, labels = drawn("four_of_a_class")
    choice = [f"miner.pos_strategy={pos}", f"miner.neg_strategy={neg}"]
    _, miner = build_loss(config("loss=triplet", "miner=batch_easy_hard", *choice), SIZES)
    assert miner is not None
    found = torch.stack(list(miner(embeddings, labels)), dim=1)  # type: ignore[call-overload]
    distance = torch.cdist(F.normalize(embeddings), F.normalize(embeddings))
    expected = []
    for anchor in range(len(labels)):
        same, other = labels == labels[anchor], labels != labels[anchor]
        same[anchor] = False
        far, near = distance[anchor].where(same, torch.tensor(-1.0)), distance[anchor].where(same, torch.tensor(9.0))
        positive = int(far.argmax() if pos == "hard" else near.argmin())
        if neg == "semihard":
            other &= distance[anchor] > distance[anchor, positive]
        if other.any():
            negative = int(distance[anchor].where(other, torch.tensor(9.0)).argmin())
            expected.append([anchor, positive, anchor, negative])
    assert found.tolist() == expected


def test_settings_are_those_of_the_papers() -> None:
    """What the peers' own defaults are not."""
    assert peers.ProxyNCALoss(2, 2).softmax_scale == 1  # which ProxyNCA++ corrects
    assert build_loss(config("loss=proxy_nca_pp"), SIZES)[0].softmax_scale == 9
    margin, _ = build_loss(config("loss=margin"), SIZES)
    assert margin.beta.tolist() == pytest.approx([1.2] * 6)
    anchor, _ = build_loss(config("loss=proxy_anchor"), SIZES)
    assert (anchor.margin, anchor.alpha) == (0.1, 32)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (["loss=triplet", "loss.criterion.margin=-1"], "loss.criterion.margin is -1: expected a number of at least 0"),
        (["loss=triplet", "miner.margin=nan"], "miner.margin is nan: expected a number of at least 0"),
        (["loss=contrastive", "loss.criterion.neg_margin=inf"], "loss.criterion.neg_margin is inf"),
        (["loss=arcface", "loss.criterion.scale=0"], "loss.criterion.scale is 0: expected a number above 0"),
        (
            ["loss=supcon", "loss.criterion.temperature=-0.1"],
            "temperature is -0.1: expected a number above 0",
        ),
        (["loss=soft_triple", "loss.criterion.centers_per_class=0"], "loss.criterion.centers_per_class is 0"),
        (["loss=subcentre_arcface", "loss.criterion.sub_centers=1.5"], "expected an integer"),
        (["loss=cosface", "loss.criterion.margin=wide"], "loss.criterion.margin is 'wide': expected a number"),
        (["loss=multi_similarity", "loss.criterion.base=nan"], "loss.criterion.base is nan"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(chosen: list[str], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        build_loss(config(*chosen), SIZES)
