"""The flow from pairs to records: what is recorded, what is flagged, and what it costs."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from sfam_bench.core.baselines import Blur, MeanColour, Zeros
from sfam_bench.core.columns import POINT_TO_POINT
from sfam_bench.core.errors import UserError
from sfam_bench.core.maps import upsample
from sfam_bench.core.records import PairBatch
from sfam_bench.core.similarity import Cosine, NegativeEuclidean
from sfam_bench.core.targets import Margin, Similarity
from sfam_bench.engine.modes import without_grad
from sfam_bench.engine.passes import Passes
from sfam_bench.evaluation.evaluate import PAIR, answer_questions, count_passes, evaluate, make_methods, own_passes
from sfam_bench.explainers.controls import Chance, LaFAM
from sfam_bench.explainers.grad_cam import GradCAM
from sfam_bench.explainers.hirescam import HiResCAM
from sfam_bench.explainers.score_cam import ScoreCAM
from sfam_bench.explainers.sfam import SFAM
from sfam_bench.explainers.xgrad_cam import XGradCAM
from sfam_bench.explainers.zhu import Zhu
from sfam_bench.metrics.localisation import EnergyPointingGame, PointingGame
from sfam_bench.metrics.perturbation import AreaError, Midpoint, Perturbation, Trapezoid
from sfam_bench.metrics.shared.base import Probing, Scene
from sfam_bench.metrics.shared.steps import sample_steps
from sfam_bench.models.build import build
from sfam_bench.models.heads import linear
from sfam_bench.models.planted_net import planted_net
from sfam_bench.models.poolings import GAP
from sfam_bench.models.similarity_model import encode_pairs
from sfam_bench.runs.reader import read_curves


def model(head=None, similarity=None):
    torch.manual_seed(0)
    return build("small", planted_net((4, 6), (2, 2)), GAP(), similarity or Cosine(), head, image_size=32)


def batch(count=3, regions=("foreground",)):
    images = torch.rand(2, count, 3, 32, 24, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(count, 32, 24, dtype=torch.bool)
    mask[:, 4:20, 6:18] = True
    ids = [tuple(f"{side}{i}" for i in range(count)) for side in "qr"]
    return PairBatch(*ids, *images, masks=dict.fromkeys(regions, mask))


def records(network, pairs, explainers, metrics):
    (shard,) = evaluate(network, Similarity(), [pairs], explainers, metrics, "made")
    return shard.records


def test_each_pair_explainer_and_metric_gives_one_record():
    found = records(model(), batch(), {"sfam": SFAM(), "lafam": LaFAM()}, {"point": PointingGame()})
    keys = [(r.explainer, r.metric, r.query_id, r.reference_id) for r in found]
    expected = [(e, "point", f"q{i}", f"r{i}") for e in ("sfam", "lafam") for i in range(3)]
    assert keys == [*expected, *((PAIR, "s_full", f"q{i}", f"r{i}") for i in range(3))]


def test_a_metric_whose_region_is_absent_says_nothing():
    found = records(model(), batch(regions=()), {"sfam": SFAM()}, {"point": PointingGame()})
    assert {r.metric for r in found} == {"s_full"}


@pytest.mark.parametrize("similarity", [Cosine(), NegativeEuclidean()], ids=lambda s: s.name)
def test_the_similarity_without_the_head_stands_beside_the_score(similarity):
    network, pairs = model(linear(5), similarity), batch()
    found = {r.query_id: r.value for r in records(network, pairs, {}, {}) if r.metric == "s_headless"}
    pooled = [network.trunk(images).mean(dim=(2, 3)) for images in (pairs.query, pairs.reference)]
    unit = [nn.functional.normalize(features, dim=1) for features in pooled]
    assert list(found.values()) == pytest.approx(similarity(*unit).tolist(), rel=1e-5)
    assert "s_headless" not in {r.metric for r in records(model(), pairs, {}, {})}


def test_a_map_without_positive_part_is_flagged_for_energy_alone():
    negative = SFAM(euclidean_cis="negative")
    metrics = {"energy": EnergyPointingGame(), "point": PointingGame()}
    found = records(model(similarity=NegativeEuclidean()), batch(), {"negative": negative}, metrics)
    flags = {(r.metric, r.flag) for r in found if r.metric != "s_full"}
    assert flags == {("energy", "no_positive_part"), ("point", "")}
    assert all(math.isnan(r.value) == bool(r.flag) for r in found)


def test_an_explainer_that_loses_a_pair_is_refused():
    class Loses:
        def __call__(self, model, encoded, pairs):
            return encoded.query.activations[1:, 0]

    with pytest.raises(UserError, match=r"for 3 pairs: expected \(batch, rows, cols\)"):
        records(model(), batch(), {"loses": Loses()}, {})


# One stream of passes

STEPS, WHOLE = Midpoint(5), Trapezoid(16)  # five and fifteen passes a walk
FOUR = {"sfam": SFAM(), "grad_cam": GradCAM(), "lafam": LaFAM(), "chance": Chance()}
ALIKE = {"grad_cam": GradCAM(relu=False), "hirescam": HiResCAM(), "xgrad_cam": XGradCAM(relu=False)}
CURVES = {
    "deletion": Perturbation("deletion", MeanColour(), STEPS),
    "point": PointingGame(),
    "both": Perturbation("insertion_minus_deletion", Zeros(), Midpoint(3), min_range=0.01),
    "error": AreaError("deletion", MeanColour(), STEPS, WHOLE, share=0.5),
    "black": Perturbation("insertion", Zeros(), STEPS, min_range=-9.0),
}


def lively(similarity=None):
    """The model with weights scaled (He), so that its scores depend on the images."""
    network = model(similarity=similarity)
    for layer in network.trunk.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return network


def table(found):
    """Values by explainer, metric and query; a flag in the place of NaN."""
    return {(r.explainer, r.metric, r.query_id): r.flag or r.value for r in found}


def counting(function, batch=1):
    """Passes, and the rows of each call."""
    calls = []

    def counted(rows):
        calls.append(len(rows))
        return function(rows)

    return Passes(counted, batch), calls


def taken(network, pairs, explainers, metrics, batch=1, target=None):
    """Records, and how many inputs were computed for them."""
    passes, calls = counting(without_grad(network, network), batch)
    (shard,) = evaluate(network, target or Similarity(), [pairs], explainers, metrics, "made", passes=passes)
    return shard.records, sum(calls)


@pytest.mark.parametrize("target", [Similarity(), Margin()], ids=lambda target: target.name)
@pytest.mark.parametrize("size", [16, *(pytest.param(size, marks=pytest.mark.slow) for size in (4, 64))])
def test_packed_records_are_those_of_each_method_and_metric_alone(target, size):
    network = lively()
    pairs = replace(batch(5), negative=torch.rand(5, 3, 32, 24), negative_ids=tuple("vwxyz"))
    packed, together = taken(network, pairs, FOUR, CURVES, size, target)
    alone, apart = {}, 0
    for name, explainer in FOUR.items():
        for metric, measure in CURVES.items():
            found, count = taken(network, pairs, {name: explainer}, {metric: measure}, size, target)
            alone |= table(found)
            apart += count
    assert table(packed).keys() == alone.keys()
    assert table(packed) == pytest.approx(alone, abs=1e-6)
    assert together < apart
    keys = [(r.explainer, r.metric) for r in packed if r.explainer != PAIR]
    assert list(dict.fromkeys(keys)) == [(name, metric) for name in FOUR for metric in CURVES]


@pytest.mark.parametrize("target", [Similarity(), Margin()], ids=lambda target: target.name)
def test_packed_records_are_those_of_each_pair_alone(target):
    network = lively()
    smooth = {name: FOUR[name] for name in ("sfam", "lafam", "chance")}  # a ReLU leaves ties that depend on rounding
    pairs = replace(batch(4), negative=torch.rand(4, 3, 32, 24), negative_ids=tuple("vwxy"))
    alone = {}
    for i in range(4):
        images = {side: getattr(pairs, side)[i : i + 1] for side in ("query", "reference", "negative")}
        ids = {f"{side}_ids": getattr(pairs, f"{side}_ids")[i : i + 1] for side in images}
        masks = {name: mask[i : i + 1] for name, mask in pairs.masks.items()}
        alone |= table(taken(network, PairBatch(**ids, **images, masks=masks), smooth, CURVES, 16, target)[0])
    assert table(taken(network, pairs, smooth, CURVES, 16, target)[0]) == pytest.approx(alone, abs=1e-5)


def test_what_one_pair_lacks_is_not_lacking_in_the_others_of_its_batch():
    masks = batch().masks["foreground"].clone()
    masks[1] = False
    lacking = replace(batch(), masks={"foreground": masks}, lacking={"foreground": torch.tensor([False, True, False])})
    metrics = {"point": PointingGame(), "deletion": CURVES["black"]}
    whole, found = (
        records(lively(), pairs, {"sfam": SFAM(), "lafam": LaFAM()}, metrics) for pairs in (batch(), lacking)
    )
    absent = batch().query_ids[1]
    left = [one for one in whole if not (one.metric.startswith("point") and one.query_id == absent)]
    assert table(found) == pytest.approx(table(left))


def test_the_batch_of_the_passes_does_not_matter():
    network, pairs = lively(), batch(3)
    first = table(taken(network, pairs, FOUR, CURVES, 1)[0])
    for size in (2, 7, 100, 1000):
        assert table(taken(network, pairs, FOUR, CURVES, size)[0]) == pytest.approx(first, abs=1e-6)


@pytest.mark.parametrize("caller", [torch.inference_mode, torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("learns", [False, True], ids=["images", "images_with_gradient"])
def test_the_callers_mode_does_not_matter(caller, learns):
    network, pairs = lively().train(), batch(2)
    expected = table(records(network, pairs, FOUR, CURVES))
    with caller():
        images = [images.clone().requires_grad_(learns) for images in (pairs.query, pairs.reference)]
        found = records(network, replace(pairs, query=images[0], reference=images[1]), FOUR, CURVES)
    assert table(found) == pytest.approx(expected, abs=1e-6)
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize("similarity", [Cosine(), NegativeEuclidean()], ids=lambda s: s.name)
def test_maps_that_coincide_are_walked_once(similarity):
    network, pairs, calls = lively(similarity), batch(5), []
    metrics = {name: metric for name, metric in CURVES.items() if name != "error"}
    network.trunk.register_forward_hook(lambda *_: calls.append(1))
    alone = records(network, pairs, {"grad_cam": ALIKE["grad_cam"]}, metrics)
    cost = len(calls)
    calls.clear()
    found = records(network, pairs, ALIKE, metrics)
    assert len(calls) == cost
    for name in ALIKE:
        ours = [(r.metric, r.query_id, r.value, r.flag) for r in found if r.explainer == name]
        assert ours == [(r.metric, r.query_id, r.value, r.flag) for r in alone if r.explainer == "grad_cam"]
    assert [r.explainer for r in found if r.metric == "deletion"] == [name for name in ALIKE for _ in range(5)]


def test_only_the_pairs_whose_maps_coincide_are_lent():
    def partly(network, encoded, pairs):
        maps = SFAM()(network, encoded, pairs).clone()
        maps[[1, 3]] *= -1
        return maps

    network, pairs = lively(), batch(5)
    metrics = {"deletion": CURVES["black"]}
    explainers = {"sfam": SFAM(), "partly": partly, "inverse": lambda *given: -SFAM()(*given)}
    found, count = taken(network, pairs, explainers, metrics)
    assert count == 5 * (5 + 2 + 3)  # the third has two of the second and three that nobody had
    for name, explainer in explainers.items():
        alone = table(taken(network, pairs, {name: explainer}, metrics)[0])
        assert {key: value for key, value in table(found).items() if key[0] == name} == pytest.approx(
            {key: value for key, value in alone.items() if key[0] == name}, abs=1e-6
        )


def falling(rank, down):
    """The order of SFAM's map in steps of equal size, but for two pixels next to each other that hardly differ."""

    def explain(network, encoded, pairs):
        order = upsample(SFAM()(network, encoded, pairs), (32, 24)).flatten(1).argsort(dim=1, descending=True)
        values = torch.linspace(1, 0.5, order.shape[1])
        values[rank + 1] = values[rank] - 2e-7
        values[rank] -= down
        return torch.zeros(order.shape).scatter_(1, order, values.expand_as(order)).view(-1, 32, 24)

    return explain


