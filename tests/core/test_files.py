"""Sealed JSON files: what was written is read back, and no damaged byte is read in silence."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from sfam_bench.core.errors import UserError
from sfam_bench.core.files import digest, read_json, write_json
from sfam_bench.core.provenance import code_hash

FACTS = {"name": "Grün", "count": 3, "rate": 0.1, "nested": {"list": [1, None, True]}, "nan": float("inf")}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", FACTS)
    assert read_json(tmp_path / "a.json", "do it again") == FACTS


def read_or_refuse(path: Path) -> object:
    try:
        return read_json(path, "do it again")
    except UserError as error:
        return str(error)[-len("do it again") :]


def test_any_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, FACTS)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for at in rng.integers(8 * len(whole), size=500).tolist():
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        path.write_bytes(damaged)
        assert read_or_refuse(path) in (FACTS, "do it again")  # only a change of white space may pass


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, FACTS)
    whole = path.read_bytes()
    for size in range(len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"a\.json"):
            read_json(path, "do it again")


@pytest.mark.parametrize("text", ["[1, 2]", "[" * 100_000, "\xff", ""])
def test_what_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="do it again"):
        read_json(tmp_path / "a.json", "do it again")


def test_an_older_file_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"name": 1}))
    with caplog.at_level(logging.WARNING):
        assert read_json(tmp_path / "a.json", "do it again") == {"name": 1}
    assert "carries no digest" in caplog.text


def test_digest_is_sha256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_other_code_has_another_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_hash()
    (tmp_path / "a.py").write_text("x = 1\n")
    monkeypatch.setattr("sfam_bench.core.provenance.__file__", str(tmp_path / "provenance.py"))
    first = code_hash()
    (tmp_path / "a.py").write_text("x = 2\n")
    assert len({before, first, code_hash()}) == 3


def test_a_folder_is_no_place_for_a_file(tmp_path: Path) -> None:
    (folder := tmp_path / "page.html").mkdir()
    with pytest.raises(UserError, match=r"page.html is a folder: give the path of a file"):
        write_json(folder, FACTS)
    assert [*tmp_path.iterdir()] == [folder]


def test_a_missing_folder_is_made_when_its_first_file_is_written(tmp_path: Path) -> None:
    file = tmp_path / "new" / "one.json"
    write_json(file, {"a": 1})
    assert read_json(file, "") == {"a": 1}
