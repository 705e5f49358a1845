"""Download one file over HTTP. A broken transfer can be resumed later.

The bytes go to ``dest.part``; ``dest.part.json`` stores the address and the validator (ETag or Last-Modified) of these
bytes. The next attempt requests the remaining bytes with ``Range`` and ``If-Range``. If the file on the server has
changed, the server sends all of it, and the transfer starts again. Only a complete file with the right checksum is
renamed to `dest`.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import DownloadError

__all__ = ["download", "sidecar_sum"]

Progress = Callable[[int, "int | None"], None]

_BLOCK = 1 << 18

# Temporary errors: timeout, too many requests, and errors of the server or of servers behind it.
_TEMPORARY = {408, 425, 429, 500, 502, 503, 504}


class _RetryError(Exception):
    """An attempt failed, and a retry may succeed."""


def download(
    url: str,
    dest: str | Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    timeout: float = 30,
    retries: int = 4,
    backoff: float = 0.5,
) -> Path:
    """Download `url` to `dest`; resumes an unfinished download of an earlier call.

    Parameters
    ----------
    url : str
        An http or https address.
    dest : str or Path
        The file; its folder is created if needed. The file appears only when it is complete.
    sha256 : str, optional
        The expected checksum, hexadecimal. If None, the actual one is written to ``dest.sha256`` for later checks.
    progress : callable, optional
        Called as ``progress(bytes_done, bytes_total or None)``.
    timeout : float
        Seconds without a byte before an attempt fails.
    retries : int
        Attempts after the first one. An attempt that received bytes resets the count.
    backoff : float
        Seconds before the first retry, doubled for each further one.

    Returns
    -------
    Path
        `dest`.

    Raises
    ------
    DownloadError
        If the server refuses, all attempts fail (the received bytes are kept), or the checksum is wrong (they are
        deleted).
    """
    dest = Path(dest)
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"address {url!r}; expected http:// or https://")
    dest.parent.mkdir(parents=True, exist_ok=True)
    part = _Part(dest, url)
    failures = 0
    while True:
        before = part.size()
        try:
            _attempt(part, timeout, progress)
            break
        except _RetryError as error:
            failures = 1 if part.size() > before else failures + 1
            if failures > retries:
                raise DownloadError(
                    f"{url}: {error}; expected a complete transfer within {retries + 1} attempts "
                    f"({part.size()} bytes are kept in {part.path})"
                ) from error
            time.sleep(backoff * 2 ** (failures - 1))
    _finish(part, dest, sha256)
    return dest


def sidecar_sum(dest: str | Path) -> str | None:
    """Return the checksum that an earlier download wrote to ``dest.sha256``, or None."""
    try:
        words = Path(f"{dest}.sha256").read_text(encoding="ascii").split()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return words[0] if words else None


class _Part:
    """The unfinished file, and its address and validator."""

    def __init__(self, dest: Path, url: str) -> None:
        self.url = url
        self.path = dest.with_name(dest.name + ".part")
        self.notes = dest.with_name(dest.name + ".part.json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def validator(self) -> str | None:
        """Return the validator for If-Range, if the bytes are of this address and have one."""
        try:
            notes = json.loads(self.notes.read_text(encoding="utf-8"))
            value = notes["validator"] if notes["url"] == self.url else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return value if isinstance(value, str) else None

    def begin(self, validator: str | None) -> None:
        """Start with an empty file, and store the address and validator of its bytes."""
        self.path.write_bytes(b"")
        self.notes.write_text(json.dumps({"url": self.url, "validator": validator}), encoding="utf-8")

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)


def _attempt(part: _Part, timeout: float, progress: Progress | None) -> None:
    """Make one request and append its bytes; return only if the file is complete."""
    # Without compression, because a range counts bytes of the file itself.
    request = urllib.request.Request(part.url, headers={"Accept-Encoding": "identity", "User-Agent": "vqindex"})
    have, validator = part.size(), part.validator()
    if have and validator:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", validator)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            start, total = _range_of(answer, part, have)
            _copy(answer, part, start, total, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            # The validator is still right, and the file has no more bytes than those received: it is complete.
            if error.headers.get("Content-Range", "").strip() == f"bytes */{have}":
                return
            part.delete()
            raise _RetryError("the server has no bytes after those kept") from error
        if error.code in _TEMPORARY:
            raise _RetryError(f"the server answered {error.code} {error.reason}") from error
        raise DownloadError(f"{part.url}: the server answered {error.code} {error.reason}; expected 200") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _RetryError(f"{type(error).__name__}: {error}") from error


def _range_of(answer: Any, part: _Part, have: int) -> tuple[int, int | None]:
    """Return the position of the response's first byte and the file's size; restart if it is not the next byte."""
    length = answer.headers.get("Content-Length")
    if answer.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", "").strip())
        if found is None or int(found[1]) != have:
            part.delete()
            raise _RetryError(f"Content-Range {answer.headers.get('Content-Range')!r}; expected one from byte {have}")
        if found[2] != "*":
            return have, int(found[2])
        return have, None if length is None else have + int(length)
    etag = answer.headers.get("ETag")
    # A weak ETag (W/"...") does not promise equal bytes, so If-Range must not use it.
    strong = etag if etag and not etag.startswith("W/") else None
    part.begin(strong or answer.headers.get("Last-Modified"))
    return 0, None if length is None else int(length)


def _copy(answer: Any, part: _Part, done: int, total: int | None, progress: Progress | None) -> None:
    if progress is not None:
        progress(done, total)
    with part.path.open("ab") as file:
        # Closing the file flushes it, so the received bytes stay even if read() raises.
        while block := _receive(answer):
            file.write(block)
            done += len(block)
            if progress is not None:
                progress(done, total)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and done < total:
        raise _RetryError(f"the connection ended after {done} of {total} bytes")
    if total is not None and done > total:
        part.delete()
        raise _RetryError(f"{done} bytes came; expected {total}")


def _receive(answer: Any) -> bytes:
    """Read the received bytes; a network error becomes a _RetryError, unlike an error of the disk."""
    try:
        block: bytes = answer.read1(_BLOCK)
    except OSError as error:
        raise _RetryError(f"{type(error).__name__}: {error}") from error
    return block


def _finish(part: _Part, dest: Path, sha256: str | None) -> None:
    """Check the checksum and rename the file."""
    found = file_sum(part.path)
    if sha256 is not None and found != sha256.lower():
        part.delete()
        raise DownloadError(f"{part.url}: sha256 {found}; expected {sha256.lower()} (the bytes were deleted)")
    os.replace(part.path, dest)
    part.notes.unlink(missing_ok=True)
    if sha256 is None:
        # The form that `sha256sum --check` reads.
        Path(f"{dest}.sha256").write_text(f"{found}  {dest.name}\n", encoding="ascii")


def file_sum(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
