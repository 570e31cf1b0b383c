"""The maps of one pair, and what can be made of them: pictures, tables, files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import PIL.Image
import torch
from matplotlib.figure import Figure
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import atomic
from sfam_bench.core.geometry import STANDARD, Geometry
from sfam_bench.core.maps import place
from sfam_bench.core.types import Image, Images
from sfam_bench.datasets.pictures import Picture, open_picture, tensor_to_image
from sfam_bench.report.catalogue import Catalogue
from sfam_bench.report.figures.colours import ALPHA, COLORMAP, EMPTY, check_colours, heatmap, overlay
from sfam_bench.report.figures.pair import KINDS, MapPanel, Sheet, check_suffix, pair_figure, panel_lines, save_figure
from sfam_bench.report.names import to_prose
from sfam_bench.report.page.pair import render_fragment, render_pairs

TITLE = "Why are these images alike?"
Side: TypeAlias = Literal["query", "reference", "negative"]


@dataclass(frozen=True)
class Explanation:
    """What `explain` returns: the score of a pair and its maps.

    Attributes:
        score: what is explained: the similarity of the two images, in the unit of the model's similarity (cosine: -1 to
            1); with a negative the margin, which is that minus the similarity to the negative.
        query: the query as the model reads it, (3, rows, cols), RGB in [0, 1].
        reference: the reference as the model reads it, (3, rows, cols), RGB in [0, 1]; of several images (supports, 3,
            rows, cols); None for a vector.
        query_maps: a map of the query for each method, (rows, cols), signed, largest magnitude 1: positive values
            raise the score, negative values lower it.
        reference_maps: the same of the reference; of several images (supports, rows, cols), on one scale; none for a
            vector.
        flags: for each method whose map of the query is all zeros the reason: "self_pair", "constant_map" or
            "nonfinite_map". If only maps of other images are, "reference: constant_map", and so on.
        negative: as the reference; None without.
        negative_maps: maps of the negative for its similarity to the query: positive values raise that similarity, and
            so lower the margin.
        target: "similarity" or "margin".
        ids: of query, reference and negative: their paths as given, or "image" (of a vector "vector") and a digest of
            the content. Random methods are seeded by them.
        pictures: the pictures as they were given, of each side, from which `overlay(original=True)` reads.
        geometry: how they were resized and cropped.
        background: the colour behind transparent pixels.
        colormap: a colormap of Matplotlib for positive values, from 0 to 1; negative values are blue.
        alpha: opacity of the largest value, in (0, 1]; `dataclasses.replace(explanation, alpha=0.5)` changes it.
    """

    score: float
    query: Image
    reference: Image | Images | None
    query_maps: dict[str, Tensor]
    reference_maps: dict[str, Tensor]
    flags: dict[str, str]
    negative: Image | Images | None = None
    negative_maps: dict[str, Tensor] = field(default_factory=dict)
    target: str = "similarity"
    ids: tuple[str, ...] = ("query", "reference", "negative")
    pictures: Mapping[str, Sequence[Picture]] = field(default_factory=dict, repr=False)
    geometry: Geometry = STANDARD
    background: str = "white"
    colormap: str = COLORMAP
    alpha: float | int = ALPHA

    def __post_init__(self) -> None:
        check_colours(self.colormap, self.alpha)

    def overlay(
        self, explainer: str | None = None, side: Side = "query", original: bool = False, number: int = 0
    ) -> PIL.Image.Image:
        """Draw the map of an image over it, in grey where the map is small.

        Args:
            explainer: name of the method; None for the first.
            side: "query", "reference" or "negative".
            original: whether to draw on the picture as it was given, at its own size, instead of on what the model
                reads. What the crop cut away has no map and is faded.
            number: which of several reference images, from 0.

        Raises:
            UserError: if there is no such method or image, or the file has changed or gone.
        """
        image, raw = self._find(explainer, side, original, number)
        if not np.nan_to_num(raw).any():
            return PIL.Image.fromarray(image).convert("L").convert("RGB")  # a flagged map has no colour
        return PIL.Image.fromarray(overlay(image, raw, self.colormap, self.alpha))

    def heatmap(
        self, explainer: str | None = None, side: Side = "query", original: bool = False, number: int = 0
    ) -> PIL.Image.Image:
        """Draw the map alone; arguments as in `overlay`. A flagged map is grey, as is what the crop cut away."""
        image, raw = self._find(explainer, side, original, number)
        flagged = not np.nan_to_num(raw).any()
        return PIL.Image.fromarray(np.full_like(image, EMPTY) if flagged else heatmap(raw, self.colormap))

    def map_of(
        self, explainer: str | None = None, side: Side = "query", original: bool = False, number: int = 0
    ) -> np.ndarray:
        """A map as an array (rows, cols); with `original` at the picture's size, NaN where the crop cut it away."""
        return self._find(explainer, side, original, number)[1]

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each method and pixel: explainer, side, number (of several references), row, col, value."""
        frames = []
        for side, maps in self._maps.items():
            for name, whole in maps.items():
                for number, one in enumerate(whole if whole.ndim == 3 else whole[None]):
                    rows, cols = np.indices(one.shape)
                    columns = {"row": rows.ravel(), "col": cols.ravel(), "value": one.numpy().ravel()}
                    frames.append(pd.DataFrame({"explainer": name, "side": side, "number": number, **columns}))
        return pd.concat(frames, ignore_index=True)

    def show(self, path: str | Path | None = None, scores: pd.DataFrame | None = None) -> Figure:
        """Draw the images and the maps of each method; see `show`."""
        if path is not None:
            check_suffix(Path(path))
        figure = pair_figure([self.sheet(scores)])
        if path is not None:
            save_figure(figure, Path(path).expanduser())
        return figure

    def save(self, path: str | Path, scores: pd.DataFrame | None = None) -> None:
        """Write the maps in the format of the suffix, whole or not at all.

        Args:
            path: .png or .svg for the figure of `show`, .html for a page with embedded images, .npz for arrays:
                `score`, `query` and `reference` (RGB in [0, 1]), and "METHOD/query" and "METHOD/reference" (maps).
            scores: what `score` returned, whose values stand beside the maps.

        Raises:
            UserError: if the suffix is another one, or the file cannot be written.
        """
        save_explanations([self], path, scores)

    def sheet(self, scores: pd.DataFrame | None = None, title: str = "") -> Sheet:
        """What is drawn: the images by title, their maps, and the values of `score` beside them."""
        images, places = {}, []
        for side, given in {"query": self.query, "reference": self.reference, "negative": self.negative}.items():
            for number, image in enumerate([] if given is None else [given] if given.ndim == 3 else given):
                called = side if given is None or given.ndim == 3 else f"{side} {number}"
                images[called] = pixels(image)
                places.append((side, number))
        panels = [
            MapPanel(name, [self._map(name, *place) for place in places], self._caption(name, scores))
            for name in self.query_maps
        ]
        lines = [f"{self.target} {self.score:.3f}"]
        return Sheet(images, lines, panels, self.target, title, self.colormap, self.alpha)

    def _repr_html_(self) -> str:
        return render_fragment([self.sheet()])

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What an .npz file holds."""
        images = {"query": self.query, "reference": self.reference, "negative": self.negative}
        found = {name: image.numpy() for name, image in images.items() if image is not None}
        maps = {f"{name}/{side}": one.numpy() for side, own in self._maps.items() for name, one in own.items()}
        return {"score": np.array(self.score), **found, **maps}

    @property
    def _maps(self) -> dict[str, dict[str, Tensor]]:
        return {"query": self.query_maps, "reference": self.reference_maps, "negative": self.negative_maps}

    def _find(self, explainer: str | None, side: str, original: bool, number: int) -> tuple[np.ndarray, np.ndarray]:
        """An image, uint8 (rows, cols, 3), and its map, (rows, cols)."""
        name = next(iter(self.query_maps)) if explainer is None else explainer
        if name not in self.query_maps:
            raise UserError(f"there is no map by {name!r}: it has {', '.join(self.query_maps)}")
        images = {"query": self.query, "reference": self.reference, "negative": self.negative}
        given = images.get(side)
        if given is None or name not in self._maps[side]:
            having = ", ".join(name for name, image in images.items() if image is not None)
            raise UserError(f"there is no image {side!r}: choose one of {having}")
        several = given if given.ndim == 4 else given[None]
        if not 0 <= number < len(several):
            raise UserError(f"{side} has {len(several)} images: number is {number}, and counts from 0")
        raw = self._map(name, side, number)
        if not original:
            return pixels(several[number]), raw
        image = self._original(side, number, len(several))
        if image.shape[:2] == raw.shape and isinstance(self.pictures[side][number], Tensor):
            return image, raw  # a tensor is not resized
        window = self.geometry.window((image.shape[0], image.shape[1]))
        return image, place(torch.from_numpy(raw)[None], window, (image.shape[0], image.shape[1]))[0].numpy()

    def _original(self, side: str, number: int, images: int) -> np.ndarray:
        given = self.pictures.get(side, ())
        if len(given) != images:
            raise UserError(
                f"the picture of {side} is not known: one of several references was chosen, or none is kept"
            )
        picture = given[number]
        if isinstance(picture, Tensor):
            return pixels(tensor_to_image(picture, side))
        return np.asarray(open_picture(picture, side, self.background))

    def _map(self, name: str, side: str, number: int) -> np.ndarray:
        maps = self._maps[side][name]
        found: np.ndarray = (maps[number] if maps.ndim == 3 else maps).numpy()
        return found

    def _caption(self, name: str, scores: pd.DataFrame | None) -> list[str]:
        """Why a map is flagged, and the values of the query's map if that is not."""
        flagged = [to_prose(self.flags[name])] if name in self.flags else []
        if scores is None or name not in scores.index or (flagged and not self.query_maps[name].any()):
            return flagged
        (row,) = scores.loc[[name]].to_dict("records")
        values = {str(metric): float(value) for metric, value in row.items()}
        return flagged + panel_lines(values, Catalogue(scores.attrs.get("metrics", {})))