@pytest.mark.parametrize("across", [True, False], ids=["across_a_step", "within_a_step"])
def test_maps_that_differ_by_rounding_share_scores_only_where_their_images_are_equal(across):
    network, pairs, metrics = lively(), batch(3), {"deletion": CURVES["black"]}
    first = sample_steps(STEPS, 32 * 24)[0][1]
    rank = first - 1 if across else first - 3
    explainers = {"plain": falling(rank, 0), "moved": falling(rank, 4e-7)}
    found, count = taken(network, pairs, explainers, metrics)
    assert count == (2 if across else 1) * 3 * 5
    alone = table(taken(network, pairs, {"moved": explainers["moved"]}, metrics)[0])
    assert {key: table(found)[key] for key in alone} == pytest.approx(alone, abs=1e-7, nan_ok=True)


@pytest.mark.parametrize("size", [4, 16, 64])
def test_an_explainer_that_takes_passes_itself_disturbs_no_curve(size):
    network, pairs = lively(), batch(3)
    explainers = {"sfam": SFAM(), "score_cam": ScoreCAM(space="image"), "chance": Chance()}
    metrics = {"deletion": CURVES["deletion"], "black": CURVES["black"]}
    together = table(taken(network, pairs, explainers, metrics, size)[0])
    for name, explainer in explainers.items():
        alone = table(taken(network, pairs, {name: explainer}, metrics, size)[0])
        assert {key: together[key] for key in alone} == pytest.approx(alone, abs=1e-6)


