"""Retrieval by hand, and against other people's measures."""

import json
import math
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from sklearn.cluster import KMeans
from sklearn.metrics import average_precision_score

from sfam_bench.core.errors import UserError
from sfam_bench.core.similarity import Cosine, Dot, NegativeEuclidean, SimilarityFunction
from sfam_bench.retrieval.recall import Catalogue, average_retrieval, cluster_agreement, per_item, retrieval
from sfam_bench.retrieval.search import Roles, neighbours, search
from tests.contract import composed
from tests.parts import SIMILARITIES
from tests.retrieval.galleries import LINE, Counting, drawn, galleries, tied
from tests.scripts import DATA

LABELS = torch.tensor([7, 9, 7, 9, 9])
# neighbours of the same class (x) or not (.):   0: . x . .   1: . . x x   2: x . . .   3: x . . x   4: x . . x


def test_measures_by_hand() -> None:
    found = retrieval(NegativeEuclidean(), LINE, LABELS, recall_at=(1, 2, 2, 3))
    assert found["count"] == 5
    assert found["recall_at_1"] == pytest.approx(3 / 5)  # 2, 3, 4
    assert found["recall_at_2"] == pytest.approx(4 / 5)  # and 0
    assert found["recall_at_3"] == pytest.approx(1.0)
    # R is 1 for the items of class 7 and 2 for those of class 9
    assert found["r_precision"] == pytest.approx((0 + 0 + 1 + 1 / 2 + 1 / 2) / 5)
    assert found["map_at_r"] == pytest.approx((0 + 0 + 1 + 1 / 2 + 1 / 2) / 5)


def test_map_at_r_minds_the_order_where_r_precision_does_not() -> None:
    line, labels = torch.tensor([[0.0], [1.0], [2.5], [4.5]]), torch.tensor([1, 0, 1, 1])
    # of class 1, R = 2:  item 0: . x (x)   item 2: . x (x), its nearest being 1   item 3: x . (x)
    found = retrieval(NegativeEuclidean(), line, labels, recall_at=(1,))
    assert found["count"] == 3
    assert found["r_precision"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 2) / 3)
    assert found["map_at_r"] == pytest.approx((1 / 4 + 1 / 4 + 1 / 2) / 3)


def test_an_item_alone_in_its_class_is_found_but_never_asked() -> None:
    found = retrieval(NegativeEuclidean(), LINE, torch.tensor([7, 1, 7, 9, 9]), recall_at=(1,))
    assert found["count"] == 4
    assert found["recall_at_1"] == pytest.approx(3 / 4)  # 0 finds 1


def test_a_larger_k_than_there_are_items_is_all_of_them() -> None:
    assert retrieval(NegativeEuclidean(), LINE, LABELS, recall_at=(100,))["recall_at_100"] == 1.0


def test_no_class_of_two_is_said() -> None:
    with pytest.raises(UserError, match="no class has two images"):
        retrieval(Cosine(), LINE, torch.arange(5))


@settings(max_examples=30, deadline=None)
@given(galleries(), st.data())
def test_measures_are_ordered_and_bounded(gallery: torch.Tensor, data: st.DataObject) -> None:
    size = len(gallery)
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=size)))
    if labels.unique(return_counts=True)[1].max() < 2:
        return
    found = retrieval(NegativeEuclidean(), gallery, labels)
    assert 0 <= found["recall_at_1"] <= found["recall_at_2"] <= found["recall_at_4"] <= found["recall_at_8"] <= 1
    assert 0 <= found["map_at_r"] <= found["r_precision"] <= 1


def test_each_item_by_hand() -> None:
    found = per_item(NegativeEuclidean(), LINE, torch.tensor([7, 1, 7, 9, 9]), recall_at=(1, 2))
    assert found.index.tolist() == [0, 2, 3, 4]  # 1 is alone
    assert found["recall_at_1"].tolist() == [0, 1, 1, 1]
    assert found["recall_at_2"].tolist() == [1, 1, 1, 1]
    assert found["r_precision"].tolist() == found["map_at_r"].tolist() == [0, 1, 1, 1]
    assert average_retrieval(found) == retrieval(NegativeEuclidean(), LINE, torch.tensor([7, 1, 7, 9, 9]), (1, 2))


