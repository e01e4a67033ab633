"""Fetch an archive over an unreliable line, unpack it without trust (chapter 12).

`fetch` resumes where it stopped, hashes what streams by, and gives a file its final
name only when it is complete. `extract` writes plain files and folders below one folder
and refuses everything else that an archive can hold. Neither knows of MVTec AD.
"""

import contextlib
import hashlib
import http.client
import json
import lzma
import os
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

CHUNK = 1 << 18  # bytes
GIGABYTE = 10**9
USER_AGENT = "ebmlib (urllib)"


class DownloadError(RuntimeError):
    """A source that did not deliver what it should; says which and why."""


class _Interrupted(Exception):  # noqa: N818 (a state to recover from, not an error)
    """The transfer stopped; what has arrived is kept, and trying again may help."""


class _Changed(_Interrupted):
    """What has arrived belongs to another file; it was thrown away."""


# ------------------------------------------------------------------------ fetching


def fetch(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    timeout: float = 30.0,
    tries: int = 5,
    pause: float = 1.0,
    max_bytes: int = 8 * GIGABYTE,
    log: Callable[[str], None] = print,
) -> Path:
    """Download one file; after an interruption, continue where it stopped.

    Bytes go to `<path>.part`, which stays behind after an interruption and is continued
    by the next call (HTTP Range); servers without Range start anew. The server's
    validator (ETag or Last-Modified) and the length stay in `<path>.part.json`: a file
    that has changed on the server since is fetched anew and never joined to the old
    part. Without `sha256`, a part of another address or of unknown origin is not
    continued either. The file gets its name only when its length is the announced one
    and its hash, if known, matches.

    Args:
        url: http or https.
        path: Where the complete file goes; returned as it is if it exists already.
        sha256: Expected hash in hexadecimal.
        timeout: Seconds without a byte after which the connection counts as stalled.
        tries: Attempts *in a row without a new byte* after which to give up.
        pause: Seconds between attempts.
        max_bytes: Refuse to store more than this.
        log: Receives one line for each event.

    Raises:
        DownloadError: Not found, no progress, too large, or the wrong hash.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url}: not an http or https address")
    if path.exists() and (sha256 is None or _hash(path).hexdigest() == sha256):
        return path
    most, idle, changes = _size(part), 0, 0
    while True:
        try:
            digest = _transfer(url, part, sha256 is not None, timeout, max_bytes, log)
            break
        except _Interrupted as interruption:
            if isinstance(interruption, _Changed):
                most, changes = 0, changes + 1
            idle = 0 if _size(part) > most else idle + 1
            most = max(most, _size(part))
            log(f"{url}: {interruption}; {_size(part):,} bytes so far")
            if max(idle, changes) >= tries:
                raise DownloadError(
                    f"{url}: {tries} tries in a row brought nothing new after "
                    f"{most:,} bytes ({interruption}); try later or another source"
                ) from None
            time.sleep(pause)
    if sha256 is not None and digest != sha256:
        _discard(part)
        raise DownloadError(
            f"{url}: SHA-256 is {digest} instead of {sha256}: not the published file "
            "(it was deleted)"
        )
    os.replace(part, path)
    _discard(part)
    return path


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _hash(path: Path) -> "hashlib._Hash":
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


class _Origin(NamedTuple):
    """Which file of which server a part belongs to; None where the server is silent."""

    url: str
    etag: str | None
    modified: str | None
    total: int | None

    @property
    def validator(self) -> str | None:
        """What `If-Range` may hold: a strong ETag, or else the time of the change."""
        strong = self.etag is not None and not self.etag.startswith("W/")
        return self.etag if strong else self.modified

    def differs(self, other: "_Origin") -> bool:
        """Whether both say something, and not the same."""
        return any(
            own is not None and its is not None and own != its
            for own, its in zip(self, other, strict=True)
        )


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _discard(part: Path) -> None:
    for path in (part, _note(part)):
        path.unlink(missing_ok=True)


def _read_origin(part: Path) -> _Origin | None:
    try:
        return _Origin(**json.loads(_note(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _transfer(
    url: str,
    part: Path,
    hashed: bool,
    timeout: float,
    max_bytes: int,
    log: Callable[[str], None],
) -> str:
    """One attempt: append to `part` until it is complete; its SHA-256."""
    known = _read_origin(part)
    if known is not None and known.url != url:
        known = None
    if known is None and not hashed:
        _discard(part)  # nothing could tell whether it belongs to this file
    offset = _size(part)
    response = _connect(url, offset, timeout, known, part)
    if response is None:  # nothing left to fetch
        return _hash(part).hexdigest()
    with response:
        resumed = response.status == 206
        start = offset if resumed else 0
        origin = _origin(url, response, start)
        total = origin.total
        if resumed:
            _check_range(response, start, part)
            if known is not None and known.differs(origin):
                _discard(part)
                raise _Changed("the file on the server has changed: starting anew")
        if (total or 0) > max_bytes:
            raise DownloadError(
                f"{url}: {total:,} bytes, more than {max_bytes:,} allowed"
            )
        if not resumed:
            _discard(part)
            note = json.dumps(origin._asdict())
            _note(part).write_text(note, encoding="utf-8")
        digest = _hash(part) if start else hashlib.sha256()
        log(
            f"{url}: {'resumed' if start else 'started'} at byte {start:,}"
            + (f" of {total:,}" if total else "")
        )
        received = start
        with part.open("ab") as file:
            for chunk in _chunks(response):
                received += len(chunk)
                if received > max_bytes:
                    break
                file.write(chunk)
                digest.update(chunk)
    if received > max_bytes:
        _discard(part)
        raise DownloadError(f"{url}: more than {max_bytes:,} bytes; stopped")
    if total is not None and received < total:
        raise _Interrupted(f"the line closed after {received:,} of {total:,} bytes")
    return digest.hexdigest()


def _origin(url: str, response: http.client.HTTPResponse, start: int) -> _Origin:
    headers = response.headers
    length = headers.get("Content-Length", "")
    total = start + int(length) if length.isdigit() else None
    return _Origin(url, headers.get("ETag"), headers.get("Last-Modified"), total)


def _connect(
    url: str, offset: int, timeout: float, known: _Origin | None, part: Path
) -> http.client.HTTPResponse | None:
    """Open the address, from `offset` on; None if the server has no byte after it."""
    headers = {"User-Agent": USER_AGENT}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    if offset and known is not None and known.validator is not None:
        headers["If-Range"] = known.validator  # else the server sends the whole file
    request = urllib.request.Request(url, headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            total = error.headers.get("Content-Range", "").rpartition("/")[2]
        if error.code == 416 and offset and total == str(offset):
            return None
        if error.code == 416 and total.isdigit() and int(total) < offset:
            _discard(part)
            raise _Changed(
                f"the server has {int(total):,} bytes, less than the {offset:,} that "
                "arrived earlier: starting anew"
            ) from None
        if error.code in (408, 416, 429) or error.code >= 500:
            raise _Interrupted(f"the server answered {error.code}") from None
        raise DownloadError(f"{url}: the server answered {error.code}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(f"no connection ({error})") from None


def _check_range(response: http.client.HTTPResponse, start: int, part: Path) -> None:
    """A partial answer must continue exactly where the file stops."""
    given = response.headers.get("Content-Range", "")
    if not given.startswith(f"bytes {start}-"):
        _discard(part)
        raise _Changed(f"asked for bytes from {start:,}, got {given!r}: starting anew")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            reason = "stalled" if isinstance(error, TimeoutError) else repr(error)
            raise _Interrupted(f"the line broke ({reason})") from None
        if not chunk:
            return
        yield chunk


# ------------------------------------------------------------------------ extracting


class _Header(tarfile.TarInfo):
    """A tar header that may not announce an extension too large to hold in memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        header = super().frombuf(buf, encoding, errors)
        plain = header.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
        if not plain and header.size > 10**6:
            raise DownloadError(
                f"refused: a special header of {header.size:,} bytes in the archive"
            )
        return header