@pytest.mark.slow
def test_a_map_that_coincides_but_is_drawn_otherwise_gets_its_curve_in_full():
    network, pairs = lively(), batch(12)
    metric = AreaError("deletion", MeanColour(), STEPS, WHOLE, share=0.5, min_range=-9.0)
    alike = {name: SFAM() for name in "abc"}
    found, count = taken(network, pairs, alike, {"error": metric})
    drawn = {name: {r.query_id for r in found if r.explainer == name} for name in alike}
    assert all(drawn[one] - drawn[other] for one, other in ("ab", "ba", "bc", "ca"))
    assert drawn["a"] & drawn["b"] & drawn["c"]
    assert count == len(set.union(*drawn.values())) * (5 + 15)
    every = table(taken(network, pairs, {"a": SFAM()}, {"error": replace(metric, share=1.0)})[0])
    for (name, kind, query), value in table(found).items():
        if kind == "error":
            assert value == pytest.approx(every["a", "error", query], abs=1e-6)
            assert query in drawn[name]


def test_a_pair_that_is_not_drawn_leaves_no_record_whatever_its_map():
    network, pairs = lively(), batch(20)
    metrics = {"error": AreaError("deletion", MeanColour(), STEPS, WHOLE, share=0.5)}
    flat = {"flat": lambda network, encoded, pairs: torch.zeros(len(pairs), 4, 3)}
    found = [r for r in records(network, pairs, flat, metrics) if r.explainer == "flat"]
    assert 4 <= len(found) <= 16
    assert {r.flag for r in found} == {"constant_map"}
    assert not [r for r in records(network, pairs, flat, {"error": replace(metrics["error"], share=0.0)}) if r.flag]


