"""The pairs of the page's explorer, packed small: images, maps, point-to-point maps, curves and values as JSON."""

import base64
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from PIL import Image

from sfam_bench.core.columns import MATCHES, POINT_TO_POINT
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.figures.figures import ROUNDING
from sfam_bench.report.figures.style import METHOD
from sfam_bench.report.names import Named, slug, sort_explainers, to_prose
from sfam_bench.report.page.pair_order import Ordered, count_failures, sort_pairs
from sfam_bench.report.tables.flagged import FLAGS
from sfam_bench.runs.matrix import ABSENT, FACTS, PAIR, RUN, Matrix
from sfam_bench.runs.reader import Run, pairs_with_images, read_curves, read_image, read_maps

SIDES = ("query", "reference")
FINEST = 56  # rows and columns of a map; finer ones are averaged
LONGEST = 256  # pixels of an image's longer side
AT_ONCE = 64  # pairs whose maps are held at a time
UNSAFE = {sign: f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class Explorer:
    """An index of all pairs, and named blocks of JSON that the page decodes on demand."""

    index: dict[str, Any]
    blocks: dict[str, str]


def build_explorer(runs: Sequence[Run], budget: int, named: Named = slug) -> Explorer | None:
    """Pack the pairs with stored images, worst first, into at most `budget` characters; None without any."""
    images: dict[str, str] = {}  # data URI to name: the same photo is there once
    blocks: dict[str, str] = {}
    shown, manifests = [], [run.manifest for run in runs]
    for number, run in enumerate(runs):
        share = (budget - sum(map(len, blocks.values()))) // (len(runs) - number)
        if found := _pack_run(run, number, share, images, blocks, Catalogue.of(run.manifest, *manifests)):
            titles = [str(run.manifest.get(name, "")) for name in RUN]
            shown.append({"title": " · ".join(titles), "anchor": named(*titles), **found})
    if not shown:
        return None
    inferno = (255 * mpl.colormaps["inferno"](np.arange(256))[:, :3]).round().astype(np.uint8)
    return Explorer({"runs": shown, "inferno": _text(inferno), "negative": METHOD, "flags": FLAGS}, blocks)


def to_json(value: Any) -> str:
    """JSON that is safe inside a <script> element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return "".join(UNSAFE.get(sign, sign) for sign in text) if any(sign in text for sign in UNSAFE) else text


def _pack_run(
    run: Run, number: int, share: int, images: dict[str, str], blocks: dict[str, str], catalogue: Catalogue
) -> dict[str, Any] | None:
    """The index of one run; its pairs go to `blocks` up to its share of the budget."""
    if not (shown := {*pairs_with_images(run)[PAIR].itertuples(index=False, name=None)}):
        return None
    own = run.matrix.select(lambda metric, _: not catalogue.is_check(metric))
    blind, count = run.blind, len(run.pairs.drop_duplicates(PAIR))
    kept = sort_pairs(run.pairs, own, run.manifest, shown)
    methods = sort_explainers(own.explainers, blind)
    metrics = catalogue.scores(catalogue.sort(own.metrics))
    listed: list[dict[str, Any]] = []
    for pair, packed, uris in _pairs(run, own, kept, methods):
        new = {uri: f"image-{len(images) + place}" for place, uri in enumerate(dict.fromkeys(uris) - images.keys())}
        pictured = [(images | new)[uri] for uri in uris]
        text, name = to_json(_deflate(packed)), f"block-{number}-{len(listed)}"
        share -= len(text) + sum(map(len, new))
        if share < 0:
            break
        images |= new
        blocks.update({name: text, **{place: to_json(uri) for uri, place in new.items()}})
        listed.append({"block": name, "images": pictured, **pair.shown})
    if not listed:
        return None
    return {
        **{"of": count, "pictured": len(kept), "failures": count_failures(run, catalogue)},
        **{"methods": methods, "blind": [name for name in methods if name in blind], "pairs": listed},
        "metrics": {name: [catalogue.title(name), catalogue.group(name)] for name in metrics},
    }


def _pairs(
    run: Run, matrix: Matrix, kept: Sequence[Ordered], methods: Sequence[str]
) -> Iterator[tuple[Ordered, dict[str, Any], list[str]]]:
    """Each pair with its facts and its two images."""
    curves = dict(iter(read_curves(run.root).groupby(["query_id", "reference_id"], observed=True)))
    row_of = {pair: row for row, pair in enumerate(matrix.pairs)}
    for start in range(0, len(kept), AT_ONCE):
        some = kept[start : start + AT_ONCE]
        maps = read_maps(run.root, {pair.ids for pair in some}, points=True)
        ids = (maps[f"{side}_id"].tolist() for side in SIDES) if maps else ((), ())
        rows = {pair: row for row, pair in enumerate(zip(*ids, strict=True))}
        for pair in some:
            row = rows.get(pair.ids)
            mine = {name: array[row] for name, array in maps.items()} if row is not None else {}
            packed = {
                "maps": {
                    name: sides
                    for name in methods
                    if any(sides := [_map(mine.get(f"{name}/{side}")) for side in SIDES])
                },
                "points": _points(mine.get(POINT_TO_POINT)),
                "matches": {name: found for name in methods if (found := _matches(mine.get(f"{name}/{MATCHES}")))},
                "curves": _curves(curves.get(pair.ids)),
                **_values(matrix, row_of.get(pair.ids), methods),
            }
            yield pair, packed, [_image(read_image(run.root, run.manifest, one)) for one in pair.ids]


def _values(matrix: Matrix, row: int | None, methods: Sequence[str]) -> dict[str, Any]:
    """By metric, the value of each method or the reason why it is missing; and the facts of the pair."""
    facts: dict[str, float | str] = {}
    values: dict[str, list[Any]] = {}
    for metric, explainer in () if row is None else matrix.columns:
        if (code := int(matrix.codes[metric, explainer][row])) == ABSENT:
            continue
        value = matrix.reasons[code] or float(f"{matrix.entries[metric, explainer][row]:.4g}")
        if explainer == FACTS:
            facts[metric] = value
        else:
            values.setdefault(metric, [None] * len(methods))[methods.index(explainer)] = value
    return {"facts": facts, "values": values}


def _map(raw: np.ndarray | None) -> dict[str, Any] | None:
    """A map divided by its largest magnitude, as int8; None if absent or constant."""
    if raw is None or not np.isfinite(raw).all() or not np.ptp(raw) > ROUNDING * np.abs(raw).max():
        return None
    size = (min(raw.shape[1], FINEST), min(raw.shape[0], FINEST))
    fine = Image.fromarray(np.ascontiguousarray(raw, dtype=np.float32))
    values = np.asarray(fine.resize(size, Image.Resampling.BOX)) if size != fine.size else raw
    scaled = (127 * (values / np.abs(values).max())).round().astype(np.int8)
    return {"rows": size[1], "cols": size[0], "data": _text(scaled)}


def _points(raw: np.ndarray | None) -> dict[str, Any] | None:
    """Joint contributions of positions, as signed square roots in int8, which keeps faint ones visible."""
    if raw is None or not np.isfinite(raw).all() or not (top := float(np.abs(raw).max())):
        return None
    whole = raw.astype(np.float64)
    roots = (127 * np.sign(whole) * np.sqrt(np.abs(whole) / top)).round().astype(np.int8)
    sums = [[float(f"{one:.3g}") for one in whole.sum(axis=axes).ravel()] for axes in ((2, 3), (0, 1))]
    total = float(f"{whole.sum():.4g}")
    return {"grid": list(raw.shape), "sums": sums, "total": total, "data": _text(roots)}


def _matches(raw: np.ndarray | None) -> list[list[float]]:
    """The matches of a method with a value other than zero, the strongest first; empty without any."""
    if raw is None or not np.isfinite(raw).all():
        return []
    return [[float(f"{value:.4g}") for value in row] for row in raw if row[4]]


def _curves(curves: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Each curve with its fractions and its scores between their bounds, as uint16."""
    found: list[dict[str, Any]] = []
    for row in () if curves is None else curves.to_dict("records"):
        score = np.asarray(row["score"], dtype=float)
        low, high = float(score.min()), float(score.max())
        scaled = (score - low) / (high - low or 1.0)
        at = [(65535 * np.asarray(part, dtype=float)).round().astype("<u2") for part in (row["fraction"], scaled)]
        named = {"method": str(row["explainer"]), "curve": str(row["curve"]), "words": to_prose(str(row["curve"]))}
        found.append({**named, "low": low, "high": high, "x": _text(at[0]), "y": _text(at[1])})
    return sorted(found, key=lambda one: str(one["curve"]))


def _image(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.thumbnail((LONGEST, LONGEST))
    picture.convert("RGB").save(content, format="WebP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def _deflate(packed: dict[str, Any]) -> str:
    """JSON, compressed, which the page inflates: half the size where point-to-point maps are stored."""
    return base64.b64encode(zlib.compress(to_json(packed).encode(), 6)).decode()


def _text(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def metric_groups(catalogue: Catalogue, metrics: Sequence[str]) -> Mapping[str, list[str]]:
    """The labels of metrics by group, in reading order."""
    found: dict[str, list[str]] = {}
    for metric in catalogue.sort(metrics):
        found.setdefault(catalogue.group(metric), []).append(catalogue.label(metric))
    return found