@settings(max_examples=30, deadline=None)
@given(galleries(), st.integers(1, 200), st.data())
def test_each_item_hangs_on_no_chunk(gallery: torch.Tensor, at_once: int, data: st.DataObject) -> None:
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=len(gallery), max_size=len(gallery))))
    if labels.unique(return_counts=True)[1].max() < 2:
        return
    whole = per_item(Dot(), gallery, labels)
    with patch("sfam_bench.retrieval.search.AT_ONCE", at_once):
        pd.testing.assert_frame_equal(per_item(Dot(), gallery, labels), whole)


def test_depths_that_are_none_are_said() -> None:
    for wrong in ((), (1, 0)):
        with pytest.raises(UserError, match="recall_at is "):
            per_item(Cosine(), LINE, LABELS, wrong)


# Other people's measures


def calculator(knn: Callable[..., Any], clusters: torch.Tensor | None = None) -> AccuracyCalculator:
    measures = ("precision_at_1", "r_precision", "mean_average_precision_at_r", "NMI")
    return AccuracyCalculator(measures, device=torch.device("cpu"), knn_func=knn, kmeans_func=lambda *_: clusters)


def same_class_twins() -> tuple[torch.Tensor, torch.Tensor]:
    """Each item twice, in one class, but for one item that is alone."""
    items, labels = drawn(30)
    return torch.cat([items, items, torch.zeros(1, 7)]), torch.cat([labels, labels, torch.tensor([9])])


@pytest.mark.parametrize(
    ("function", "distance"),
    [(NegativeEuclidean(), LpDistance(normalize_embeddings=False)), (Cosine(), CosineSimilarity())],
)
@pytest.mark.parametrize("data", [drawn, same_class_twins])
def test_measures_are_those_of_pytorch_metric_learning(
    function: SimilarityFunction, distance: Any, data: Callable[[], tuple[torch.Tensor, torch.Tensor]]
) -> None:
    """Of equals of one class any may come first."""
    items, labels = data()
    clusters = torch.arange(len(items)) % 4
    with patch.object(KMeans, "fit_predict", return_value=clusters.numpy()):
        ours = retrieval(function, items, labels, nmi=True)
    theirs = calculator(CustomKNN(distance), clusters).get_accuracy(items, labels)
    assert ours["recall_at_1"] == pytest.approx(theirs["precision_at_1"])
    assert ours["r_precision"] == pytest.approx(theirs["r_precision"])
    assert ours["map_at_r"] == pytest.approx(theirs["mean_average_precision_at_r"])
    assert ours["nmi"] == pytest.approx(theirs["NMI"])


def test_with_many_ties_measures_are_those_of_pytorch_metric_learning_given_our_order() -> None:
    """Its own search takes whatever comes first for the item itself, where equals of other classes may stand."""
    items, labels = tied()
    ours = retrieval(NegativeEuclidean(), items, labels)
    knn = lambda query, k, reference, _: neighbours(NegativeEuclidean(), reference, k)  # noqa: E731
    theirs = calculator(knn, labels).get_accuracy(items, labels)
    assert ours["recall_at_1"] == pytest.approx(theirs["precision_at_1"])
    assert ours["r_precision"] == pytest.approx(theirs["r_precision"])
    assert ours["map_at_r"] == pytest.approx(theirs["mean_average_precision_at_r"])


@pytest.mark.parametrize("data", [drawn, tied])
def test_each_average_precision_is_scikit_learns_down_to_r(
    data: Callable[[], tuple[torch.Tensor, torch.Tensor]],
) -> None:
    items, labels = data()
    found = per_item(NegativeEuclidean(), items, labels)
    _, order = neighbours(NegativeEuclidean(), items, len(items) - 1)
    for item, value in found["map_at_r"].items():
        depth = int((labels == labels[item]).sum()) - 1
        hits = (labels[order[item]] == labels[item])[:depth].numpy()
        theirs = average_precision_score(hits, -np.arange(depth)) * hits.mean() if hits.any() else 0.0
        assert value == pytest.approx(theirs)


