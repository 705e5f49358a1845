"""Download one file over HTTP so that a broken transfer can go on later.

The bytes go to ``dest.part``; ``dest.part.json`` remembers the address and the validator (ETag or
Last-Modified) of what is in it. The next attempt asks for the rest with ``Range`` and ``If-Range``: a server
whose file has changed sends all of it, and the part starts anew. Only a complete file with the right sum is
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

# Answers that mean "not now" rather than "no": timeout, too many requests, and trouble inside or behind the
# server.
_PASSING = {408, 425, 429, 500, 502, 503, 504}


class _RetryError(Exception):
    """An attempt failed in a way that the next may not."""


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
    """Fetch `url` into `dest`, resuming what an earlier call left unfinished.

    Parameters
    ----------
    url : str
        An http or https address.
    dest : str or Path
        The file; its folder is made if needed. It appears only when complete.
    sha256 : str, optional
        The expected sum, hexadecimal. If None, the sum found is written to ``dest.sha256`` for later checks.
    progress : callable, optional
        Called as ``progress(bytes_done, bytes_total or None)``.
    timeout, retries : float, int
        Seconds without a byte before an attempt is given up, and attempts after the first one; an attempt
        that got further does not count.
    backoff : float
        Seconds before the first retry; doubled for each further one.

    Returns
    -------
    Path
        `dest`.

    Raises
    ------
    DownloadError
        If the server refuses, all attempts fail (the part is kept), or the sum is wrong (the part is
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
    """Read the sum that an earlier download wrote to ``dest.sha256``; None if there is none."""
    try:
        words = Path(f"{dest}.sha256").read_text(encoding="ascii").split()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return words[0] if words else None


class _Part:
    """The unfinished file and what is remembered about it."""

    def __init__(self, dest: Path, url: str) -> None:
        self.url = url
        self.path = dest.with_name(dest.name + ".part")
        self.notes = dest.with_name(dest.name + ".part.json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def validator(self) -> str | None:
        """Give what If-Range needs, if the part is of this address and the server gave a validator."""
        try:
            notes = json.loads(self.notes.read_text(encoding="utf-8"))
            value = notes["validator"] if notes["url"] == self.url else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return value if isinstance(value, str) else None

    def begin(self, validator: str | None) -> None:
        """Start with nothing, and note what the bytes to come belong to."""
        self.path.write_bytes(b"")
        self.notes.write_text(json.dumps({"url": self.url, "validator": validator}), encoding="utf-8")

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)


def _attempt(part: _Part, timeout: float, progress: Progress | None) -> None:
    """Make one request and append what it brings; return only when the file is complete."""
    # Without compression: a range counts the bytes of the file itself.
    request = urllib.request.Request(part.url, headers={"Accept-Encoding": "identity", "User-Agent": "vqindex"})
    have, validator = part.size(), part.validator()
    if have and validator:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", validator)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            start, total = _where(answer, part, have)
            _copy(answer, part, start, total, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            # If-Range held (else all bytes would have come), and there are none after those kept.
            if error.headers.get("Content-Range", "").strip() == f"bytes */{have}":
                return
            part.delete()
            raise _RetryError("the server has no bytes after those kept") from error
        if error.code in _PASSING:
            raise _RetryError(f"the server answered {error.code} {error.reason}") from error
        raise DownloadError(f"{part.url}: the server answered {error.code} {error.reason}; expected 200") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _RetryError(f"{type(error).__name__}: {error}") from error


def _where(answer: Any, part: _Part, have: int) -> tuple[int, int | None]:
    """Give where the bytes of this answer start and the size of the whole; start anew unless they go on."""
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
    # A weak ETag (W/"...") promises equal meaning, not equal bytes: If-Range must not use it.
    strong = etag if etag and not etag.startswith("W/") else None
    part.begin(strong or answer.headers.get("Last-Modified"))
    return 0, None if length is None else int(length)


def _copy(answer: Any, part: _Part, done: int, total: int | None, progress: Progress | None) -> None:
    if progress is not None:
        progress(done, total)
    with part.path.open("ab") as file:
        # Whatever arrived is kept, also when read() raises: the file is closed, so flushed, on the way out.
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
    """Read what has arrived; network errors are told apart from those of the disk, which no retry mends."""
    try:
        block: bytes = answer.read1(_BLOCK)
    except OSError as error:
        raise _RetryError(f"{type(error).__name__}: {error}") from error
    return block


def _finish(part: _Part, dest: Path, sha256: str | None) -> None:
    """Check the sum and put the file in its place."""
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
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