def save_explanations(
    explanations: Sequence[Explanation], path: str | Path, scores: pd.DataFrame | None = None, title: str = TITLE
) -> None:
    """Write explanations into one file: .html (a section each), .npz (stacked), or one as .png or .svg.

    Args:
        explanations: what `explain` returned.
        path: of the file, which is replaced.
        scores: what `score` returned for the same pairs.
        title: of the page.

    Raises:
        UserError: if the suffix is another one, several are to be one figure, or the file cannot be written.
    """
    file, alone = Path(path).expanduser(), len(explanations) == 1
    if file.suffix == ".npz":
        content = BytesIO()
        arrays: dict[str, Any] = explanations[0].arrays if alone else _stack(explanations)
        np.savez_compressed(content, **arrays)
        _write(file, content.getvalue())
        return
    if file.suffix in KINDS and not alone:
        raise UserError(f"{file} would hold {len(explanations)} pairs: name a file that ends in .html or .npz")
    sheets = [explanations[0].sheet(scores)] if alone else _sheets(explanations, scores)
    save_sheets(sheets, file, title, (*KINDS, ".html", ".npz"))


def save_sheets(
    sheets: Sequence[Sheet], path: str | Path, title: str = TITLE, kinds: Sequence[str] = (*KINDS, ".html")
) -> None:
    """Write a figure or a page by the suffix, which must be one of `kinds`; UserError if it cannot be written."""
    file = Path(path).expanduser()
    if file.suffix not in kinds:
        raise UserError(f"cannot write {file}: name a file that ends in {', '.join(kinds[:-1])} or {kinds[-1]}")
    if file.suffix == ".html":
        _write(file, render_pairs(sheets, title).encode())
    else:
        save_figure(pair_figure(sheets), file)