def test_faiss_gives_the_same_measures_where_equals_are_of_one_class() -> None:
    pytest.importorskip("faiss")
    items, labels = same_class_twins()
    ours, theirs = (per_item(NegativeEuclidean(), items, labels, engine=engine) for engine in ("torch", "faiss"))
    pd.testing.assert_frame_equal(ours, theirs)


def test_clusters_that_are_the_classes_agree_wholly_and_the_seed_decides() -> None:
    labels = torch.arange(12) // 3
    items = 10 * torch.eye(4)[labels] + 0.01 * drawn(12, 4)[0]
    for function in SIMILARITIES:
        assert cluster_agreement(function, items, labels) == pytest.approx(1)
    noise, classes = drawn()
    found = [cluster_agreement(Dot(), noise, classes, seed) for seed in (0, 0, 1, 2, 3)]
    assert found[0] == found[1]
    assert len(set(found)) > 1
    assert all(0 <= value <= 1 for value in found)


def test_nmi_by_hand() -> None:
    """Classes a a b b, clusters 0 0 0 1: I = H(1/2) - 3/4 H(1/3), over the mean of H(1/2) and H(1/4)."""

    def entropy(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    with patch.object(KMeans, "fit_predict", return_value=np.array([0, 0, 0, 1])):
        found = cluster_agreement(Dot(), LINE[:4], torch.tensor([0, 0, 1, 1]))
    shared = entropy(1 / 2) - 3 / 4 * entropy(1 / 3)
    assert found == pytest.approx(shared / ((entropy(1 / 2) + entropy(1 / 4)) / 2))


# One query in a catalogue


def catalogue(items: torch.Tensor, labels: torch.Tensor) -> Catalogue:
    return Catalogue(items, labels, tuple(map(str, range(len(items)))))


def found_by_hand(
    function: SimilarityFunction,
    gallery: torch.Tensor,
    labels: list[int],
    version: torch.Tensor,
    query: int,
    other: int,
) -> tuple[float, float, float]:
    """Rank of the other, lead of the class, average precision: item by item."""
    scores = function.matrix(version[None], gallery)[0].tolist()
    items = [item for item in range(len(gallery)) if item != query]
    at_least = lambda least, among: sum(scores[item] >= scores[least] - 1e-9 for item in among)  # noqa: E731
    own = [item for item in items if labels[item] == labels[query]]
    rest = [item for item in items if labels[item] != labels[query]]
    if not own:
        return float(at_least(other, items)), float("nan"), float("nan")
    lead = max(scores[item] for item in own) - max((scores[item] for item in rest), default=-torch.inf)
    precision = sum(at_least(item, own) / at_least(item, items) for item in own) / len(own)
    return float(at_least(other, items)), lead, precision


def test_what_a_query_finds_by_hand_and_ties_count_against() -> None:
    line = catalogue(LINE, LABELS)
    # from 0 itself: item 1 at 0, 2 at 1, 3 at 3, 4 at 4.5; from 2.0: item 2 and 3 at 1, 1 at 2, 4 at 2.5
    found = line.find(NegativeEuclidean(), torch.tensor([[0.0], [2.0]]), "0", "2")
    assert found[0].tolist() == [2.0, -1.0, 1 / 2]
    assert found[1].tolist() == [2.0, 0.0, 1 / 2]
    # the other way: item 0, 1 at 1, 3 at 2 from 1.0
    assert line.find(NegativeEuclidean(), torch.tensor([[1.0]]), "2", "0").tolist() == [[2.0, 0.0, 1 / 2]]


def test_the_query_itself_and_a_class_of_one() -> None:
    alone = catalogue(LINE, torch.tensor([1, 2, 3, 4, 5]))
    rank, lead, precision = alone.find(NegativeEuclidean(), LINE[2:3], "2", "3")[0]
    assert rank == 3  # behind 0 and 1, not behind itself
    assert lead.isnan()
    assert precision.isnan()
    one_class = catalogue(LINE, torch.ones(5, dtype=torch.long)).find(NegativeEuclidean(), LINE[2:3], "2", "3")
    assert one_class.tolist() == [[3.0, torch.inf, 1.0]]


def test_an_id_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="9 is not in the gallery"):
        catalogue(LINE, LABELS).find(Cosine(), LINE[:1], "0", "9")