def extract(
    archive: str | Path,
    folder: str | Path,
    *,
    only: str | None = None,
    max_bytes: int = 20 * GIGABYTE,
    max_members: int = 100_000,
) -> Path:
    """Unpack a tar archive (plain, gz, bz2, xz) below `folder`.

    Every member is checked, extracted or not: relative path without "..", a plain file
    or a folder, total size within bounds. Owners, modes and times are ignored. After an
    error the folder holds a part of the files: extract into an empty folder, and rename
    it when all is well.

    Args:
        archive: The file.
        folder: Where to write; created if needed. Existing files are never overwritten.
        only: Extract only members below this top folder.
        max_bytes: Bound on the sum of all file sizes.
        max_members: Bound on the number of members.

    Raises:
        DownloadError: Not a tar archive, damaged, or a member that is refused.
    """
    folder = Path(folder)
    if not Path(archive).is_file():
        raise DownloadError(f"{archive}: no such file")
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    with contextlib.closing(_members(Path(archive))) as members:
        for count, (member, content) in enumerate(members, start=1):
            parts = _safe_parts(member, archive)
            total += member.size
            if total > max_bytes or count > max_members:
                raise DownloadError(
                    f"{archive}: refused: unpacks to more than {max_bytes:,} bytes or "
                    f"{max_members:,} members"
                )
            if parts and (only is None or parts[0] == only):
                _write_member(member, content, folder.joinpath(*parts), archive)
    return folder


