"""Causal agreement: effects worked out by hand, maps that are the effects, their negative and noise, and the passes."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from sfam_bench.core.errors import UserError
from sfam_bench.core.records import PairBatch, Redrawing
from sfam_bench.core.similarity import Cosine, Dot
from sfam_bench.core.targets import Margin, Similarity
from sfam_bench.datasets.batches import load_batch
from sfam_bench.datasets.episodes import Episodes
from sfam_bench.datasets.pairs import PairChoice
from sfam_bench.datasets.planted.dataset import Planted
from sfam_bench.datasets.planted.worlds import Channel, Crowd, Relation, Scale, Shortcut
from sfam_bench.evaluation.evaluate import evaluate
from sfam_bench.explainers.controls import Centre, Chance
from sfam_bench.metrics.causal import CausalAgreement, compare_parts, rank_parts
from sfam_bench.metrics.shared.base import Explained, Scene
from sfam_bench.metrics.shared.effects import Effects, measure_effects
from sfam_bench.models.build import build
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import Embedder, SimilarityModel, encode_batch, encode_pairs
from tests.metrics.conftest import Pixels

PARTS = ("a", "b", "c", "d")


@dataclass(frozen=True)
class Columns:
    """Images of 2 x 4 pixels, of which each column is a part; redrawn, its red is 0.1 times the number."""

    hidden: tuple[str, ...] = ()
    parts: ClassVar[tuple[str, ...]] = PARTS
    evidence: ClassVar[tuple[str, ...]] = ("a", "b")
    aspects: ClassVar[tuple[str, ...]] = ()

    def part_masks(self, image_id: str) -> torch.Tensor:
        masks = torch.eye(4, dtype=torch.bool)[:, None, :].repeat(1, 2, 1)
        masks[[PARTS.index(part) for part in self.hidden]] = False
        return masks

    def redraw(self, image_id: str, parts: tuple[str, ...], number: int) -> torch.Tensor:
        image = picture().clone()
        image[0, :, [PARTS.index(part) for part in parts]] = 0.1 * number
        return image


def picture() -> torch.Tensor:
    """Reds of 0.8, 0.4, 0.1 and 0 by column, and all else 0.5."""
    image = torch.full((3, 2, 4), 0.5)
    image[0] = torch.tensor([0.8, 0.4, 0.1, 0.0])
    return image


COLUMNS, DOT = Columns(), Dot()


def explained(maps: torch.Tensor, redraws: Redrawing = COLUMNS, similarity: Dot | Cosine = DOT, **more) -> Explained:
    """Maps of the picture paired with pure red: the score is the mean red."""
    count = len(maps)
    query, red = picture().expand(count, -1, -1, -1).contiguous(), torch.zeros(count, 3, 2, 4)
    red[:, 0] = 1
    model = SimilarityModel(Pixels(), Embedder(GAP(), normalise=False), similarity).eval()
    pairs = PairBatch(("q",) * count, tuple(map(str, range(count))), query, red, redraws=redraws, **more)
    target = Margin() if pairs.negative is not None else Similarity()
    return Explained(Scene(model, encode_pairs(model, target, query, red, pairs.negative), pairs), maps)


def as_map(values: list[float]) -> torch.Tensor:
    """A map with these values on the columns."""
    return torch.tensor(values, dtype=torch.float32).expand(1, 2, 4)


# the mean red falls by a quarter of the difference of 0.8, 0.4, 0.1, 0 and the mean of 0, 0.1
EFFECTS = [0.1875, 0.0875, 0.0125, -0.0125]


def agreement(maps: torch.Tensor, redraws: Redrawing = COLUMNS, **fields) -> float:
    return float(CausalAgreement(repeats=2, **fields)(explained(maps, redraws)).values[0])


def test_effects_are_those_by_hand_and_recorded_with_their_errors() -> None:
    scene = explained(as_map([1, 0, 0, 0])).scene
    effects = measure_effects(scene, 2)
    assert effects.means[0].tolist() == pytest.approx(EFFECTS, abs=1e-6)
    assert effects.errors[0].tolist() == pytest.approx([0.025 / 2] * 4, abs=1e-6)  # reds of 0 and 0.1, over 4 columns
    assert scene.facts["effect_a"].item() == pytest.approx(EFFECTS[0], abs=1e-6)
    assert scene.facts["effect_d_error"].item() == pytest.approx(0.0125, abs=1e-6)


def test_a_change_without_a_region_is_measured_and_is_no_part() -> None:
    class Doubled(Columns):
        aspects = ("both",)

        def redraw(self, image_id: str, parts: tuple[str, ...], number: int) -> torch.Tensor:
            return super().redraw(image_id, ("a", "b") if parts == ("both",) else parts, number)

    scene = explained(as_map([1, 0, 0, 0]), Doubled()).scene
    assert measure_effects(scene, 2).means.shape == (1, 4)
    assert scene.facts["effect_both"].item() == pytest.approx(EFFECTS[0] + EFFECTS[1], abs=1e-6)
    assert scene.facts["effect_both_error"].item() == pytest.approx(2 * 0.0125, abs=1e-6)


def test_parts_of_a_sum_do_not_interact_and_those_of_a_cosine_do() -> None:
    assert measure_effects(explained(as_map([1, 0, 0, 0])).scene, 2).interaction.item() == pytest.approx(0, abs=1e-6)
    curved = explained(as_map([1, 0, 0, 0]), similarity=Cosine()).scene
    assert abs(measure_effects(curved, 2).interaction.item()) > 1e-3


@pytest.mark.parametrize("of", ["mass", "density"])
@pytest.mark.parametrize(("measure", "best", "worst"), [("pearson", 1, -1), ("spearman", 1, -1), ("top", 1, 0)])
def test_the_effects_as_a_map_are_best_and_their_negative_is_worst(measure, best, worst, of) -> None:
    for sign, expected in ((1, best), (-1, worst)):
        found = agreement(sign * as_map(EFFECTS), measure=measure, of=of)
        assert found == pytest.approx(expected, abs=1e-5)


def test_signs_count_where_an_effect_is_certain() -> None:
    # with errors of 0.0125, only the effects of a and b are more than two of them
    assert agreement(as_map([0.1, 0.1, -1, 1]), measure="sign") == 1
    assert agreement(as_map([0.1, -0.1, 1, -1]), measure="sign") == 0.5
    assert agreement(-as_map(EFFECTS), measure="sign") == 0


@pytest.mark.slow
def test_a_random_map_is_the_null_of_correlations() -> None:
    maps = torch.randn(4000, 2, 4, generator=torch.Generator().manual_seed(0))
    for measure in ("pearson", "spearman"):
        found = CausalAgreement(measure=measure, repeats=2)(explained(maps)).values
        assert abs(found.mean().item()) < 0.03
    top = CausalAgreement(measure="top", repeats=2)(explained(maps)).values
    assert top.mean().item() == pytest.approx(0.25, abs=0.03)


def test_mass_counts_the_area_and_density_does_not() -> None:
    class Wide(Columns):
        def part_masks(self, image_id: str) -> torch.Tensor:
            masks = super().part_masks(image_id).clone()
            masks[0, 0] = False  # half as many pixels of a
            return masks

    uneven = as_map([1.1, 1, 0, 0])
    assert agreement(uneven, Wide(), measure="top", of="density") == 1
    assert agreement(uneven, Wide(), measure="top", of="mass") == 0


@pytest.mark.parametrize(
    ("maps", "hidden", "reason"),
    [
        (as_map(EFFECTS), ("a", "b"), "few_parts"),
        (as_map([1, 1, 1, 1]), (), "equal_relevance"),
        (as_map([0, 0, 0, 1]), ("d",), "equal_relevance"),
    ],
)
def test_without_a_correlation_there_is_a_reason(maps, hidden, reason) -> None:
    found = CausalAgreement(repeats=2)(explained(maps, Columns(hidden)))
    assert found.values.isnan().all()
    assert [name for name, flags in found.reasons.items() if flags.any()] == [reason]


def test_parts_without_effect_have_no_agreement() -> None:
    class Same(Columns):
        def redraw(self, image_id: str, parts: tuple[str, ...], number: int) -> torch.Tensor:
            return picture()

    found = CausalAgreement(repeats=2)(explained(as_map(EFFECTS), Same()))
    assert found.values.isnan().all()
    assert found.reasons["no_effect"].all()


def test_a_hidden_part_is_left_out() -> None:
    assert agreement(as_map([-5, *EFFECTS[1:]]), Columns(("a",))) == pytest.approx(1, abs=1e-5)


def test_halves_agree_to_one_where_redrawings_agree_and_less_where_they_do_not() -> None:
    class Noise(Columns):
        def redraw(self, image_id: str, parts: tuple[str, ...], number: int) -> torch.Tensor:
            draw = torch.Generator().manual_seed(number + 10 * PARTS.index(parts[0]))
            return torch.rand(3, 2, 4, generator=draw)

    halves = CausalAgreement(value="split_half", repeats=4, higher_is_better=None)
    assert halves(explained(as_map(EFFECTS))).values.item() == pytest.approx(1, abs=1e-5)
    assert halves(explained(as_map(EFFECTS), Noise())).values.item() < 0.95


def test_the_margin_s_effects_are_those_on_the_margin() -> None:
    green = torch.zeros(1, 3, 2, 4)
    green[:, 1] = 1
    own = explained(as_map(EFFECTS), negative=green, negative_ids=("n",))
    assert measure_effects(own.scene, 2).means[0].tolist() == pytest.approx(EFFECTS, abs=1e-6)  # green never changes
    half = explained(as_map(EFFECTS), negative=own.scene.pairs.reference / 2, negative_ids=("n",))
    assert measure_effects(half.scene, 2).means[0].tolist() == pytest.approx([e / 2 for e in EFFECTS], abs=1e-6)


def test_chance_is_the_agreement_with_the_effects_on_another_reference() -> None:
    chance = CausalAgreement(value="chance", repeats=2, higher_is_better=None)
    opposite = explained(as_map(EFFECTS), others={"other_class": -red_images()})
    assert chance(opposite).values.item() == pytest.approx(-1, abs=1e-5)
    missing = explained(as_map(EFFECTS), others={"other_class": torch.full((1, 3, 2, 4), torch.nan)})
    assert chance(missing).reasons["no_other_reference"].all()


def red_images() -> torch.Tensor:
    red = torch.zeros(1, 3, 2, 4)
    red[:, 0] = 1
    return red


def test_the_reference_s_map_is_compared_with_the_reference_s_parts() -> None:
    own = explained(as_map([0, 0, 0, 1]))
    swapped = replace(own, remake=lambda model, encoded, pairs: as_map(EFFECTS), scene=exchange(own.scene))
    found = CausalAgreement(side="reference", repeats=2)(swapped)
    assert found.values.item() == pytest.approx(1, abs=1e-5)
    assert CausalAgreement(side="reference", repeats=2)(own).reasons["not_drawn"].all()  # maps that are read from files


def exchange(scene: Scene) -> Scene:
    """The scene with the picture as its reference."""
    pairs = replace(scene.pairs, query=scene.pairs.reference, reference=scene.pairs.query)
    return Scene(scene.model, encode_pairs(scene.model, Similarity(), pairs.query, pairs.reference), pairs)


def test_all_methods_and_metrics_share_the_passes() -> None:
    own, counted = explained(as_map(EFFECTS)), []

    class Counted:
        batch = 8

        def __call__(self, series):
            for key, images in series:
                rows = torch.zeros(len(images), 3, 2, 4)
                images.write(0, rows)
                counted.append(len(rows))
                yield key, own.scene.model.encode(rows).embeddings

    metrics = {str(k): CausalAgreement(measure=m, repeats=3) for k, m in enumerate(("pearson", "spearman", "top"))}
    methods = {"centre": Centre(), "chance": Chance()}
    (batch,) = evaluate(own.scene.model, Similarity(), [own.scene.pairs], methods, metrics, "made", passes=Counted())
    assert sum(counted) == (len(PARTS) + 1) * 3
    facts = {record.metric for record in batch.records if record.explainer == "pair"}
    assert {"effect_a", "effect_a_error", "effect_interaction"} <= facts


def test_one_redrawing_has_no_error_and_is_refused() -> None:
    with pytest.raises(UserError, match="repeats is 1: expected at least 2"):
        CausalAgreement(repeats=1)


def test_ties_have_their_mean_rank_and_hidden_parts_none() -> None:
    ranks = rank_parts(torch.tensor([[3.0, 1.0, torch.nan, 1.0]]))
    assert ranks.nan_to_num(-1).tolist() == [[3.0, 1.5, -1, 1.5]]


def test_values_do_not_depend_on_the_unit_of_the_score() -> None:
    effects = torch.tensor([[0.4, 0.1, -0.2, 0.0]])
    made = Effects(
        torch.ones(1, 4, 1, 1, dtype=torch.bool), torch.ones(1), torch.zeros(1, 4, 2), torch.zeros(1, 2), (0,)
    )
    small, large = (compare_parts(effects, effects**3 * unit, made, "pearson").values for unit in (1e-3, 1))
    torch.testing.assert_close(small, large)


SMALL = {"size": 32, "train_per_class": 0, "test_per_class": 4}
PARTIAL_MATCH, TRIPLET, EXCHANGED = (PairChoice((kind,), 6) for kind in ("partial_match", "triplet", "exchanged"))
SHARED_PART = Episodes(ways=4, shots=3, queries=1, count=6, explained=6, kinds=("shared_part",))
WORLDS = {
    "partial": (Planted(**SMALL), PARTIAL_MATCH, Similarity()),
    "shortcut": (Shortcut(**SMALL), PARTIAL_MATCH, Similarity()),
    "scale": (Scale(**SMALL), PARTIAL_MATCH, Similarity()),
    "crowd": (Crowd(**SMALL), PARTIAL_MATCH, Similarity()),
    "channel": (Channel(**SMALL), PARTIAL_MATCH, Similarity()),
    "relation": (Relation(**SMALL), EXCHANGED, Similarity()),
    "prototype": (Planted(**SMALL), SHARED_PART, Similarity()),
    "difference": (Planted(**SMALL), TRIPLET, Margin()),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in ("partial", "difference") else [pytest.mark.slow]) for name in WORLDS],
)
def test_in_every_world_the_effects_are_the_best_map_their_negative_the_worst_and_noise_the_null(name: str) -> None:
    world, choice, target = WORLDS[name]
    torch.manual_seed(0)
    model = build("net", planted_net(), GAP(), Cosine(), image_size=32)
    ids = list(world.index.index)
    gallery = torch.randn(len(ids), 4)
    batch = load_batch(world, choice(world, Cosine(), gallery, ids))
    scene = Scene(model, encode_batch(model, target, batch), batch)
    effects = measure_effects(scene, 2)
    regions = effects.regions.double()
    sizes = regions.sum(dim=(2, 3)).clamp_min(1)

    def score(parts: torch.Tensor) -> torch.Tensor:
        """The agreement of maps with these sums on the parts."""
        maps = torch.einsum("bp,bpij->bij", parts.double().nan_to_num(0) / sizes, regions)
        return CausalAgreement(repeats=2)(Explained(scene, maps)).values

    torch.testing.assert_close(score(effects.means), torch.ones(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(score(-effects.means), -torch.ones(6), atol=1e-4, rtol=0)
    noise = torch.stack([score(torch.randn(effects.means.shape)) for _ in range(30)])
    assert abs(noise.mean()) < 4 * noise.std() / noise.numel() ** 0.5
    assert noise.std() > 0.2