@settings(max_examples=40, deadline=None)
@given(galleries(), st.sampled_from(SIMILARITIES), st.data())
def test_what_a_query_finds_is_what_counting_gives(
    gallery: torch.Tensor, function: SimilarityFunction, data: st.DataObject
) -> None:
    size = len(gallery)
    labels = data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    query, other = data.draw(st.permutations(range(size)))[:2]
    versions = gallery[data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4))] / 2
    found = catalogue(gallery, torch.tensor(labels)).find(function, versions, str(query), str(other))
    expected = [found_by_hand(function, gallery, labels, version, query, other) for version in versions]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", SIMILARITIES)
def test_average_precision_is_that_of_scikit_learn(function: SimilarityFunction) -> None:
    items, labels = drawn()
    items[7], items[9] = items[8], items[10]  # ties are one threshold there too
    for query in (0, 7, 10):
        rest = torch.arange(60) != query
        versions = items[query] * torch.tensor([[1.0], [0.3], [-1.0]])
        found = catalogue(items, labels).find(function, versions, str(query), "30")[:, 2]
        scores = function.matrix(versions.double(), items.double())[:, rest].round(decimals=9)
        theirs = [average_precision_score((labels == labels[query])[rest], row) for row in scores]
        assert found.tolist() == pytest.approx(theirs, rel=1e-5)


def test_what_a_query_finds_agrees_with_recall_at_1() -> None:
    items, labels = drawn()
    whole = catalogue(items, labels)
    found = torch.cat([whole.find(NegativeEuclidean(), items[i : i + 1], str(i), "0") for i in range(60)])
    ours = (found[:, 1] > 0).double().mean().item()
    assert ours == pytest.approx(retrieval(NegativeEuclidean(), items, labels)["recall_at_1"])


def test_a_catalogue_is_scaled_once() -> None:
    items, labels = drawn()
    whole, counting = catalogue(items, labels), Counting()
    for query in ("0", "1", "2"):
        whole.find(counting, items[:2], query, "9")
    assert counting.scaled == [60, 2, 2, 2]  # the gallery once, then versions alone


