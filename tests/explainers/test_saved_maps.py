"""A folder of maps: which file a pair reads, what is refused, and what is left to be flagged."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sfam_bench.core.errors import UserError
from sfam_bench.core.method_card import card_of
from sfam_bench.core.records import PairBatch
from sfam_bench.core.targets import Similarity
from sfam_bench.evaluation.evaluate import swap_pairs
from sfam_bench.explainers.saved_maps import SavedMaps, pair_file, write_maps
from sfam_bench.models.similarity_model import SimilarityModel, encode_pairs
from tests.contract import SETUPS, only, pairs, tiny

PAIRS = (("a", "u"), ("b", "v"), ("c", "w"))


@pytest.fixture(scope="module")
def model() -> SimilarityModel:
    return tiny(*SETUPS[0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A map for each pair and its reverse."""
    draw = np.random.default_rng(0)
    both = [*PAIRS, *((reference, query) for query, reference in PAIRS)]
    write_maps(tmp_path / "maps", ((*pair, draw.random((4, 6))) for pair in both))
    return tmp_path / "maps"


def read(model: SimilarityModel, saved: SavedMaps, batch: PairBatch | None = None, swap: bool = False) -> Tensor:
    batch = batch or pairs()
    encoded = encode_pairs(model, Similarity(), batch.query, batch.reference)
    return saved(model, *(swap_pairs(encoded, batch) if swap else (encoded, batch)))


def test_each_pair_reads_its_own_file_and_each_side_its_own(model: SimilarityModel, folder: Path) -> None:
    for swap in (False, True):
        found = read(model, SavedMaps(str(folder)), swap=swap)
        assert found.dtype == torch.float32
        for pair, one in zip(PAIRS, found.numpy(), strict=True):
            expected = np.load(folder / pair_file(*(pair[::-1] if swap else pair)))
            np.testing.assert_array_equal(one, expected.astype(np.float32))


def test_no_two_pairs_share_a_file_and_no_id_leads_elsewhere() -> None:
    ids = ["a", "b", "a@b", "a/b", "../a", "a%40b", "ä b", ""]
    files = [pair_file(query, reference) for query in ids for reference in ids]
    assert len(set(files)) == len(files)
    assert all(Path(file).name == file for file in files)


def test_maps_named_by_image_lie_in_the_folders_of_the_id_and_are_blind(model: SimilarityModel, tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    for name in ("val/1.jpg", "val/2.jpg"):
        np.save(tmp_path / name, np.eye(3) * len(name))  # numpy adds .npy, as in wsolevaluation
    saved = SavedMaps(str(tmp_path), named_by="image")
    batch = dataclasses.replace(only(pairs(), [0, 1]), query_ids=("val/1.jpg", "val/2.jpg"))
    assert read(model, saved, batch).shape == (2, 3, 3)
    assert card_of(saved).blind
    assert not card_of(dataclasses.replace(saved, named_by="pair")).blind
    assert not card_of(saved).remakes


def test_an_id_that_leads_out_of_the_folder_is_refused(model: SimilarityModel, folder: Path) -> None:
    np.save(folder.parent / "secret.npy", np.eye(3))
    batch = dataclasses.replace(only(pairs(), [0]), query_ids=("../secret",))
    with pytest.raises(UserError, match="leads out of"):
        read(model, SavedMaps(str(folder), named_by="image"), batch)


def test_whole_numbers_and_halves_are_numbers_and_what_is_not_finite_is_left_to_be_flagged(
    model: SimilarityModel, folder: Path
) -> None:
    for pair, kind in zip(PAIRS, (np.uint8, np.float16, bool), strict=True):
        np.save(folder / pair_file(*pair), np.ones((4, 6), kind))
    assert (read(model, SavedMaps(str(folder))) == 1).all()
    np.save(folder / pair_file("a", "u"), np.full((4, 6), 1e300))
    assert read(model, SavedMaps(str(folder)))[0].isinf().all()


def header(shape: tuple[int, ...]) -> bytes:
    """The header of a .npy file without its array."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": shape, "fortran_order": False, "descr": "<f8"})
    return stream.getvalue()


HUGE = header((10**6, 10**6))


def test_a_folder_without_maps_is_refused(tmp_path: Path) -> None:
    saved = SavedMaps(str(tmp_path))
    with pytest.raises(UserError, match="holds no map"):
        _ = saved.any_shape


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.ones((1, 4, 6)), "expected numbers, \\(rows, cols\\)"),
        (np.ones((0, 6)), "expected numbers"),
        (np.ones((4, 6), complex), "expected numbers"),
        (np.ones((4, 5)), "save all on one grid"),
        (np.array([[None]]), "cannot read .*np.save"),
        (b"", "cannot read"),
        (b"not an array", "cannot read"),
        (HUGE, "its header claims .*, but the file has 128 bytes"),
        (HUGE[:40], "cannot read"),
    ],
    ids=["three axes", "empty", "complex", "another grid", "pickled", "no bytes", "no array", "huge", "cut"],
)
def test_a_file_that_is_no_map_is_refused(
    model: SimilarityModel, folder: Path, bad: np.ndarray | bytes, words: str
) -> None:
    path = folder / pair_file("b", "v")
    if isinstance(bad, bytes):
        path.write_bytes(bad)
    else:
        np.save(path, bad, allow_pickle=True)
    with pytest.raises(UserError, match=words):
        read(model, SavedMaps(str(folder)))


def test_a_grid_that_differs_is_refused_in_whatever_batch_it_falls(model: SimilarityModel, folder: Path) -> None:
    np.save(folder / pair_file("b", "v"), np.ones((4, 5)))
    saved = SavedMaps(str(folder))
    with pytest.raises(UserError, match="save all on one grid"):
        [read(model, saved, only(pairs(), [row])) for row in range(3)]


def test_a_changed_image_has_no_saved_map(model: SimilarityModel, folder: Path) -> None:
    batch = pairs()
    encoded = encode_pairs(model, Similarity(), 0.5 * batch.query, batch.reference)
    with pytest.raises(UserError, match="cannot be computed for changed images"):
        SavedMaps(str(folder))(model, encoded, batch)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder of maps"):
        SavedMaps(str(tmp_path / "absent"))


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken():
        yield "a", "b", np.eye(2)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_maps(tmp_path / "maps", broken())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "maps").mkdir()
    assert write_maps(tmp_path / "maps", [("a", "b", np.eye(2))]) == 1  # an empty folder is no obstacle
    with pytest.raises(UserError, match="not empty"):
        write_maps(tmp_path / "maps", [])
    with pytest.raises(RuntimeError):
        write_maps(tmp_path / "maps", broken(), replace=True)
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["a@b.npy"]
    write_maps(tmp_path / "maps", [("c", "d", np.eye(2))], replace=True)
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["c@d.npy"]
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]


def test_ids_may_be_longer_than_the_name_of_a_file(tmp_path: Path) -> None:
    long = "a bird " * 20
    write_maps(tmp_path, [(long, other, np.full((2, 2), value)) for value, other in enumerate(["r", "s", long])])
    read = SavedMaps(str(tmp_path))
    assert [read.one(long, other)[0, 0] for other in ("r", "s", long)] == [0, 1, 2]
    assert all(len(path.name) <= 255 for path in tmp_path.iterdir())
    with pytest.raises(UserError, match="no map of a bird"):
        read.one(2 * long, "r")