def test_pairs_without_range_are_not_asked():
    network, pairs = lively(), batch(3)
    pairs.query[1] = 0.5  # its own mean colour
    found, count = taken(network, pairs, {"chance": Chance()}, {"deletion": CURVES["deletion"]})
    assert count == 2 * 5
    assert table(found)["chance", "deletion", "q1"] == "zero_range"


def test_metrics_that_ask_nothing_take_no_passes_and_keep_the_order():
    def refuse(rows):
        raise AssertionError("nobody asked")

    metrics = {"point": PointingGame(), "energy": EnergyPointingGame()}
    assert not any(isinstance(metric, Probing) for metric in metrics.values())
    (shard,) = evaluate(lively(), Similarity(), [batch(2)], FOUR, metrics, "made", passes=Passes(refuse))
    found = [(r.explainer, r.metric, r.query_id) for r in shard.records if r.explainer != PAIR]
    assert found == [(name, metric, query) for name in FOUR for metric in metrics for query in ("q0", "q1")]
    assert PAIR in {r.explainer for r in shard.records}


@pytest.mark.parametrize(("metrics", "ahead"), [({}, 1), ({"point": PointingGame()}, 1), (CURVES, 2)])
def test_methods_are_made_when_their_turn_comes(metrics, ahead):
    network, pairs, log = lively(), batch(3), []

    def logged(name):
        def explain(*given):
            log.append(name)
            return FOUR[name](*given)

        return explain

    encoded = encode_pairs(network, Similarity(), pairs.query, pairs.reference)
    methods = make_methods(Scene(network, encoded, pairs), {name: logged(name) for name in FOUR}, [""] * 3)
    for done, method in enumerate(answer_questions(methods, metrics.values(), encoded.passes)):
        assert method.name == list(FOUR)[done]
        assert log[: done + 1] == list(FOUR)[: done + 1]
        assert len(log) - done <= ahead


