"""Boxes by hand, against OpenCV's components, and against the protocol of MaxBoxAccV2."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfam_bench.core.errors import UserError
from sfam_bench.core.metric_card import metric_facts
from sfam_bench.metrics.boxes import BoxIoU, cut_maps, extent, find_components, overlap
from sfam_bench.report.tables.box_accuracy import max_box_accuracy, thresholds_of
from sfam_bench.runs.matrix import RUN, Matrix

SIZE = (20, 30)
IMAGE = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def box(top: int, bottom: int, left: int, right: int) -> torch.Tensor:
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    mask[0, top:bottom, left:right] = True
    return mask


def two_blobs() -> torch.Tensor:
    """A high, small one of 3 x 4 and a low, large one of 5 x 6 whose box is the object's but for a column."""
    return 1.0 * box(1, 4, 2, 6) + 0.6 * box(10, 15, 20, 26) - 0.5


def smooth(count: int, seed: int, size: tuple[int, int] = (40, 60)) -> torch.Tensor:
    coarse = torch.randn(count, 1, 5, 7, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear")[:, 0]


@pytest.mark.parametrize(
    ("threshold", "boxes", "expected"),
    [
        (0.2, "all", 25 / 30),  # the large one stands above 0.2 of the range, and its box covers 5 of 6 columns
        (0.2, "largest", 25 / 30),
        (0.5, "largest", 25 / 30),
        (0.7, "all", 0.0),  # only the small one is left
        (0.7, "largest", 0.0),
    ],
)
def test_iou_by_hand(explained, threshold, boxes, expected):
    seen = explained(IMAGE, two_blobs(), masks={"box": box(10, 15, 21, 26)})
    assert BoxIoU(threshold, boxes)(seen).values.tolist() == pytest.approx([expected])


def test_pixels_must_exceed_the_threshold(explained):
    maps = 1.0 * box(1, 4, 2, 6) + 0.5 * box(10, 15, 20, 26)
    seen = explained(IMAGE, maps, masks={"box": box(10, 15, 20, 26)})
    assert [BoxIoU(at)(seen).values.item() for at in (0.49, 0.5)] == [1.0, 0.0]


def test_all_boxes_may_be_better_than_the_largest(explained):
    seen = explained(IMAGE, two_blobs(), masks={"box": box(1, 4, 2, 6)})
    assert BoxIoU(0.2)(seen).values.tolist() == [1.0]
    assert BoxIoU(0.2, "largest")(seen).values.tolist() == [0.0]


def test_rows_are_not_columns(explained):
    seen = explained(IMAGE, box(2, 4, 5, 25).float(), masks={"box": box(2, 18, 5, 7)})
    assert BoxIoU()(seen).values.tolist() == pytest.approx([2 * 2 / (2 * 20 + 16 * 2 - 4)])


def test_corners_connect_and_edges_count(explained):
    corners = box(0, 2, 0, 3) | box(2, 4, 3, 5)
    seen = explained(IMAGE, corners.float(), masks={"box": box(0, 4, 0, 5)})
    assert BoxIoU(boxes="largest")(seen).values.tolist() == [1.0]
    last = box(15, 20, 28, 30)
    assert BoxIoU()(explained(IMAGE, last.float(), masks={"box": last})).values.tolist() == [1.0]


def test_the_object_scores_best_and_what_is_not_it_worst(explained):
    mask = box(8, 16, 0, 13)
    assert BoxIoU()(explained(IMAGE, mask.float(), masks={"box": mask})).values.tolist() == [1.0]
    beside = box(8, 16, 13, 30)
    assert BoxIoU()(explained(IMAGE, beside.float(), masks={"box": mask})).values.tolist() == [0.0]


def test_nothing_to_measure_has_a_reason(explained):
    images, masks = IMAGE.expand(3, -1, -1, -1), torch.cat([box(1, 4, 2, 6), box(0, 0, 0, 0), box(1, 4, 2, 6)])
    seen = explained(images, torch.cat([two_blobs(), two_blobs(), torch.full((1, *SIZE), 0.3)]), masks={"box": masks})
    metric = BoxIoU()
    assert metric(seen).values.isnan().tolist() == [False, True, True]
    assert metric(seen).reasons["empty_mask"].tolist() == [False, True, False]
    assert metric(seen).reasons["constant_map"].tolist() == [False, False, True]


def test_images_of_a_batch_do_not_connect(explained):
    maps = smooth(32, 3)
    masks = {"box": (smooth(32, 4) > 1.0)}
    masks["box"][:, 10:20, 15:40] = True
    images = torch.rand(1, 3, 40, 60).expand(32, -1, -1, -1)
    for metric in (BoxIoU(0.5), BoxIoU(0.5, "largest")):
        together = metric(explained(images, maps, masks=masks)).values
        alone = [metric(explained(images[:1], maps[[k]], masks={"box": masks["box"][[k]]})).values for k in range(32)]
        assert torch.equal(together, torch.cat(alone))
        assert len(set(together.tolist())) > 10


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), threshold=st.floats(0, 0.99), power=st.integers(-8, 8))
def test_components_do_not_hang_on_the_scale_and_their_boxes_hold_all_pixels(seed, threshold, power):
    maps = smooth(2, seed)
    mask = cut_maps(maps, threshold)
    assert torch.equal(mask, cut_maps(maps * 2.0**power, threshold))
    found = find_components(mask)
    assert found.pixels.sum() == int(mask.sum())
    assert (found.pixels <= (found.box[:, 2:] - found.box[:, :2]).prod(axis=1)).all()
    whole = extent(mask)
    for image in range(2):
        own = found.box[found.image == image]
        assert whole[image].tolist() == [*own[:, :2].min(axis=0), *own[:, 2:].max(axis=0)]
    values = overlap(found.box, whole[found.image])
    assert ((values > 0) & (values <= 1)).all()
    assert cut_maps(maps, min(threshold + 0.1, 0.995)).sum() <= mask.sum()


