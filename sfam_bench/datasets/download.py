"""Download the official archives: resume, verify, unpack safely and move into place in one step."""

import hashlib
import http.client
import logging
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from sfam_bench.core.errors import UserError, one_line

CHUNK = 1 << 20
TIMEOUT = 60  # seconds without data
# An archive may unpack to SMALL bytes or EXPANSION times its own size; archives of photos stay far below
SMALL, EXPANSION = 1 << 28, 20


@dataclass(frozen=True)
class RemoteFile:
    """A file at a URL, or at mirrors if that fails, with its MD5 or SHA-256 checksum.

    `name` is its name on disk (default: the URL's); `unpack` is the folder inside an archive (None: keep the file);
    `otherwise` is a hint where else to get it; `size` is in bytes.
    """

    url: str
    mirrors: Sequence[str] = ()
    name: str = ""
    md5: str | None = None
    sha256: str | None = None
    size: int | None = None
    unpack: str | None = None
    otherwise: str = ""

    @property
    def filename(self) -> str:
        """The file's name on disk."""
        return PurePosixPath(self.name or urllib.parse.urlparse(self.url).path).name


def download(files: Sequence[RemoteFile | Mapping], root: str | Path) -> list[Path]:
    """Download, verify and unpack files into `root` and return their paths; existing files are kept.

    An interrupted transfer continues from NAME.part at the next call; an archive put at root/NAME by hand is used.
    Raises UserError for a dead URL, a wrong checksum, or an archive that is damaged or writes outside root.
    """
    root = Path(root).expanduser()
    try:
        remote = [file if isinstance(file, RemoteFile) else RemoteFile(**file) for file in files]
    except TypeError as error:  # an unknown key, or no URL
        known = ", ".join(RemoteFile.__dataclass_fields__)
        raise UserError(f"a file of the download is misdescribed ({error}): its fields are {known}") from None
    root.mkdir(parents=True, exist_ok=True)
    return [_provide(file, root) for file in remote]


def _provide(file: RemoteFile, root: Path) -> Path:
    archive = root / file.filename
    place = root / (file.unpack or file.filename)
    if place.exists():
        logging.getLogger(__name__).info("%s exists; delete it to download it again", place)
        return place
    if not archive.exists():
        part = root / f"{file.filename}.part"
        if file.size is None or not part.exists() or part.stat().st_size != file.size:
            _fetch_any(file, part)
        _verify(file, part)
        part.replace(archive)
    elif file.unpack:
        _verify(file, archive)
    if file.unpack:
        _unpack(archive, root, file.unpack)
    return place


def _fetch_any(file: RemoteFile, part: Path) -> None:
    """Try the URL, then its mirrors; raises one UserError with the reason of each failure."""
    failures = []
    for url in (file.url, *file.mirrors):
        try:
            return _fetch(url, file, part)
        except urllib.error.HTTPError as error:
            failures.append(f"{url}: HTTP {error.code} {error.reason}")
        except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
            failures.append(f"{url}: {getattr(error, 'reason', error) or type(error).__name__}")
    hint = f"put {file.filename} into {part.parent} by hand, or run it again"
    resume = " to go on where it stopped" if part.exists() else ""
    raise UserError(
        f"cannot download {', nor '.join(failures)}; {file.otherwise or 'check the connection'}; {hint}{resume}"
    )


def _fetch(url: str, file: RemoteFile, part: Path) -> None:
    """Transfer one URL to `part`, resuming after the bytes that it holds if the server supports it."""
    if urllib.parse.urlparse(url).scheme not in ("http", "https", "ftp"):
        raise UserError(f"cannot download {url}: expected http, https or ftp; correct the url")
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "sfam_bench"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
            _receive(response, file, part, start)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        part.unlink()  # longer than the file, so it belongs to another one
        _fetch(url, file, part)


def _receive(response: http.client.HTTPResponse, file: RemoteFile, part: Path, start: int) -> None:
    # A server that cannot resume, such as FTP, sends everything again with another status.
    if getattr(response, "status", None) != http.HTTPStatus.PARTIAL_CONTENT:
        start = 0
    length = response.headers.get("Content-Length")
    total = int(length) + start if length else file.size
    bar = tqdm(desc=file.filename, total=total, initial=start, unit="B", unit_scale=True)
    with bar, part.open("ab" if start else "wb") as sink:
        while block := response.read(CHUNK):
            sink.write(block)
            bar.update(len(block))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"broke off at {part.stat().st_size} of {total} bytes")


def _verify(file: RemoteFile, path: Path) -> None:
    """Compare checksums; raises UserError and deletes a wrong partial file, as resuming cannot correct it."""
    if file.md5 is None and file.sha256 is None:
        logging.getLogger(__name__).warning("%s is not verified: no checksum is published", path)
    for kind, expected in (("md5", file.md5), ("sha256", file.sha256)):
        if expected is None:
            continue
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, kind).hexdigest()
        if found != expected.lower():
            if path.suffix == ".part":
                path.unlink()
            raise UserError(f"{path} has {kind} {found}, expected {expected}: delete it and download it again")


def _unpack(archive: Path, root: Path, wanted: str) -> None:
    """Unpack into a hidden folder and move the contents into root, `wanted` last, so that it exists only if all do."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{archive.name}.", dir=root))
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, scratch)
        else:
            _untar(archive, scratch)
        if not (scratch / wanted).exists():
            raise UserError(f"{archive} holds no {wanted}: correct `unpack`")
        for child in sorted(scratch.iterdir(), key=lambda child: child.name == wanted):
            if not (root / child.name).exists():
                child.replace(root / child.name)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise UserError(f"cannot unpack {archive} ({one_line(error)}): delete it and download it again") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unzip(archive: Path, target: Path) -> None:
    with zipfile.ZipFile(archive) as source:
        for name in source.namelist():
            # zipfile would silently rename such a member; official archives have none.
            if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts:
                raise zipfile.BadZipFile(f"member {name!r} leads out of it")
        _check_size(archive, sum(member.file_size for member in source.infolist()), target)
        source.extractall(target)


def _untar(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as tar:
        total = 0
        for member in tar:
            total += member.size
            _check_size(archive, total, target)  # before the member is written
            tar.extract(member, target, filter="data")


def _check_size(archive: Path, size: int, target: Path) -> None:
    """Raise UserError if an archive claims far more bytes than photos can expand to, or than the disk has free."""
    limit = max(SMALL, EXPANSION * archive.stat().st_size)
    if size > limit:
        raise UserError(
            f"{archive} holds {archive.stat().st_size / 1e6:.0f} MB and would unpack to over {limit / 1e6:.0f} MB: "
            "this is not the official archive; delete it and download it again"
        )
    if size > (free := shutil.disk_usage(target).free):
        raise UserError(f"{archive} unpacks to {size / 1e6:.0f} MB and the disk has {free / 1e6:.0f} MB: make room")