@pytest.mark.parametrize("size", [1, 7, 16])
def test_what_is_planned_is_what_is_taken(size):
    metrics = {
        "deletion": Perturbation("deletion", MeanColour(), STEPS, -9.0),
        "insertion": Perturbation("insertion", MeanColour(), STEPS, -9.0),
        "both": Perturbation("insertion_minus_deletion", MeanColour(), STEPS, -9.0),
        "blurred": Perturbation("insertion_minus_deletion", Blur(), WHOLE, -9.0),
        "error": AreaError("deletion", MeanColour(), STEPS, WHOLE, share=1.0, min_range=-9.0),
        "point": PointingGame(),
    }
    network, pairs = lively(), batch(3)
    work = count_passes(metrics.values(), len(FOUR), len(pairs), 32 * 24)
    assert work == 4 * 3 * (5 + 5 + 15 + 15 + 15)
    _, count = taken(network, pairs, FOUR, metrics, size)
    assert count == math.ceil(work / size) * size


def test_plans_by_hand():
    both, error = Perturbation("insertion_minus_deletion"), AreaError("deletion")
    assert count_passes([both], 3, 10, 224 * 224) == 3 * 10 * 40
    assert count_passes([both, both, Perturbation("deletion")], 3, 10, 224 * 224) == 3 * 10 * 40
    for either_way in ([error, both], [both, error]):
        assert count_passes(either_way, 3, 10, 224 * 224) == round(3 * 10 * (40 + 0.02 * 223))
    assert count_passes([error], 1, 100, 224 * 224) == round(100 * 0.02 * (223 + 20))
    assert count_passes([replace(error, share=0.0)], 3, 10, 224 * 224) == 0
    assert count_passes([PointingGame()], 3, 10, 224 * 224) == count_passes([], 3, 10, 224 * 224) == 0


@dataclass(frozen=True)
class Reads:
    """One channel at the cut; takes two passes of the query for each of them."""

    channel: int

    def forwards(self, query):
        return 2 * query.activations.shape[1]

    def __call__(self, network, encoded, pairs):
        images = ((pair, Kept(image, self.forwards(encoded.query))) for pair, image in enumerate(encoded.query.images))
        scores = torch.stack([rows.mean() for _, rows in encoded.passes(images)])
        return encoded.query.activations[:, self.channel] * scores[:, None, None]


@dataclass(frozen=True)
class Kept:
    """The same image again and again."""

    like: torch.Tensor
    count: int

    def __len__(self):
        return self.count

    def write(self, first, out):
        out[:] = self.like


