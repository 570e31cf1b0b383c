"""Pairs and their maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from matplotlib.figure import Figure

from sfam_bench.core.errors import Checked
from sfam_bench.core.ranges import Count
from sfam_bench.report.figures.drawings.chosen import no_data, select_explainers
from sfam_bench.report.figures.figures import Shown, draw_pairs, load_shown, select_pairs
from sfam_bench.report.stored import Stored, Summed

KEEP = "evaluate it with maps.save=true (make demo, make demo-cub) and keep it with pictures=true"


@dataclass(frozen=True)
class PairPanels(Checked):
    """Query above reference, with both maps of each method.

    runs: names of stored runs, by what they are called in the figure.
    methods: in this order; all of them where none is named.
    pairs: of each run, of its kinds in turn.
    kinds: which kinds of pairs; all where none is named.
    """

    caption: str
    alt: str
    runs: Mapping[str, str]
    methods: Sequence[str] = ()
    pairs: Count = 3
    kinds: Sequence[str] = ()

    def __call__(self, stored: Stored) -> Figure:
        found = [(title, stored.run(name)) for title, name in self.runs.items()]
        rows = [pair for title, run in found for pair in self._of(title if len(found) > 1 else "", run)]
        return draw_pairs(rows, self.methods or [*dict.fromkeys(name for pair in rows for name in pair.maps)])

    def _of(self, title: str, run: Summed) -> list[Shown]:
        chosen = select_pairs(run.run, self.pairs, self.kinds)
        if not chosen:
            raise no_data(run, " or ".join(self.kinds) + " pair with its images".lstrip(), KEEP)
        pairs = load_shown(run.run, chosen, [title] * len(chosen))
        there = [*dict.fromkeys(name for pair in pairs for name in pair.maps)]
        if not there:
            raise no_data(run, "maps", KEEP)
        names = select_explainers(run, self.methods, there, "map")
        return [replace(pair, maps={name: pair.maps[name] for name in names}) for pair in pairs]
