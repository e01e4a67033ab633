"""Fetch an archive over an unreliable line, unpack it without trust (chapter 12).

`fetch` resumes where it stopped, hashes what streams by, and gives a file its final
name only when it is complete. `extract` writes plain files and folders below one folder
and refuses everything else that an archive can hold. Neither knows of MVTec AD.
"""

import hashlib
import http.client
import lzma
import os
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

CHUNK = 1 << 18  # bytes
GIGABYTE = 10**9
USER_AGENT = "ebmlib (urllib)"


class DownloadError(RuntimeError):
    """A source that did not deliver what it should; says which and why."""


class _Interrupted(Exception):  # noqa: N818 (a state to recover from, not an error)
    """The transfer stopped; what has arrived is kept, and trying again may help."""


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
    by the next call (HTTP Range); servers without Range start anew. The file gets its
    name only when its length is the announced one and its hash, if known, matches.

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
    most, idle = _size(part), 0
    while True:
        try:
            digest = _transfer(url, part, timeout, max_bytes, log)
            break
        except _Interrupted as interruption:
            most, idle = max(most, _size(part)), idle + (_size(part) <= most)
            log(f"{url}: {interruption}; {_size(part):,} bytes so far")
            if idle >= tries:
                raise DownloadError(
                    f"{url}: {tries} tries in a row brought nothing new after "
                    f"{most:,} bytes ({interruption}); try later or another source"
                ) from None
            time.sleep(pause)
    if sha256 is not None and digest != sha256:
        part.unlink()
        raise DownloadError(
            f"{url}: SHA-256 is {digest} instead of {sha256}: not the published file "
            "(it was deleted)"
        )
    os.replace(part, path)
    return path


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _hash(path: Path) -> "hashlib._Hash":
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _transfer(
    url: str, part: Path, timeout: float, max_bytes: int, log: Callable[[str], None]
) -> str:
    """One attempt: append to `part` until it is complete; its SHA-256."""
    offset = _size(part)
    response = _connect(url, offset, timeout)
    if response is None:  # nothing left to fetch
        return _hash(part).hexdigest()
    with response:
        start = offset if response.status == 206 else 0
        _check_range(response, start, part)
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        if (total or 0) > max_bytes:
            raise DownloadError(
                f"{url}: {total:,} bytes, more than {max_bytes:,} allowed"
            )
        digest = _hash(part) if start else hashlib.sha256()
        log(
            f"{url}: {'resumed' if start else 'started'} at byte {start:,}"
            + (f" of {total:,}" if total else "")
        )
        received = start
        with part.open("ab" if start else "wb") as file:
            for chunk in _chunks(response):
                received += len(chunk)
                if received > max_bytes:
                    file.close()
                    part.unlink()
                    raise DownloadError(
                        f"{url}: more than {max_bytes:,} bytes; stopped"
                    )
                file.write(chunk)
                digest.update(chunk)
    if total is not None and received < total:
        raise _Interrupted(f"the line closed after {received:,} of {total:,} bytes")
    return digest.hexdigest()


def _connect(url: str, offset: int, timeout: float) -> http.client.HTTPResponse | None:
    """Open the address, from `offset` on; None if the server has no byte after it."""
    headers = {"User-Agent": USER_AGENT}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            total = error.headers.get("Content-Range", "").rpartition("/")[2]
        if error.code == 416 and offset and total == str(offset):
            return None
        if error.code in (408, 416, 429) or error.code >= 500:
            raise _Interrupted(f"the server answered {error.code}") from None
        raise DownloadError(f"{url}: the server answered {error.code}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(f"no connection ({error})") from None


def _check_range(response: http.client.HTTPResponse, start: int, part: Path) -> None:
    """A partial answer must continue exactly where the file stops."""
    given = response.headers.get("Content-Range", "")
    if start and not given.startswith(f"bytes {start}-"):
        part.unlink()
        raise _Interrupted(
            f"asked for bytes from {start:,}, got {given!r}: starting anew"
        )


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
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "_Header":
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
    for count, (member, content) in enumerate(_members(Path(archive)), start=1):
        parts = _safe_parts(member, archive)
        total += member.size
        if total > max_bytes or count > max_members:
            raise DownloadError(
                f"{archive}: refused: unpacks to more than {max_bytes:,} bytes or "
                f"{max_members:,} members"
            )
        if not parts or (only is not None and parts[0] != only):
            continue
        _write_member(member, content, folder.joinpath(*parts), archive)
    return folder


def _members(archive: Path) -> Iterator[tuple[tarfile.TarInfo, Iterator[bytes]]]:
    """Headers and contents of a tar file, in order; read errors as DownloadError."""
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
