"""Downloads from a server on this machine; nothing leaves it."""

import gzip
import hashlib
import http.server
import io
import logging
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from sfam_bench.core.errors import UserError
from sfam_bench.datasets.download import RemoteFile, download
from tests.paths import CONF

CONTENT = bytes(range(256)) * 5000  # 1.28 MB: more than one chunk
MD5 = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; keeps the Range of each request; may ignore ranges or break off after some bytes."""

    files: dict[str, bytes]
    ranges: list[str | None]
    resumes = True
    breaks_after: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        content = self.server.files.get(self.path.split("?")[0])
        if content is None:
            return self.send_error(404)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.resumes else 0
        if start and start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.breaks_after])
        return None

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.files, server.ranges = {"/data.bin": CONTENT}, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


@pytest.mark.parametrize("sums", [{"md5": MD5}, {"sha256": SHA256.upper()}, {"md5": MD5, "sha256": SHA256}])
def test_verified(server: Server, tmp_path: Path, sums: dict[str, str]) -> None:
    root = tmp_path / "new" / "root"
    assert download([{"url": f"{server.url}/data.bin", **sums}], root) == [root / "data.bin"]
    assert (root / "data.bin").read_bytes() == CONTENT
    assert names(root) == ["data.bin"]


def test_what_is_there_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_text("mine")
    download([{"url": f"{server.url}/data.bin", "md5": MD5}], tmp_path)
    assert (tmp_path / "data.bin").read_text() == "mine"
    assert server.ranges == []


def test_no_checksum_is_said(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        download([RemoteFile(f"{server.url}/data.bin")], tmp_path)
    assert "is not verified" in caplog.text


def test_resumes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1000])
    download([{"url": f"{server.url}/data.bin", "md5": MD5}], tmp_path)
    assert server.ranges == ["bytes=1000-"]
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["data.bin"]


def test_goes_on_after_a_break(server: Server, tmp_path: Path) -> None:
    server.breaks_after = 300_000
    with pytest.raises(UserError, match=r"broke off at 300000 of 1280000 bytes.*to go on where it stopped"):
        download([{"url": f"{server.url}/data.bin", "md5": MD5}], tmp_path)
    assert names(tmp_path) == ["data.bin.part"]
    server.breaks_after = None
    download([{"url": f"{server.url}/data.bin", "md5": MD5}], tmp_path)
    assert server.ranges == [None, "bytes=300000-"]
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_server_that_cannot_resume_starts_again(server: Server, tmp_path: Path) -> None:
    server.resumes = False
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1000)
    download([{"url": f"{server.url}/data.bin", "md5": MD5}], tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_part_that_is_too_long_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT + b"more")
    download([{"url": f"{server.url}/data.bin", "md5": MD5}], tmp_path)
    assert server.ranges == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_complete_part_needs_no_transfer(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    download([{"url": f"{server.url}/data.bin", "md5": MD5, "size": len(CONTENT)}], tmp_path)
    assert server.ranges == []
    assert names(tmp_path) == ["data.bin"]


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_wrong_checksum(server: Server, tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match=rf"has {kind} \w+, expected abc: delete it and download it again"):
        download([{"url": f"{server.url}/data.bin", kind: "abc"}], tmp_path)
    assert names(tmp_path) == []


def test_dead_url_is_one_line_that_says_what_to_do(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        download([{"url": f"{server.url}/gone.tgz", "unpack": "cars", "otherwise": "look on Kaggle"}], tmp_path)
    assert str(caught.value) == (
        f"cannot download {server.url}/gone.tgz: HTTP 404 Not Found; "
        f"look on Kaggle; put gone.tgz into {tmp_path} by hand, or run it again"
    )


def test_dead_host(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot download http://127\.0\.0\.1:1/x: .*refused.*; check the connection"):
        download([{"url": "http://127.0.0.1:1/x"}], tmp_path)


def test_mirror_and_name(server: Server, tmp_path: Path) -> None:
    mirrors = [f"{server.url}/data.bin?id=7"]
    file = {"url": f"{server.url}/gone.bin", "mirrors": mirrors, "md5": MD5, "name": "../kept.bin"}
    assert download([file], tmp_path) == [tmp_path / "kept.bin"]
    server.files.clear()
    with pytest.raises(UserError, match=r"gone\.bin: HTTP 404 Not Found, nor .*data\.bin\?id=7: HTTP 404"):
        download([file], tmp_path / "again")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "data.bin"])
def test_other_schemes(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="expected http, https or ftp"):
        download([{"url": url}], tmp_path)


def tar(members: dict[str, bytes], link: str = "") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo("birds/link")
            info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info)
    return stream.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize("pack", [tar, zipped])
def test_unpacks(server: Server, tmp_path: Path, pack: type) -> None:
    server.files["/birds.tgz"] = pack({"birds/a.txt": b"a", "attributes.txt": b"beside"})
    (tmp_path / "attributes.txt").write_text("mine")
    file = {"url": f"{server.url}/birds.tgz", "unpack": "birds"}
    assert download([file], tmp_path) == [tmp_path / "birds"]
    assert (tmp_path / "birds/a.txt").read_text() == "a"
    assert (tmp_path / "attributes.txt").read_text() == "mine"
    assert names(tmp_path) == ["attributes.txt", "birds", "birds.tgz"]
    (tmp_path / "birds.tgz").unlink()
    download([file], tmp_path)
    assert len(server.ranges) == 1


def test_an_archive_put_there_by_hand(server: Server, tmp_path: Path) -> None:
    content = tar({"birds/a.txt": b"a"})
    (tmp_path / "gone.tgz").write_bytes(content)
    download([{"url": f"{server.url}/gone.tgz", "md5": hashlib.md5(content).hexdigest(), "unpack": "birds"}], tmp_path)
    assert (tmp_path / "birds/a.txt").exists()
    assert server.ranges == []


@pytest.mark.parametrize(
    "content",
    [
        tar({"birds/a": b"", "../out.txt": b"x"}),
        tar({"birds/a": b""}, link="/etc/passwd"),
        tar({"birds/a": b""}, link="../../out.txt"),
        zipped({"birds/a": b"", "../out.txt": b"x"}),
        zipped({"birds/a": b"", "/out.txt": b"x"}),
        zipped({"birds/a": b"", "birds\\..\\..\\out.txt": b"x"}),
        tar({"birds/a": CONTENT})[:500],
        zipped({"birds/a": CONTENT})[:500],
        b"<html>quota exceeded</html>",
    ],
)
def test_archives_that_are_broken_or_write_outside(server: Server, tmp_path: Path, content: bytes) -> None:
    server.files["/birds.tgz"] = content
    root = tmp_path / "root"
    with pytest.raises(UserError, match=r"cannot unpack .*birds\.tgz .*delete it and download it again"):
        download([{"url": f"{server.url}/birds.tgz", "unpack": "birds"}], root)
    assert names(tmp_path) == ["root"]
    assert names(root) == ["birds.tgz"]


def test_archive_without_the_folder(server: Server, tmp_path: Path) -> None:
    server.files["/birds.tgz"] = tar({"cars/a.txt": b"a"})
    with pytest.raises(UserError, match="holds no birds"):
        download([{"url": f"{server.url}/birds.tgz", "unpack": "birds"}], tmp_path)


@pytest.mark.parametrize("name", ["cub", "cars196", "sop"])
def test_configured_files(name: str) -> None:
    config = yaml.safe_load((CONF / "download" / f"{name}.yaml").read_text())
    files = [RemoteFile(**file) for file in config["files"]]
    assert all(file.url.startswith(("https://", "ftp://")) and file.unpack and file.otherwise for file in files)
    assert all(len(file.md5) == 32 for file in files if file.md5)
    assert all(file.filename.endswith((".tgz", ".zip")) for file in files)


def sized(pack: str, size: int) -> bytes:
    """An archive of a few bytes whose member is, by its header, so many bytes of zeros."""
    if pack == "zip":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("birds/a", "w") as member:
            for _ in range(size >> 20):
                member.write(bytes(1 << 20))
        return stream.getvalue()
    info = tarfile.TarInfo("birds/a")
    info.size = size
    return gzip.compress(info.tobuf() + bytes(1024))


@pytest.mark.parametrize(("pack", "size"), [("zip", 300 << 20), ("tar", 4 << 30)])
def test_an_archive_of_zeros_is_refused_by_its_header(server: Server, tmp_path: Path, pack: str, size: int) -> None:
    server.files["/birds.zip"] = sized(pack, size)
    with pytest.raises(UserError, match=r"birds\.zip holds 0 MB and would unpack to over 268 MB"):
        download([{"url": f"{server.url}/birds.zip", "unpack": "birds"}], tmp_path)
    assert names(tmp_path) == ["birds.zip"]


def test_a_full_disk_is_said_before_anything_is_unpacked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/birds.tgz"] = tar({"birds/a": CONTENT})
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=10))
    with pytest.raises(UserError, match="the disk has 0 MB: make room"):
        download([{"url": f"{server.url}/birds.tgz", "unpack": "birds"}], tmp_path)


@pytest.mark.parametrize("file", [{"ulr": "http://x"}, {"url": "http://x", "sha1": "a"}])
def test_a_misdescribed_file(tmp_path: Path, file: dict) -> None:
    with pytest.raises(UserError, match="a file of the download is misdescribed"):
        download([file], tmp_path / "root")
