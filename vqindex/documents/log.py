"""The write-ahead log of the database: when its pages move into the file, and whether it belongs to the file.

SQLite writes commits to a log beside the file, ``docs.sqlite-wal``, and moves them into the file later. Three things
are added here:

* A reader of a folder at rest makes no files: it reads ``docs.sqlite`` alone, and shares a lock of the folder. Pages
  move into the file only while nobody shares that lock.
* A log is used only with the file that it continues. SQLite itself would put the log of a killed process into
  whatever file has the name, such as a restored backup. Page 1 of the file and of every commit in the log has the
  generation (``user_version``) and an epoch (``application_id``), a random number that every session of writes draws
  anew before its first commit, while the log is empty. `belongs` compares them.
* A session that ends in order leaves an empty log, and says so in the epoch's last bit. If a folder was copied in the
  middle of a session, file and log may be of different moments; `must_be_checked` says when that is possible.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import NamedTuple

import numpy as np

from ..directory.lock import OpenFolder, lock_folder, share_folder, without_writer
from ..errors import FileFormatError, StoreError
from .checking import check_rows
from .database import about, connect, set_about
from .folder import DATABASE, DocumentsFolder

__all__ = [
    "begin_session",
    "checkpoint",
    "close_connection",
    "close_writer",
    "connect_reader",
    "connect_writer",
    "first_epoch",
    "must_be_checked",
    "note_change",
    "note_session",
]

LOG_BYTES = 2**22  # a log of this length is moved into the file
_PATIENCE = 0.5  # seconds that the end of a session waits for another one
_HEADER, _FRAME = struct.Struct(">IIIIQQ"), 24  # of a log and of each of its pages
_MAGIC = (0x377F0682, 0x377F0683)
_GENERATION, _EPOCH = 60, 68  # offsets in page 1


class _Moment(NamedTuple):
    """What page 1 says."""

    epoch: int
    generation: int


def _log(folder: DocumentsFolder) -> str:
    return str(folder.path / f"{DATABASE}-wal")


def _log_size(folder: DocumentsFolder) -> int:
    try:
        return os.stat(_log(folder)).st_size
    except FileNotFoundError:
        return 0


# ---- which file a log belongs to


def _moments(folder: DocumentsFolder) -> tuple[_Moment, _Moment] | None:
    """Return the first and the last commit of a log; None if it has none."""
    with suppress(FileNotFoundError, ValueError), open(_log(folder), "rb") as file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size:
            return None
        magic, _, page, _, salts, _ = _HEADER.unpack(head)
        if magic not in _MAGIC or not 512 <= page <= 65536:
            return None
        kind = np.dtype([("page", ">u4"), ("pages", ">u4"), ("salts", ">u8"), ("sums", ">u8"), ("data", f"V{page}")])
        count = (os.fstat(file.fileno()).st_size - _HEADER.size) // kind.itemsize
        if not count:
            return None
        frames = np.memmap(file, kind, "r", _HEADER.size, (count,))
        ours = frames["salts"] == salts
        count = count if ours.all() else int(np.argmin(ours))
        ends = np.flatnonzero(frames["pages"][:count])
        firsts = np.flatnonzero(frames["page"][: ends[-1] + 1 if ends.size else 0] == 1)
        if not firsts.size:
            return None
        first, last = (_moment(frames["data"][at].tobytes()[: _EPOCH + 4]) for at in firsts[[0, -1]].tolist())
        return first, last
    return None


def _moment(page: bytes) -> _Moment:
    generation, epoch = (int.from_bytes(page[at : at + 4], "big") for at in (_GENERATION, _EPOCH))
    return _Moment(epoch >> 1, generation)


def _belongs(folder: DocumentsFolder) -> bool:
    """Whether the log continues the file. Nobody may write meanwhile."""
    found = _moments(folder)
    if found is None:
        return True
    first, last = found
    with closing(connect(folder.path / DATABASE, write=False, timeout=0, immutable=True)) as database:
        generation = int(database.execute("PRAGMA user_version").fetchone()[0])
        epoch = int(database.execute("PRAGMA application_id").fetchone()[0]) >> 1
    if first.epoch == epoch:
        return first.generation - 1 <= generation <= last.generation
    return _follows(first.epoch, epoch) and first.generation == generation  # killed just after it drew an epoch


def _epoch_after(epoch: int) -> int:
    """Return a random epoch that can be told to follow another one: half of its bits are a checksum."""
    drawn = secrets.randbits(15)
    return drawn << 15 | zlib.crc32(struct.pack(">II", epoch, drawn)) & 0x7FFF


def _follows(epoch: int, before: int) -> bool:
    return zlib.crc32(struct.pack(">II", before, epoch >> 15)) & 0x7FFF == epoch & 0x7FFF


def _check_alone(folder: DocumentsFolder) -> None:
    """Raise FileFormatError unless the file without its log holds one whole commit."""
    where = folder.describe(DATABASE)
    with closing(connect(folder.path / DATABASE, write=False, timeout=0, immutable=True)) as database:
        try:
            check_rows(database, where)
        except FileFormatError as error:
            raise FileFormatError(
                f"{where} and {DATABASE}-wal are not of one store, as after a restored backup, and the first alone is "
                f"not whole: {error}"
            ) from None


def must_be_checked(folder: DocumentsFolder, database: sqlite3.Connection) -> bool:
    """Whether file and log may be copies of different moments: of a store in use, in another place than its own."""
    if _epoch(database) & 1 or about(database, "place") in (None, _place(folder)):
        return False
    with without_writer(folder.path) as is_quiet:
        return is_quiet


def _place(folder: DocumentsFolder) -> str:
    found = os.stat(folder.path / DATABASE)
    return f"{found.st_dev}:{found.st_ino}"


# ---- connections


def connect_reader(folder: DocumentsFolder, timeout: float) -> tuple[sqlite3.Connection, OpenFolder | None]:
    """Connect for reading. The second value is to be closed after the connection."""
    shared = share_folder(folder.path)
    is_fixed = shared is not None or not os.access(folder.path, os.W_OK)  # nobody changes the file meanwhile
    try:
        if (is_fixed and not _log_size(folder)) or _is_foreign(folder):
            return connect(folder.path / DATABASE, write=False, timeout=timeout, immutable=True), shared
    except BaseException:
        _free(shared)
        raise
    _free(shared)
    try:
        database = connect(folder.path / DATABASE, write=False, timeout=timeout)
        database.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        raise StoreError(
            f"{folder.describe(DATABASE)} can't be opened for reading ({error}): a process that wrote to it has not "
            "closed it; expected one that opens it for writing first"
        ) from None
    return database, None


def _free(shared: OpenFolder | None) -> None:
    if shared is not None:
        shared.close()


def _is_foreign(folder: DocumentsFolder) -> bool:
    """Whether the log is of another file, and the file holds one whole commit without it; FileFormatError if not."""
    if not _log_size(folder):
        return False
    with without_writer(folder.path, _PATIENCE) as is_quiet:
        if not is_quiet or _belongs(folder):
            return False
        _check_alone(folder)
    return True


def connect_writer(folder: DocumentsFolder, timeout: float) -> sqlite3.Connection:
    """Connect for writing; a log of another file is removed."""
    if _is_foreign(folder):
        lock = folder.lock(timeout)
        try:
            with _alone(folder, timeout) as is_alone:
                if not is_alone:
                    raise StoreError(f"{folder.folder} is being read; expected nobody while a backup is restored")
                if not _belongs(folder):
                    for ending in ("-wal", "-shm"):
                        with suppress(FileNotFoundError):
                            os.unlink(folder.path / (DATABASE + ending))
        finally:
            lock.release()
    return connect(folder.path / DATABASE, write=True, timeout=timeout)


@contextmanager
def _alone(folder: DocumentsFolder, patience: float = 0.0) -> Iterator[bool]:
    """Keep readers from sharing the folder for a moment; False if there are some."""
    opened = lock_folder(folder.path, patience)
    try:
        yield opened is not None or os.name != "posix"
    finally:
        if opened is not None:
            opened.close()


def close_writer(folder: DocumentsFolder, database: sqlite3.Connection) -> None:
    """Close a connection that writes, and say that the session ended in order if no other one is in progress."""
    lock = None
    try:
        with suppress(OSError, StoreError):
            lock = folder.lock(_PATIENCE)
            with _alone(folder) as is_alone, suppress(sqlite3.Error):
                if is_alone:
                    _end_session(folder, database)
        close_connection(folder, database)
    finally:
        database.close()
        if lock is not None:
            lock.release()


def close_connection(folder: DocumentsFolder, database: sqlite3.Connection) -> None:
    """Close a connection that may write.

    The last connection to close moves the log into the file. Where readers use the file without its log, that must not
    happen. It does not while another connection is there, nor when a connection that only reads is the last one.
    """
    with _alone(folder) as is_alone:
        if is_alone:
            database.close()
            return
    with suppress(sqlite3.Error), closing(connect(folder.path / DATABASE, write=False, timeout=0)) as guard:
        guard.execute("SELECT 1 FROM sqlite_master").fetchone()
        database.close()


# ---- sessions that write; the caller holds the folder's lock


def _emptied(database: sqlite3.Connection) -> bool:
    """Move the whole log into the file, and empty it; False if readers still need it."""
    waits = database.execute("PRAGMA busy_timeout").fetchone()[0]
    database.execute("PRAGMA busy_timeout = 0")
    try:
        return not database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    finally:
        database.execute(f"PRAGMA busy_timeout = {int(waits):d}")


def _epoch(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA application_id").fetchone()[0])


def first_epoch(database: sqlite3.Connection) -> None:
    """Draw the epoch of a new store, in the open transaction."""
    database.execute(f"PRAGMA application_id = {secrets.randbits(30) << 1 | 1:d}")


def begin_session(folder: DocumentsFolder, database: sqlite3.Connection) -> None:
    """Draw a new epoch before the first commit of a session, if nobody needs the log of the old one."""
    with _alone(folder) as is_alone, suppress(sqlite3.OperationalError):
        if is_alone and _emptied(database):
            database.execute(f"PRAGMA application_id = {_epoch_after(_epoch(database) >> 1) << 1:d}")
            _emptied(database)


def note_session(folder: DocumentsFolder, database: sqlite3.Connection, writer: str | None = None) -> None:
    """Say in the open transaction that a session is in progress, where, and which adapter writes first."""
    note_change(database)
    if writer is not None and about(database, "writer") is None:
        set_about(database, "writer", writer)
    if about(database, "place") != _place(folder):
        set_about(database, "place", _place(folder))


def note_change(database: sqlite3.Connection) -> None:
    """Say in the open transaction that a session is in progress, if another one has ended meanwhile."""
    epoch = _epoch(database)
    if epoch & 1:
        database.execute(f"PRAGMA application_id = {epoch & ~1:d}")


def _end_session(folder: DocumentsFolder, database: sqlite3.Connection) -> None:
    epoch = _epoch(database)
    if epoch & 1 and not _log_size(folder):
        return
    if _emptied(database):
        database.execute(f"PRAGMA application_id = {epoch | 1:d}")
        _emptied(database)


def checkpoint(folder: DocumentsFolder, database: sqlite3.Connection, before: int) -> int:
    """Move the log into the file if it has grown; return the length from which on it grows. A failure is harmless.

    Parameters
    ----------
    folder : DocumentsFolder
        The folder.
    database : sqlite3.Connection
        A connection that writes.
    before : int
        What the last call returned, 0 at first. While readers need the log it can't be emptied, and begins again from
        its start later. So it is long, and only its growth says that there is something to move.
    """
    size = before
    with suppress(OSError, sqlite3.Error):
        if _log_size(folder) < before + LOG_BYTES:
            return before
        with _alone(folder) as is_alone:
            if is_alone:
                _emptied(database)
        size = _log_size(folder)
    return size