@pytest.mark.parametrize("seed", range(5))
def test_components_are_those_of_opencv(seed):
    cv2 = pytest.importorskip("cv2")
    mask = cut_maps(smooth(1, seed) + 0.4 * torch.rand(1, 40, 60, generator=torch.Generator().manual_seed(seed)), 0.55)
    contours, _ = cv2.findContours(mask[0].numpy().astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    theirs = sorted((y, x, y + rows, x + cols) for x, y, cols, rows in map(cv2.boundingRect, contours))
    ours = find_components(mask)
    assert len(theirs) > 1
    assert set(theirs) <= {tuple(map(int, one)) for one in ours.box}  # what lies in another's hole has no outer contour
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask[0].numpy().astype(np.uint8), connectivity=8)
    left, top, width, height, pixels = stats[1:].T
    both = zip(top, left, top + height, left + width, pixels, strict=True)
    assert sorted(both) == sorted((*map(int, one), int(n)) for one, n in zip(ours.box, ours.pixels, strict=True))


@pytest.mark.parametrize("threshold", [1.0, -0.1, 20.0])
def test_a_threshold_that_is_no_share_is_refused(threshold):
    with pytest.raises(UserError, match=r"BoxIoU\.threshold is .*(below 1|between 0 and 1)"):
        BoxIoU(threshold)


# MaxBoxAccV2


def records(values: dict[int, list[float]], explainer: str = "sfam") -> pd.DataFrame:
    rows = [
        {**dict.fromkeys(RUN, "x"), "explainer": explainer, "metric": f"box_iou_{per_cent:02d}"}
        | {"query_id": f"q{k}", "reference_id": f"r{k}", "value": value, "flag": "" if np.isfinite(value) else "why"}
        for per_cent, row in values.items()
        for k, value in enumerate(row)
    ]
    return pd.DataFrame(rows)


def matrix(frame: pd.DataFrame) -> Matrix:
    pairs = frame[["query_id", "reference_id"]].drop_duplicates().assign(query_label=0)
    return Matrix.of(frame, pd.concat([pairs, pairs]))  # of two kinds


THRESHOLDS = {f"box_iou_{per_cent:02d}": per_cent / 100 for per_cent in range(0, 100, 5)}


def accuracies(found: pd.DataFrame) -> list[tuple[float, float]]:
    return list(zip(found["accuracy"].tolist(), found["threshold"].tolist(), strict=True))


