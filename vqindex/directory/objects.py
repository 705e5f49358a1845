"""A prefix of a bucket as a `Directory`, for many writers at once.

Nothing is overwritten but the manifest, and that only by a conditional put: the writer names the entity tag that it
read. Of two writers the second is refused (`ManifestChangedError`), reads what the first one published, and repeats its
commit on top of it. All other objects are created under names that no two writers share: each name holds `writer`, a
random number of this opening.

Nothing is deleted that somebody may still need:

* A reader of an older manifest needs the files that it names. A writer whose commit no longer names a file writes into
  the manifest that it is retired, and since when. It is kept for `GRACE` seconds.
* A writer needs what it has put, before a manifest names it. So objects that no manifest names are kept for `GRACE`
  seconds, and no manifest is published whose objects were put more than half of that before.

All times are the store's own. A lower bound of its time is enough: files are then kept for longer.
"""

from __future__ import annotations

import io
import os
import secrets
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, StorageError, StoreConflictError, StoreError
from .cache import Cache
from .object_client import ConditionFailed, ObjectClient
from .protocol import NamedFile

__all__ = ["GRACE", "ManifestChangedError", "ObjectDirectory", "OpenedBucket"]

GRACE = 86400.0  # seconds; all writers of a bucket must agree
_PART = 2**23  # bytes of one ranged request
_PARTS = 4  # of one file at a time
_FILES = 8  # at a time
_IN_MEMORY = 2**24  # bytes of an object that is being written


class ManifestChangedError(StoreConflictError):
    """Another writer published first. Nothing was published."""


class OpenedBucket:
    """The right to write to a bucket, which everybody has; it ends with the process, like a lock."""

    def __init__(self) -> None:
        self._pid: int | None = os.getpid()

    def release(self) -> None:
        """Give it back."""
        self._pid = None

    @property
    def held(self) -> bool:
        """Whether this process opened the bucket."""
        return self._pid == os.getpid()


class Upload:
    """A new object. `sync` puts it: until then nobody sees it, and afterwards it never changes."""

    def __init__(self, directory: ObjectDirectory, name: str) -> None:
        self._directory, self._name, self._is_put = directory, name, False
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - `close` closes it

    def write(self, data: Any) -> int:
        """Write all bytes."""
        if self._is_put:
            raise StoreError(f"{self._directory.describe(self._name)} is in the bucket; expected no more writes")
        self._file.write(data)
        return memoryview(data).nbytes

    def sync(self) -> None:
        """Put the object; FileExistsError if the name is taken."""
        if not self._is_put:
            at = self._file.tell()
            self._file.seek(0)
            self._directory._put(self._name, self._file.read())
            self._file.seek(at)
            self._is_put = True

    def close(self) -> None:
        """Forget the bytes."""
        self._file.close()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to an offset."""
        self._file.seek(offset, whence)
        return self._file.tell()

    def tell(self) -> int:
        """Return the current offset."""
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer and return the number of bytes."""
        view = memoryview(buffer).cast("B")
        data = self._file.read(len(view))
        view[: len(data)] = data
        return len(data)

    def truncate(self, size: int) -> int:
        """Set the size in bytes; the offset stays."""
        at, end = self._file.tell(), self._file.seek(0, io.SEEK_END)
        end = self._file.tell() if end is None else end  # Python 3.10 returns None
        if size > end:
            self._file.write(bytes(size - end))
        else:
            self._file.truncate(size)
        self._file.seek(at)
        return size


