"""The page of a ranked list: escaped, with every picture embedded."""

import re
from html.parser import HTMLParser

import numpy as np

from sfam_bench.report.page.ranking import Shown, render_ranking

HOSTILE = "<script>alert(1)</script>\" onload='x'"
IMAGE = np.full((8, 8, 3), 90, np.uint8)
MAP = np.linspace(-1, 1, 64).reshape(8, 8)


class Attributes(HTMLParser):
    """The names of all attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {name for name, _ in attrs}


def test_strings_are_escaped_and_pictures_embedded() -> None:
    results = [
        Shown(1, HOSTILE, [HOSTILE], IMAGE, True, [(MAP, MAP, MAP)], [""]),
        Shown(4, "b", ["similarity 0.5"], IMAGE, False, [(MAP * 0, MAP, None)], ["constant_map"]),
    ]
    page = render_ranking(HOSTILE, IMAGE, [("class", HOSTILE)], [HOSTILE], results)
    assert "<script" not in page
    seen = Attributes()
    seen.feed(page)
    assert "onload" not in seen.names
    assert {"src", "alt"} <= seen.names
    assert page.count("&lt;script&gt;") >= 6
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 1 + 2 + 4  # the query, the results, the maps
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "constant map" in page
    assert "last result shown" in page
    assert page.index("the query&#39;s class") < page.index("another class")
