"""How many images of each rendered world a core draws in a second of CPU time: python -m benchmarks.worlds."""

import json
from functools import partial
from pathlib import Path

from benchmarks.timing import interleaved, shown, spread
from sfam_bench.datasets.planted.dataset import Planted
from sfam_bench.datasets.planted.render import render
from sfam_bench.datasets.planted.worlds import Channel, Crowd, Relation, Scale, Shortcut

OUT = Path(__file__).parents[1] / "results" / "bench" / "worlds.json"
WORLDS = {
    "planted": Planted(),
    "planted/partial": Planted(evidence_size=0.75, leaves=1, clutter=2),
    "planted/shortcut": Shortcut(),
    "planted/scale": Scale(),
    "planted/crowd": Crowd(evidence_size=1.2),
    "planted/channel": Channel(),
    "planted/relation": Relation(),
}
IMAGES, REDRAWN, ROUNDS = 24, 4, 3


def main() -> None:
    """Measure whole images, and images whose parts are redrawn one after another."""
    drawn = interleaved({name: partial(draw, world) for name, world in WORLDS.items()}, ROUNDS)
    again = interleaved({name: partial(redraw, world) for name, world in WORLDS.items()}, ROUNDS)
    figures = {
        name: {
            "images_a_second": spread([IMAGES / s for s in drawn[name]]),
            "redrawings_a_second": spread([REDRAWN * len(world.parts) / s for s in again[name]]),
        }
        for name, world in WORLDS.items()
    }
    OUT.write_text(json.dumps(figures, indent=1) + "\n")
    for name, found in figures.items():
        print(f"{name}: {shown(found['images_a_second'])} images, {shown(found['redrawings_a_second'])} redrawings")


def draw(world: Planted) -> None:
    """Draw images of all classes, none of which is kept."""
    render.cache_clear()
    for image_id in world.index.index[:: len(world.index) // IMAGES][:IMAGES]:
        world.sample(image_id)


def redraw(world: Planted) -> None:
    """Redraw the parts of one image."""
    render.cache_clear()
    for part in world.parts:
        for number in range(REDRAWN):
            world.redraw(world.index.index[0], (part,), number)


if __name__ == "__main__":
    main()