class ObjectDirectory:
    """The objects under a prefix as a `Directory`.

    Parameters
    ----------
    client : ObjectClient
        Makes the requests.
    cache : Cache
        Where copies lie.
    manifest : str
        The name that is published; it is read as a whole.
    """

    read_ahead = 2**40

    def __init__(self, client: ObjectClient, cache: Cache, manifest: str = "manifest") -> None:
        self.client, self.cache, self._manifest = client, cache, manifest
        self.folder = client.url  # for messages
        self.writer: str | None = secrets.token_hex(8)
        self.token = ""  # of the manifest that is being published
        self._staged: dict[str, io.BytesIO] = {}  # the next manifest, which is put under its final name alone
        self._sizes: dict[str, int] = {}  # of what this object has put
        self._copies: dict[str, Path] = {}
        self._first_put: float | None = None  # since the last publish, by the clock of this machine
        self.version_read: str | None = None
        self.published_at: float | None = None  # when the manifest was published that was read last

    def describe(self, name: str) -> str:
        """Return the URL of an object."""
        return f"{self.folder}/{name}"

    # ---- reading

    def read(self, name: str, start: int, size: int) -> bytes:
        """Return at most `size` bytes from offset `start`."""
        if name == self._manifest:
            found = self.client.get(name)
            self.version_read, self.published_at = found.tag, found.modified
            return found.data[start : start + size]
        if name in self._copies:
            with open(self._copies[name], "rb") as file:
                file.seek(start)
                return file.read(size)
        return self.client.get_ranges(name, [start], [min(start + size, self.size(name))])[0]

    def size(self, name: str) -> int:
        """Return the size of an object in bytes."""
        return self._sizes[name] if name in self._sizes else self.client.entry(name).size

    def fetch(self, name: str) -> Path:
        """Return the path of a copy that `bring` made."""
        if name not in self._copies:
            raise StoreError(f"{self.describe(name)} was not fetched; expected `bring` to be called first")
        return self._copies[name]

    def bring(self, files: Iterable[NamedFile]) -> None:
        """Make checked copies of objects, several at a time."""
        wanted = list(files)
        if not wanted:
            return
        with ThreadPoolExecutor(min(_FILES, len(wanted))) as pool:
            for file, path in zip(wanted, pool.map(self._copy, wanted), strict=True):
                self._copies[file.name] = path

    def _copy(self, file: NamedFile) -> Path:
        where = self.describe(file.name)
        refused = None
        try:
            return self.cache.path(file.name, file.size, file.check, lambda target: self.download(file, target))
        except FileFormatError as error:
            refused = str(error).removeprefix(f"{where}: ")
        raise FileFormatError(f"{where}: the object is not what the manifest names ({refused})")

    def download(self, file: NamedFile, target: Any) -> None:
        """Write an object to an open file, a few parts at a time. The caller checks the bytes."""
        parts = [(at, min(at + _PART, file.size)) for at in range(0, file.size, _PART)]
        done = 0
        for first in range(0, len(parts), _PARTS):
            starts, ends = zip(*parts[first : first + _PARTS], strict=True)
            try:
                found = self.client.get_ranges(file.name, list(starts), list(ends))
            except StorageError:  # also for a range behind the end
                if self.client.entry(file.name).size >= ends[-1]:
                    raise
                found = []
            for part in found:
                target.write(part)
                done += len(part)
        if done != file.size:
            has = self.client.entry(file.name).size
            raise FileFormatError(f"{self.describe(file.name)}: has {has} bytes; expected {file.size}")

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return [entry.name for entry in self.client.list()]

    # ---- writing

    def create(self, name: str) -> Any:
        """Create an object; FileExistsError, from `sync`, if the name is taken."""
        if name == f"{self._manifest}.tmp":
            self._staged[name] = _Staged()
            return self._staged[name]
        return Upload(self, name)

    def _put(self, name: str, data: bytes) -> None:
        now = time.monotonic()
        self._first_put = now if self._first_put is None else self._first_put
        try:
            self.client.put_new(name, data)
        except ConditionFailed:
            # The name holds a random number. So it is there by an earlier try of this request whose answer was lost.
            if self.client.entry(name).size != len(data):
                raise FileExistsError(17, "another object has this name", self.describe(name)) from None
        self._sizes[name] = len(data)

    def remove(self, name: str) -> None:
        """Delete an object, or forget a manifest that was not published."""
        if self._staged.pop(name, None) is None:
            self.client.delete(name)

    def version(self, name: str) -> str | None:
        """Return the entity tag of the manifest; None if there is none."""
        if name.startswith(f"{self._manifest}."):
            return "staged" if name in self._staged else None
        try:
            return self.client.get(name).tag
        except FileNotFoundError:
            return None

    def publish(self, source: str, target: str, expected: str | None) -> str:
        """Replace the manifest if it still has the tag `expected`, or create it if that is None.

        An answer may be lost, by the store or in an earlier try of the same request. So after a failure the manifest is
        read: if it holds the token of this commit, the commit was published.
        """
        if self._first_put is not None and time.monotonic() - self._first_put > GRACE / 2:
            self._first_put = None
            raise StoreError(
                f"{self.folder}: the commit took more than {GRACE / 7200:g} hours, after which its files may be swept; "
                "nothing was published; commit more often"
            )
        data = self._staged.pop(source).getvalue()
        try:
            tag = self._put_manifest(target, data, expected)
        except (ConditionFailed, StorageError) as error:
            tag = self._tag_if_published(target, data)
            if not tag and isinstance(error, StorageError):
                raise
            if not tag:
                raise ManifestChangedError(
                    f"{self.describe(target)} was changed by another writer; nothing was published"
                ) from None
        self._first_put = self.published_at = None
        return tag

    def _put_manifest(self, target: str, data: bytes, expected: str | None) -> str:
        if expected is None:
            return self.client.put_new(target, data)
        return self.client.put_if(target, data, expected)

    def _tag_if_published(self, target: str, data: bytes) -> str:
        """Return the tag of our manifest, "superseded" if others committed after it, "" if it was not published."""
        try:
            found = self.client.get(target)
        except FileNotFoundError:
            return ""
        if found.data == data:
            return found.tag
        return "superseded" if self.token and self.token.encode() in found.data else ""

    def new_token(self) -> str:
        """Return a number that tells the next manifest from all others."""
        self.token = secrets.token_hex(8)
        return self.token

    def removable(self) -> list[str]:
        """Return the names of objects that may be deleted if no manifest names them: those older than `GRACE`."""
        found = self.client.list()
        now = max((entry.modified for entry in found if entry.name == self._manifest), default=float("-inf"))
        self.published_at = now  # or earlier, if another writer has published since: files are then kept for longer
        return [entry.name for entry in found if entry.modified < now - GRACE]

    def sync(self) -> None:
        """Do nothing: an object that was put is durable."""

    def lock(self) -> OpenedBucket:
        """Return the right to write, which several writers have at the same time."""
        return OpenedBucket()


class _Staged(io.BytesIO):
    """The next manifest, until it is published."""

    def sync(self) -> None:
        """Do nothing: it is put under its final name."""

    def close(self) -> None:
        """Keep the bytes for `publish`."""