def test_one_threshold_serves_all_pairs_by_hand():
    # at 0.05 two of four reach 0.3, at 0.20 three do; 0.5 is reached by one at either; 0.7 by one at 0.05 alone
    found = max_box_accuracy(matrix(records({5: [0.8, 0.3, 0.1, 0.2], 20: [0.6, 0.4, 0.35, 0.0]})), THRESHOLDS)
    assert accuracies(found)[:3] == [(75.0, 0.2), (25.0, 0.05), (25.0, 0.05)]
    assert found["accuracy"].iloc[3] == pytest.approx((75 + 25 + 25) / 3)
    assert found["delta"].iloc[:3].tolist() == [0.3, 0.5, 0.7]
    assert found.loc[3, ["delta", "threshold"]].isna().all()
    assert (found["count"] == 4).all()


def test_an_iou_of_exactly_delta_counts():
    found = max_box_accuracy(matrix(records({5: [0.3, 0.5, 0.7]})), THRESHOLDS)
    assert found["accuracy"].iloc[:3].tolist() == pytest.approx([100, 200 / 3, 100 / 3])


def test_a_threshold_for_each_image_would_score_more():
    values = {5: [0.9, 0.0], 20: [0.0, 0.9]}
    found = max_box_accuracy(matrix(records(values)), THRESHOLDS)
    assert accuracies(found)[1] == (50.0, 0.05)  # and not 100


def test_pairs_without_a_box_and_other_metrics_do_not_count():
    frame = records({5: [0.9, np.nan, 0.1], 20: [0.9, np.nan, 0.1]})
    others = frame.assign(metric="box_iou_largest", value=1.0)
    found = max_box_accuracy(matrix(pd.concat([frame, frame, others, frame.assign(explainer="pair")])), THRESHOLDS)
    assert accuracies(found)[0] == (50.0, 0.05)
    assert (found["count"] == 2).all()
    assert found["explainer"].unique().tolist() == ["sfam"]
    family = {"mine": BoxIoU(0.05), "one": BoxIoU(0.2), "other": BoxIoU(0.2, boxes="largest")}
    assert thresholds_of({"metrics": metric_facts(family)}) == {"mine": 0.05, "one": 0.2}
    assert max_box_accuracy(matrix(others), THRESHOLDS).empty
    empty = max_box_accuracy(matrix(records({5: [np.nan]})), THRESHOLDS)
    assert empty["accuracy"].isna().all()


def reference(maps: np.ndarray, objects: np.ndarray, thresholds: list[float], delta: float) -> float:
    """MaxBoxAcc's loop as its authors describe it, written with other tools: flood fill, box by box, pixel sets."""
    correct = np.zeros(len(thresholds))
    for scores, target in zip(maps, objects, strict=True):
        scaled = (scores - scores.min()) / (scores.max() - scores.min())
        for at, threshold in enumerate(thresholds):
            left = {tuple(cell) for cell in np.argwhere(scaled > threshold)}
            best = 0.0
            while left:
                todo, region = [left.pop()], []
                while todo:
                    row, col = todo.pop()
                    region.append((row, col))
                    near = {(row + i, col + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
                    left -= near
                    todo += near
                rows, cols = zip(*region, strict=True)
                boxed = np.zeros_like(target)
                boxed[min(rows) : max(rows) + 1, min(cols) : max(cols) + 1] = True
                best = max(best, (boxed & target).sum() / (boxed | target).sum())
            correct[at] += best >= delta
    return float(100 * correct.max() / len(maps))


def test_max_box_acc_v2_is_that_of_the_protocol(explained):
    count, thresholds = 12, [0.0, 0.25, 0.5, 0.75]
    maps = smooth(count, 7, SIZE)
    objects = torch.cat([box(2 + k // 3, 12 + k // 2, 3 + k, 12 + k) for k in range(count)])
    maps += objects * torch.linspace(0, 6, count)[:, None, None]
    seen = explained(IMAGE.expand(count, -1, -1, -1), maps, masks={"box": objects})
    frame = records({round(100 * at): BoxIoU(at)(seen).values.tolist() for at in thresholds})
    found = max_box_accuracy(matrix(frame), THRESHOLDS)
    expected = [reference(maps.double().numpy(), objects.numpy(), thresholds, delta) for delta in (0.3, 0.5, 0.7)]
    assert found["accuracy"].tolist() == pytest.approx([*expected, np.mean(expected)])
    assert len(set(expected)) > 1