@pytest.mark.parametrize("function", SIMILARITIES)
@pytest.mark.parametrize("versions", [1, 3, 19])
def test_equal_items_tie_whatever_float32_makes_of_them(function: SimilarityFunction, versions: int) -> None:
    """Products of equal rows differ in the last bit by their place: it must not decide."""
    draw = torch.Generator().manual_seed(0)
    for size, dims in [(7, 6), (48, 33), (101, 128), (301, 333)]:
        items = torch.nn.functional.normalize(torch.randn(size, dims, generator=draw), dim=1)
        items[[1, size // 2, -1]] = items[1].clone()
        labels = torch.arange(size)
        labels[[0, 1]] = 0  # the reference, beside two equals of other classes
        rows = items[1] + 0.02 * torch.randn(versions, dims, generator=draw)
        found = catalogue(items, labels).find(function, rows, "0", "1")
        torch.testing.assert_close(found, torch.tensor([3, 0, 1 / 3]).expand(versions, 3), rtol=1e-6, atol=0)


@pytest.mark.parametrize("function", SIMILARITIES)
def test_versions_do_not_hang_on_each_other(function: SimilarityFunction, monkeypatch: pytest.MonkeyPatch) -> None:
    items, labels = drawn()
    versions = torch.randn(9, 7, generator=torch.Generator().manual_seed(1))
    together = catalogue(items, labels).find(function, versions, "3", "4")
    alone = torch.cat([catalogue(items, labels).find(function, row[None], "3", "4") for row in versions])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr("sfam_bench.retrieval.recall.AT_ONCE", 130)  # two versions at a time
    torch.testing.assert_close(catalogue(items, labels).find(function, versions, "3", "4"), together)


# Settings


@pytest.mark.slow
def test_the_script_asks_what_its_settings_say(run_script: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = run_script("embed", *DATA, "recall_at=[1,3]", "nmi=true")
    assert code == 0
    found = json.loads(out)
    assert {"recall_at_1", "recall_at_3", "nmi"} <= found.keys()
    assert "recall_at_8" not in found
    assert 0 < found["nmi"] < 1
    code, _, err = run_script("embed", *DATA, "recall_at=[0]")
    assert code == 2
    assert "error: recall_at is [0]" in err


def test_a_data_set_may_ask_for_other_depths_which_the_user_may_change() -> None:
    assert composed("embed", "dataset=sop").recall_at == [1, 10, 100, 1000]
    assert composed("embed", "dataset=sop", "recall_at=[5]").recall_at == [5]
    assert composed("embed", "dataset=cub").recall_at == [1, 2, 4, 8]


def roles(queries: str, searched: str) -> Roles:
    return Roles(*(torch.tensor([flag == "x" for flag in flags]) for flags in (queries, searched)))


@pytest.mark.parametrize("engine", ["torch", "faiss"])
def test_queries_search_the_gallery_alone(engine: Any) -> None:
    if engine == "faiss":
        pytest.importorskip("faiss")
    # queries at 0 and 3; the gallery at 1 (class 1), 4 (class 0), 10 (class 0): a query's own class is second, first
    line, labels = torch.tensor([[0.0], [1.0], [3.0], [4.0], [10.0]]), torch.tensor([0, 1, 0, 0, 0])
    apart = roles("x.x..", ".x.xx")
    found = per_item(NegativeEuclidean(), line, labels, (1, 2, 3), engine, apart)
    assert list(found.index) == [0, 2]
    assert found["recall_at_1"].tolist() == [0, 1]
    assert found["recall_at_2"].tolist() == [1, 1]
    assert found["r_precision"].tolist() == [1 / 2, 1 / 2]  # R is 2: both of class 0 in the gallery
    assert found["map_at_r"].tolist() == [1 / 4, 1 / 2]
    assert retrieval(NegativeEuclidean(), line, labels, (1,), engine=engine, roles=apart)["count"] == 2


@pytest.mark.parametrize("engine", ["torch", "faiss"])
@pytest.mark.parametrize("seed", range(3))
def test_roles_against_loops(engine: Any, seed: int) -> None:
    """Some items are queries, some searched, some both; recall and MAP@R of each query by sorting its own list."""
    if engine == "faiss":
        pytest.importorskip("faiss")
    random = torch.Generator().manual_seed(seed)
    items, labels = torch.randn(20, 3, generator=random), torch.randint(0, 4, (20,), generator=random)
    queries, searched = (torch.rand(20, generator=random) < 0.6 for _ in range(2))
    found = per_item(Cosine(), items, labels, (1, 3, 30), engine, Roles(queries, searched))
    scores = Cosine().matrix(items, items)
    expected = {}
    for query in queries.nonzero()[:, 0].tolist():
        others = [i for i in range(20) if searched[i] and i != query]
        hits = [bool(labels[i] == labels[query]) for i in sorted(others, key=lambda i: -scores[query, i])]
        if count := sum(hits):
            precision = [sum(hits[: k + 1]) / (k + 1) * hits[k] for k in range(count)]
            expected[query] = [hits[0], any(hits[:3]), any(hits), sum(hits[:count]) / count, sum(precision) / count]
    assert list(found.index) == list(expected)
    np.testing.assert_allclose(found.to_numpy(), np.array([*expected.values()], dtype=float))


def test_everybody_in_both_roles_is_leave_one_out() -> None:
    items, labels = drawn(30, 4)
    everybody = Roles(*(torch.ones(30, dtype=torch.bool) for _ in range(2)))
    pd.testing.assert_frame_equal(per_item(Cosine(), items, labels), per_item(Cosine(), items, labels, roles=everybody))
    for (score, place), (other, same) in zip(
        search(Cosine(), items, 5), search(Cosine(), items, 5, roles=everybody), strict=True
    ):
        assert torch.equal(score, other)
        assert torch.equal(place, same)


def test_a_query_is_ranked_in_the_gallery_alone() -> None:
    ids, apart = tuple(map(str, range(5))), roles("x....", ".x.xx")
    whole, gallery = (Catalogue(LINE, LABELS, ids, given) for given in (None, apart))
    assert gallery.others("0").tolist() == [False, True, False, True, True]
    assert whole.find(NegativeEuclidean(), LINE[:1], "0", "3")[0, 0] == 3  # behind 1 and 2
    assert gallery.find(NegativeEuclidean(), LINE[:1], "0", "3")[0, 0] == 2  # 2 is not searched


def with_cameras(seed: int, count: int = 40) -> tuple[torch.Tensor, torch.Tensor, Roles]:
    draw = torch.Generator().manual_seed(seed)
    items, labels = torch.randn(count, 5, generator=draw), torch.randint(0, 6, (count,), generator=draw)
    queries, searched = (torch.rand(count, generator=draw) < share for share in (0.4, 0.8))
    return items, labels, Roles(queries, searched, torch.randint(1, 4, (count,), generator=draw))


@pytest.mark.parametrize("seed", range(4))
def test_images_of_the_same_class_and_camera_are_left_out(seed: int) -> None:
    items, labels, known = with_cameras(seed)
    scores, expected = Cosine().matrix(items, items), {}
    for query in known.queries.nonzero()[:, 0].tolist():
        same = (labels == labels[query]) & (known.cameras == known.cameras[query])
        ranked = [k for k in scores[query].argsort(descending=True).tolist() if known.searched[k] and not same[k]]
        ranked = [k for k in ranked if k != query]
        hits = [bool(labels[k] == labels[query]) for k in ranked]
        if not (wanted := sum(hits)):
            continue
        precision = sum(sum(hits[: k + 1]) / (k + 1) for k in range(wanted) if hits[k]) / wanted
        expected[query] = [any(hits[:1]), any(hits[:3]), sum(hits[:wanted]) / wanted, precision]
    found = per_item(Cosine(), items, labels, (1, 3), roles=known)
    assert found.index.tolist() == [*expected]
    torch.testing.assert_close(torch.tensor(found.to_numpy()), torch.tensor(list(expected.values())).double())


def test_a_gallery_leaves_out_the_same_class_and_camera() -> None:
    items, labels, known = with_cameras(0)
    gallery = Catalogue(items, labels, tuple(map(str, range(len(items)))), known)
    others = gallery.others("7")
    for k in range(len(items)):
        same = labels[k] == labels[7] and known.cameras[k] == known.cameras[7]
        assert bool(others[k]) == (bool(known.searched[k]) and not same and k != 7)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ids": ("0", "1", "1")}, "the gallery holds 1 twice"),
        ({"embeddings": torch.tensor([[0.0], [torch.nan], [1.0]])}, "the embedding of 1 holds NaN or infinity"),
        ({"ids": ("0", "1")}, "not 3 embeddings, 3 labels and 2 ids"),
    ],
)
def test_a_gallery_that_is_none_is_refused(changed: dict[str, Any], message: str) -> None:
    given = {"embeddings": torch.eye(3), "labels": torch.tensor([0, 0, 1]), "ids": ("0", "1", "2")}
    assert len(Catalogue(**given).ids) == 3
    with pytest.raises(UserError, match=message):
        Catalogue(**given | changed)


def test_a_gallery_of_another_model_is_refused() -> None:
    gallery = catalogue(torch.eye(3), torch.tensor([0, 0, 1]))
    gallery.check_width(torch.zeros(2, 3))
    with pytest.raises(UserError, match="has embeddings of 3 dimensions and the model 4"):
        gallery.check_width(torch.zeros(2, 4))
