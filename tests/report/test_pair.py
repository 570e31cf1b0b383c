"""The picture of a pair."""

import numpy as np
import pytest

from sfam_bench.report.figures.pair import MapPanel, Sheet, pair_figure

IMAGE = np.zeros((16, 16, 3), np.uint8)
LONG = "insertion - deletion AUC (mean colour) ↑ 0.217, with a longer baseline than others have"


@pytest.mark.parametrize("line", ["deletion ↓ 0.1", LONG, "W" * 40])
@pytest.mark.parametrize("name", ["sfam", "similarity_decomposition_with_other_settings"])
def test_nothing_beside_the_images_is_cut_off(line: str, name: str) -> None:
    panel = MapPanel(name, [np.ones((16, 16))] * 2, [line])
    figure = pair_figure([Sheet({"query": IMAGE, "reference": IMAGE}, [line], [panel], title=name)])
    figure.draw_without_rendering()
    right = max(text.get_window_extent().x1 for text in figure.texts)
    assert right <= figure.bbox.x1