@pytest.mark.parametrize("keep_maps", [False, True])
def test_the_passes_of_explainers_themselves_are_planned(keep_maps):
    network, pairs = lively(), batch(3)
    explainers = {"first": Reads(0), "lafam": LaFAM(), "second": Reads(1)}
    metrics = {"deletion": Perturbation("deletion", MeanColour(), STEPS, -9.0)}
    own = own_passes(explainers.values(), network.encode(pairs.query[:1]), keep_maps)
    assert own == 2 * (2 * 6) * (2 if keep_maps else 1)
    passes, calls = counting(without_grad(network, network))
    list(evaluate(network, Similarity(), [pairs], explainers, metrics, "made", keep_maps, passes))
    assert (
        sum(calls) == count_passes(metrics.values(), len(explainers), len(pairs), 32 * 24, own) == 3 * own + 3 * 3 * 5
    )
    assert own_passes([LaFAM(), SFAM()], network.encode(pairs.query[:1])) == 0


def test_passes_that_are_given_take_the_curves_and_only_those():
    network, pairs, seen = lively(), batch(3), []
    torch.manual_seed(1)
    other = lively()
    metrics = {"deletion": CURVES["deletion"], "point": PointingGame()}
    plain = table(records(network, pairs, {"sfam": SFAM()}, metrics))
    passes, calls = counting(without_grad(other, lambda images: other(1 - images)), 16)
    network.trunk.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    (shard,) = evaluate(network, Similarity(), [pairs], {"sfam": SFAM()}, metrics, "made", passes=passes)
    assert calls == [16]
    assert seen == [3, 3, 3]  # queries, references, baselines
    for key, value in table(shard.records).items():
        assert (value == plain[key]) == (key[1] != "deletion")


# Curves


def test_curves_are_those_that_the_metrics_rest_on():
    network, pairs = lively(), batch(4)
    pairs.query[1] = 0.5  # its own mean colour: no range

    def partly(network, encoded, pairs):
        maps = SFAM()(network, encoded, pairs).clone()
        maps[2] = 1.0
        return maps

    given = (network, Similarity(), [pairs], {"sfam": SFAM(), "partly": partly}, CURVES, "made")
    (shard,) = evaluate(*given)
    kept = {(curve.explainer, curve.curve, curve.query_id): curve for curve in shard.curves}
    assert len(kept) == len(shard.curves)
    assert {name for _, name, _ in kept} == {
        "deletion_mean_colour",
        "deletion_zeros",
        "insertion_zeros",
        "insertion_zeros_6_steps",
    }
    assert {query for who, name, query in kept if (who, name) == ("sfam", "deletion_mean_colour")} == {"q0", "q2", "q3"}
    assert {query for who, name, query in kept if (who, name) == ("partly", "deletion_mean_colour")} == {"q0", "q3"}
    full = {r.query_id: r.value for r in shard.records if r.metric == "s_full"}
    base = {r.query_id: r.value for r in shard.records if r.metric == "s_base_mean_colour"}
    values = table(shard.records)
    for query in ("q0", "q2", "q3"):
        curve = kept["sfam", "deletion_mean_colour", query]
        assert curve.fraction[0] == 0
        assert curve.fraction[-1] == 1
        assert (curve.score[0], curve.score[-1]) == pytest.approx((full[query], base[query]))
        weights = torch.tensor(STEPS(32 * 24)[1])
        area = (weights @ torch.tensor(curve.score) - base[query]) / (full[query] - base[query])
        assert area == pytest.approx(values["sfam", "deletion", query], abs=1e-4)
    (without,) = evaluate(*given, keep_curves=False)
    assert without.curves == []
    assert table(without.records) == pytest.approx(values, nan_ok=True)


def test_curves_cost_no_pass():
    network, pairs = lively(), batch(3)
    counts = []
    for keep in (False, True):
        passes, calls = counting(without_grad(network, network), 4)
        list(evaluate(network, Similarity(), [pairs], FOUR, CURVES, "made", passes=passes, keep_curves=keep))
        counts.append(sum(calls))
    assert counts[0] == counts[1] > 0