def _write(file: Path, content: bytes) -> None:
    try:
        with atomic(file) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"cannot write {file} ({why}): choose a place that you may write to") from None


def _sheets(explanations: Sequence[Explanation], scores: pd.DataFrame | None) -> list[Sheet]:
    """A sheet for each pair; the values of `score` are indexed by the number of the pair."""
    sheets = []
    for number, made in enumerate(explanations):
        own = None if scores is None else scores.loc[[number]].droplevel("pair")
        sheets.append(made.sheet(own, " - ".join(made.ids[: 2 + (made.negative is not None)])))
    return sheets


def _stack(explanations: Sequence[Explanation]) -> dict[str, np.ndarray]:
    arrays = [made.arrays for made in explanations]
    shapes = [{name: array.shape for name, array in own.items()} for own in arrays]
    for number, own in enumerate(shapes):
        if own != shapes[0]:
            raise UserError(f"pairs 0 and {number} have arrays of different shapes: save them one by one")
    ids = {
        f"{name}_id": np.array([made.ids[at] for made in explanations])
        for at, name in enumerate(("query", "reference"))
    }
    return {**ids, **{name: np.stack([own[name] for own in arrays]) for name in arrays[0]}}


def pixels(image: Image) -> np.ndarray:
    """Convert an image in [0, 1] to bytes, (rows, cols, 3)."""
    found: np.ndarray = (image * 255).round().byte().permute(1, 2, 0).numpy()
    return found
