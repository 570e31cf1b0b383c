"""Which pairs are chosen: each kind is what its name says, checked against the whole matrix of scores."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfam_bench.core.errors import UserError
from sfam_bench.core.records import Sample
from sfam_bench.core.similarity import Cosine, NegativeEuclidean
from sfam_bench.core.types import Mask
from sfam_bench.datasets.base import Dataset
from sfam_bench.datasets.batches import cut_batches, first_of_each_kind, load_batch
from sfam_bench.datasets.pair_kinds import KINDS, Candidates
from sfam_bench.datasets.pairs import OTHERS, PairChoice, add_controls, add_rivals, balanced_order, references_hash

CLASSES, EACH = 6, 4


@dataclass(frozen=True)
class Toy:
    """Images that are one grey level each; a class is a pair of states of two evidence parts."""

    evidence: tuple[str, ...] = ("crest", "tail")
    name: str = "toy"
    split_name: str = "all"
    index: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(
            {
                "label": np.repeat(range(CLASSES), EACH),
                "class_name": np.repeat([f"class {k}" for k in range(CLASSES)], EACH),
                "split": "test",
                "crest": np.repeat([k // 2 for k in range(CLASSES)], EACH),
                "tail": np.repeat([k % 2 for k in range(CLASSES)], EACH),
            },
            index=pd.Index([f"i{k:02d}" for k in range(CLASSES * EACH)], name="image_id"),
        )
    )

    def image(self, image_id: str) -> PIL.Image.Image:
        raise NotImplementedError

    def sample(self, image_id: str) -> Sample:
        return Sample(torch.full((3, 4, 5), int(image_id[1:]) / 100))

    def regions(self, query_id: str, reference_id: str, sample: Sample) -> dict[str, Mask]:
        whole = torch.ones(4, 5, dtype=torch.bool)
        return {"foreground": whole} | ({"shared": whole} if query_id < reference_id else {})


SET = Toy()
IDS = list(SET.index.index)
LABELS = SET.index["label"]
GALLERY = (
    torch.randn(len(IDS), 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    + torch.nn.functional.one_hot(torch.tensor(LABELS.to_numpy()), 5 + 1)[:, :5]
)
SCORES = pd.DataFrame(Cosine().matrix(GALLERY, GALLERY).numpy(), IDS, IDS)


def choose(kind: str, **fields: object) -> pd.DataFrame:
    return PairChoice(kinds=(kind,), **{"count": len(IDS), **fields})(SET, Cosine(), GALLERY, IDS)  # type: ignore[arg-type]


def others(query: str, same: bool) -> pd.Series:
    """Scores of the query with the other items of its class, or with those of other classes."""
    row = SCORES.loc[query].drop(query)
    return row[(LABELS[row.index] == LABELS[query]) == same]


def test_the_toy_is_a_data_set() -> None:
    assert isinstance(SET, Dataset)


def test_a_nearest_positive_is_the_nearest_of_all_and_of_the_class() -> None:
    pairs = choose("nearest_positive")
    right = [i for i in IDS if others(i, True).max() > others(i, False).max()]
    assert 0 < len(right) < len(IDS)
    assert sorted(pairs["query_id"]) == right  # every query that retrieves its class, and no other
    for pair in pairs.itertuples():
        assert pair.reference_id == others(pair.query_id, True).idxmax()


def test_a_hard_negative_is_the_nearest_of_another_class() -> None:
    pairs = choose("hard_negative")
    assert sorted(pairs["query_id"]) == IDS
    for pair in pairs.itertuples():
        assert pair.reference_id == others(pair.query_id, False).idxmax()


def test_a_random_positive_is_another_of_the_class() -> None:
    pairs = choose("random_positive")
    assert sorted(pairs["query_id"]) == IDS
    assert (pairs["query_label"] == pairs["reference_label"]).all()
    assert (pairs["query_id"] != pairs["reference_id"]).all()
    nearest = [others(query, True).idxmax() for query in pairs["query_id"]]
    assert (pairs["reference_id"] != nearest).any()


def test_a_triplet_has_the_nearest_of_both() -> None:
    pairs = choose("triplet")
    assert sorted(pairs["query_id"]) == IDS
    for pair in pairs.itertuples():
        assert pair.reference_id == others(pair.query_id, True).idxmax()
        assert pair.negative_id == others(pair.query_id, False).idxmax()


def test_a_partial_match_shares_exactly_one_evidence_part() -> None:
    pairs = choose("partial_match")
    assert sorted(pairs["query_id"]) == IDS
    states = SET.index[list(SET.evidence)]
    shared = states.loc[pairs["query_id"]].to_numpy() == states.loc[pairs["reference_id"]].to_numpy()
    assert (shared.sum(axis=1) == 1).all()
    assert shared.any(axis=0).all()  # now the crest, now the tail


def test_a_partial_match_needs_evidence() -> None:
    with pytest.raises(UserError, match="only dataset=planted has them"):
        PairChoice(kinds=("partial_match",))(Toy(evidence=()), Cosine(), GALLERY, IDS)


@pytest.mark.parametrize("kind", ["nearest_positive", "hard_negative", "random_positive", "triplet", "partial_match"])
def test_rows_say_who_is_who_and_how_alike(kind: str) -> None:
    pairs = choose(kind, count=5)
    assert len(pairs) == 5
    assert (pairs["kind"] == kind).all()
    np.testing.assert_allclose(pairs["score"], [SCORES.loc[p.query_id, p.reference_id] for p in pairs.itertuples()])
    for side in ("query", "reference"):
        assert pairs[f"{side}_label"].tolist() == LABELS[pairs[f"{side}_id"]].tolist()
        assert pairs[f"{side}_class"].tolist() == SET.index["class_name"][pairs[f"{side}_id"]].tolist()
    assert (pairs["negative_id"] != "").all() == (kind == "triplet")


@pytest.mark.parametrize("kind", ["hard_negative", "random_positive"])
def test_the_choice_hangs_on_the_seed_alone(kind: str) -> None:
    pd.testing.assert_frame_equal(choose(kind, seed=5), choose(kind, seed=5))
    assert not choose(kind, seed=5).equals(choose(kind, seed=6))


def test_a_longer_list_begins_with_the_shorter() -> None:
    pd.testing.assert_frame_equal(choose("random_positive", count=5), choose("random_positive", count=11).head(5))


def test_another_kind_beside_it_changes_nothing() -> None:
    both = PairChoice(kinds=("hard_negative", "random_positive"), count=9)(SET, Cosine(), GALLERY, IDS)
    assert both["kind"].tolist() == ["hard_negative"] * 9 + ["random_positive"] * 9
    alone = choose("random_positive", count=9)
    pd.testing.assert_frame_equal(both.tail(9).reset_index(drop=True), alone)


@pytest.mark.parametrize("count", [6, 12, 9])
def test_classes_take_turns(count: int) -> None:
    asked = choose("hard_negative", count=count)["query_label"].value_counts().reindex(range(CLASSES), fill_value=0)
    assert asked.sum() == count
    assert asked.max() - asked.min() <= 1


def test_per_class_limits_the_queries_of_a_class() -> None:
    pairs = choose("hard_negative", per_class=2)
    assert pairs["query_label"].value_counts().tolist() == [2] * CLASSES


def test_both_directions_has_each_pair_and_its_reverse_once() -> None:
    one, both = choose("nearest_positive"), choose("nearest_positive", both_directions=True)
    forward = set(zip(one["query_id"], one["reference_id"], strict=True))
    assert any((b, a) in forward for a, b in forward)  # some are each other's nearest, which would come twice
    found = list(zip(both["query_id"], both["reference_id"], strict=True))
    assert len(found) == len(set(found))
    assert set(found) == forward | {(b, a) for a, b in forward}
    assert (both["query_label"] == LABELS[both["query_id"]].to_numpy()).all()


def test_triplets_are_not_turned_round() -> None:
    pd.testing.assert_frame_equal(choose("triplet", both_directions=True), choose("triplet"))


def test_too_few_pairs_are_said(caplog: pytest.LogCaptureFixture) -> None:
    assert len(choose("hard_negative", count=100)) == len(IDS)
    assert "24 pairs of kind hard_negative instead of 100" in caplog.text


def test_no_pair_at_all_is_said() -> None:
    ids = IDS[::EACH]  # one image a class
    with pytest.raises(UserError, match="no pair of kind random_positive"):
        PairChoice(kinds=("random_positive",))(SET, Cosine(), GALLERY[::EACH], ids)


@pytest.mark.parametrize("fields", [{"kinds": ("closest",)}, {"kinds": ()}, {"count": 0}, {"count": -3}])
def test_a_choice_that_cannot_be_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"kinds are nearest_positive, |count is .*: expected a number of at least 1"):
        PairChoice(**fields)  # type: ignore[arg-type]


def test_ties_go_to_the_first() -> None:
    gallery = torch.zeros(len(IDS), 2)
    pairs = PairChoice(kinds=("hard_negative",), count=len(IDS))(SET, NegativeEuclidean(), gallery, IDS)
    for pair in pairs.itertuples():
        assert pair.reference_id == next(i for i in IDS if LABELS[i] != pair.query_label)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.none() | st.integers(1, 4), st.integers(0, 99))
def test_a_balanced_order_visits_every_class_before_any_again(labels: list[int], limit: int | None, seed: int) -> None:
    order = balanced_order(pd.Series(labels), np.random.default_rng(seed), limit)
    assert len(set(order)) == len(order)
    assert len(order) == sum(min(labels.count(k), limit or len(labels)) for k in set(labels))
    turns = [sum(labels[earlier] == labels[at] for earlier in order[:place]) for place, at in enumerate(order)]
    assert turns == sorted(turns)


def test_batches_are_of_one_kind_and_keep_the_order() -> None:
    pairs = PairChoice(kinds=("triplet", "hard_negative"), count=7)(SET, Cosine(), GALLERY, IDS)
    cut = cut_batches(pairs, 3)
    assert [len(batch) for batch in cut] == [3, 3, 1, 3, 3, 1]
    assert all(len(set(batch["kind"])) == 1 for batch in cut)
    pd.testing.assert_frame_equal(pd.concat(cut), pairs)
    assert first_of_each_kind(pairs, 2).index.tolist() == [0, 1, 7, 8]


def test_a_batch_holds_the_images_and_regions_of_its_pairs() -> None:
    pairs = choose("triplet", count=6)
    batch = load_batch(SET, pairs)
    grey = {side: [int(i[1:]) / 100 for i in pairs[f"{side}_id"]] for side in ("query", "reference", "negative")}
    for side, levels in grey.items():
        torch.testing.assert_close(getattr(batch, side)[:, 0, 0, 0], torch.tensor(levels))
    assert batch.negative_ids == tuple(pairs["negative_id"])
    ahead = pairs["query_id"] < pairs["reference_id"]
    assert 0 < ahead.sum() < 6
    assert set(batch.masks) == set(load_batch(SET, pairs[ahead]).masks) == {"foreground", "shared", "distinguishing"}
    assert batch.lack(["foreground", "shared"]) == batch.lack(["distinguishing"]) == (~ahead).tolist()
    assert not batch.masks["shared"][torch.tensor(~ahead.to_numpy())].any()
    assert set(load_batch(SET, pairs[~ahead]).masks) == {"foreground"}
    assert load_batch(SET, choose("hard_negative", count=2)).negative is None


KIND_NAMES = ["nearest_positive", "hard_negative", "random_positive", "triplet", "partial_match"]


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_further_references_are_of_the_class_that_their_role_says(kind: str) -> None:
    pairs = choose(kind, others=True)
    pd.testing.assert_frame_equal(pairs.drop(columns=[f"{role}_id" for role in OTHERS]), choose(kind))  # undisturbed
    for pair in pairs.itertuples():
        assert pair.same_class_id not in (pair.query_id, pair.reference_id)
        assert LABELS[pair.same_class_id] == pair.reference_label
        assert LABELS[pair.other_class_id] not in (pair.query_label, pair.reference_label)
    assert pairs["same_class_id"].nunique() > 2
    assert pairs["other_class_id"].nunique() > 2


def test_the_draw_of_further_references_hangs_on_pair_and_seed_alone() -> None:
    pairs = choose("random_positive", others=True)
    plain = choose("random_positive")
    again = add_controls(plain.iloc[::-1], LABELS.to_frame(), 0).iloc[::-1]
    pd.testing.assert_frame_equal(again, pairs)
    assert not add_controls(plain, LABELS.to_frame(), 1).equals(pairs)


def test_where_there_is_no_further_reference_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    two = [image_id for k, image_id in enumerate(IDS) if k % EACH < 2 or k == 2]  # the first class alone has a third
    choice = PairChoice(kinds=("random_positive",), count=99, others=True)
    pairs = choice(SET, Cosine(), GALLERY[[IDS.index(image_id) for image_id in two]], two)
    lacking = pairs["same_class_id"] == ""
    assert (pairs["query_label"][~lacking] == 0).all()
    assert lacking.sum() == 2 * (CLASSES - 1)
    assert f"{lacking.sum()} of {len(pairs)} pairs have no further reference: same_class" in caplog.text
    assert (pairs["other_class_id"] != "").all()
    of_one_class = pairs[:1].drop(columns=[f"{role}_id" for role in OTHERS]).assign(reference_label=0, query_label=0)
    assert "other_class_id" not in add_controls(of_one_class, LABELS[:EACH].to_frame(), 0)

    batch = load_batch(SET, pairs)
    shown = batch.others["same_class"]
    assert shown.isnan().flatten(1).all(dim=1).tolist() == lacking.tolist()
    levels = [int(image_id[1:]) / 100 for image_id in pairs["same_class_id"][~lacking]]
    torch.testing.assert_close(shown[:, 0, 0, 0][torch.tensor(~lacking.to_numpy())], torch.tensor(levels))
    assert batch.others["other_class"].isfinite().all()
    alone = load_batch(SET, pairs[lacking]).others  # a batch of them is no other case than one with them
    assert set(alone) == {*OTHERS}
    assert alone["same_class"].isnan().all()


def test_pairs_without_these_columns_have_no_further_references() -> None:
    batch = load_batch(SET, choose("hard_negative", count=2))
    assert batch.others == {}
    assert not batch.has("same_class")


APART = Toy(
    index=SET.index.assign(
        is_query=[number % 3 != 0 for number in range(len(IDS))],
        is_gallery=[number % 3 != 1 for number in range(len(IDS))],
    )
)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("partial_match", "exchanged")])
def test_queries_and_references_keep_their_roles(kind: str) -> None:
    """A third of the images are only searched, a third only queries, a third both."""
    pairs = PairChoice(kinds=(kind,), count=len(IDS), others=True)(APART, Cosine(), GALLERY, IDS)
    assert APART.index.loc[pairs["query_id"], "is_query"].all()
    referred = [*pairs["reference_id"], *pairs["negative_id"]]
    further = [*pairs["same_class_id"], *pairs["other_class_id"]]
    assert APART.index.loc[[name for name in [*referred, *further] if name], "is_gallery"].all()
    searched = APART.index.index[APART.index["is_gallery"]]
    for pair in pairs.itertuples():
        if kind == "hard_negative":
            scores = others(pair.query_id, False)
            assert pair.reference_id == scores[scores.index.isin(searched)].idxmax()


def test_roles_cannot_be_swapped() -> None:
    with pytest.raises(UserError, match="both_directions=true would swap them"):
        PairChoice(kinds=("hard_negative",), both_directions=True)(APART, Cosine(), GALLERY, IDS)


def test_a_kind_named_twice_would_double_its_keys() -> None:
    with pytest.raises(UserError, match="each once"):
        PairChoice(kinds=("triplet", "triplet"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("partial_match", "exchanged")])
def test_kinds_are_checked_without_embeddings(kind: str) -> None:
    choice = PairChoice(kinds=(kind,))
    choice.check(SET, IDS)
    one_class = [IDS[0], IDS[1]]  # of one class
    each_alone = [IDS[0], IDS[EACH]]
    for ids, lacks in (
        (one_class, ("hard_negative", "triplet")),
        (each_alone, ("random_positive", "nearest_positive", "triplet")),
    ):
        if kind in lacks:
            with pytest.raises(UserError, match=f"no pair of kind {kind}"):
                choice.check(SET, ids)
        else:
            choice.check(SET, ids)


def test_nearest_ignores_the_class() -> None:
    scores = torch.zeros(24)
    scores[[0, 9]] = torch.tensor([3.0, 2.0])
    every = np.ones(24, dtype=bool)
    candidates = Candidates(0, scores, Toy().index, (), np.random.default_rng(0), every)
    assert KINDS["nearest"](candidates) == (9, None)


def test_a_rival_is_the_nearest_of_another_class_than_both() -> None:
    toy, draw = Toy(), torch.Generator().manual_seed(2)
    gallery, ids = torch.rand(CLASSES * EACH, 5, generator=draw), list(toy.index.index)
    for kind in ("nearest_positive", "hard_negative"):
        pairs = PairChoice([kind], count=10)(toy, Cosine(), gallery, ids)
        found = add_rivals(pairs, toy, Cosine(), gallery, ids)
        scores, labels = Cosine().matrix(gallery, gallery), toy.index["label"]
        for row in found.itertuples():
            others = [other for other in ids if labels[other] not in (row.query_label, row.reference_label)]
            best = max(others, key=lambda other: scores[ids.index(row.query_id), ids.index(other)])
            assert row.negative_id == best
        assert found.drop(columns="negative_id").equals(pairs.drop(columns="negative_id"))
    two = [image_id for image_id in ids if labels[image_id] < 2]
    alike = pairs[pairs["query_id"].isin(two)].assign(query_label=0, reference_label=1)
    rows = [ids.index(image_id) for image_id in two]
    with pytest.raises(UserError, match="best_rival needs an item of another class"):
        add_rivals(alike, toy, Cosine(), gallery[rows], two)


def test_the_hash_of_references_depends_on_them_alone(tmp_path) -> None:
    pairs = pd.DataFrame({"query_id": ["a", "b"], "reference_id": ["c", "d"], "negative_id": ["", ""], "score": [1, 2]})
    known = references_hash(pairs)
    assert references_hash(pairs.iloc[::-1].assign(score=3)) == known
    assert references_hash(pairs.assign(reference_id=["c", "e"])) != known
    supported = pairs.assign(support_ids=[["c", "x"], ["d", "y"]])
    supported.to_parquet(tmp_path / "pairs.parquet")
    assert references_hash(pd.read_parquet(tmp_path / "pairs.parquet")) == references_hash(supported) != known
    assert references_hash(pairs.assign(support_ids=[["c", "x"], ["d", "z"]])) != references_hash(supported)