@pytest.mark.slow
def test_a_run_keeps_its_curves_compactly_and_its_report_draws_them(run_script, tmp_path):
    data = ["dataset.size=32", "dataset.train_per_class=2", "dataset.test_per_class=2", "model.image_size=32"]
    chosen = ["pairs.kinds=[random_positive]", "pairs.count=12", "batch_size=6", "explainer=[sfam,chance]"]
    asked = ["metric=[insertion_minus_deletion]", "min_range=-9", "full_share=0"]
    run = tmp_path / "run"
    code, _, err = run_script("evaluate", *data, *chosen, *asked, f"run_dir={run}")
    assert code == 0, err
    curves = read_curves(run)
    walks = {"deletion_mean_colour", "insertion_mean_colour", "deletion_blur", "insertion_blur"}
    assert set(curves["curve"]) == walks
    assert len(curves) == 12 * 2 * 4
    assert {len(score) for score in curves["score"]} == {22}
    size = sum(path.stat().st_size for path in (run / "curves").iterdir())
    assert size < 12 * 2 * 4 * 22 * 8 + 2 * 5_000  # a score and its fraction of four bytes each, and the schema twice
    code, _, err = run_script("report", f"runs=[{run}]", f"out={tmp_path / 'report'}")
    assert code == 0, err
    assert list((tmp_path / "report").glob("curves-*.png"))


def test_the_maps_of_references_that_are_kept_are_those_of_swapped_pairs():
    network, pairs = model(), batch()
    swapped = PairBatch(pairs.reference_ids, pairs.query_ids, pairs.reference, pairs.query)
    shards = evaluate(network, Similarity(), [pairs, swapped], {"chance": Chance()}, {}, "made", keep_maps=True)
    there, back = (shard.maps for shard in shards)
    torch.testing.assert_close(there["chance/reference"], back["chance/query"])
    assert not torch.equal(there["chance/reference"], there["chance/query"])


def test_what_positions_add_together_is_kept_beside_the_maps_and_sums_to_the_score():
    network, pairs = model(), batch()
    (shard,) = evaluate(network, Similarity(), [pairs], {"sfam": SFAM()}, {}, "made", keep_maps=True)
    points = shard.maps[POINT_TO_POINT]
    rows, cols = shard.maps["sfam/query"].shape[1:]
    assert points.shape == (3, rows, cols, rows, cols)
    assert points.dtype == torch.float16
    scores = [r.value for r in shard.records if r.metric == "s_full"]
    torch.testing.assert_close(points.double().sum(dim=(1, 2, 3, 4)), torch.tensor(scores).double(), atol=2e-3, rtol=0)


def test_the_strongest_matches_of_a_method_that_has_them_are_kept_beside_its_maps():
    network, pairs = model(), batch()
    methods = {"zhu": Zhu(), "sfam": SFAM()}
    (shard,) = evaluate(network, Similarity(), [pairs], methods, {}, "made", keep_maps=True)
    assert "sfam/matches" not in shard.maps
    encoded = encode_pairs(network, Similarity(), pairs.query, pairs.reference)
    for joint, found in zip(Zhu().point_pairs(network, encoded, pairs), shard.maps["zhu/matches"], strict=True):
        cells = (found[:, :4] * torch.tensor(joint.shape)).long()
        torch.testing.assert_close(joint[tuple(cells.T)], found[:, 4])
        strongest = joint.abs().flatten().sort(descending=True).values[: len(found)]
        torch.testing.assert_close(found[:, 4].abs(), strongest)
    assert len(found) == 12


@pytest.mark.parametrize("why", ["a fine grid", "a margin", "maps are not kept"])
def test_large_or_joint_point_to_point_maps_are_not_kept(why, monkeypatch):
    network, pairs = model(), batch()
    if why == "a fine grid":
        monkeypatch.setattr(
            "sfam_bench.evaluation.evaluate.POSITIONS", network.encode(pairs.query).activations[0, 0].numel() - 1
        )
    target = Margin() if why == "a margin" else Similarity()
    negative = {"negative_ids": ("n0", "n1", "n2"), "negative": pairs.query.flip(0)}
    (shard,) = evaluate(
        network,
        target,
        [replace(pairs, **negative)],
        {"sfam": SFAM(), **({} if why == "a margin" else {"zhu": Zhu()})},
        {},
        "made",
        keep_maps=why != "maps are not kept",
    )
    assert POINT_TO_POINT not in shard.maps
    assert "zhu/matches" not in shard.maps
    assert ("sfam/query" in shard.maps) is (why != "maps are not kept")