def _members(
    archive: Path,
) -> Generator[tuple[tarfile.TarInfo, Iterator[bytes]], None, None]:
    """Headers and contents of a tar file, in order; read errors as DownloadError.

    Close it before the file is deleted or renamed; Windows refuses that while it is
    open.
    """
    broken = (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error)
    try:
        tar = tarfile.open(archive, "r:*", tarinfo=_Header)  # noqa: SIM115
    except broken:
        with archive.open("rb") as file:
            begin = file.read(16)
        raise DownloadError(
            f"{archive}: not a tar archive, or damaged at its start; it begins with "
            f"{begin!r}"
        ) from None
    with tar:
        while True:
            try:
                member = tar.next()
            except broken as error:
                raise DownloadError(f"{archive}: damaged archive ({error})") from None
            if member is None:
                return
            yield member, _contents(tar, member, archive, broken)


def _contents(
    tar: tarfile.TarFile, member: tarfile.TarInfo, archive: Path, broken: tuple
) -> Iterator[bytes]:
    file = tar.extractfile(member)
    while file is not None:
        try:
            chunk = file.read(CHUNK)
        except broken as error:
            raise DownloadError(
                f"{archive}: damaged archive at {member.name} ({error})"
            ) from None
        if not chunk:
            return
        yield chunk


def _safe_parts(member: tarfile.TarInfo, archive: str | Path) -> tuple[str, ...]:
    """Parts of a member's path, or DownloadError for anything but plain and below."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise DownloadError(
            f"{archive}: refused: {member.name!r} would be written outside its folder"
        )
    if "\\" in member.name or ":" in member.name:
        raise DownloadError(
            f"{archive}: refused: {member.name!r} is not a portable path"
        )
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        kind = "a link" if member.islnk() or member.issym() else "a special file"
        raise DownloadError(f"{archive}: refused: {member.name!r} is {kind}")
    return path.parts


def _write_member(
    member: tarfile.TarInfo, content: Iterator[bytes], target: Path, archive: str | Path
) -> None:
    try:
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            written = sum(file.write(chunk) for chunk in content)
    except (FileExistsError, NotADirectoryError):
        raise DownloadError(
            f"{archive}: refused: {member.name!r} comes twice"
        ) from None
    if written != member.size:
        raise DownloadError(
            f"{archive}: damaged archive: {member.name} has {written:,} of "
            f"{member.size:,} bytes"
        )
