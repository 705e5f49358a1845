"""The write-ahead log of the database: when its pages move into the file."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress

from .folder import DATABASE, DocumentsFolder

__all__ = ["checkpoint", "release_log"]

LOG_BYTES = 2**22  # a log of this length is moved into the file


def checkpoint(folder: DocumentsFolder, database: sqlite3.Connection) -> None:
    """Move the log into the file if it is long. The caller holds the folder's lock. A failure is harmless."""
    with suppress(OSError, sqlite3.Error):
        if os.stat(folder.path / f"{DATABASE}-wal").st_size >= LOG_BYTES:
            database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def release_log(folder: DocumentsFolder, database: sqlite3.Connection, mode: str) -> None:
    """Close a connection."""
    database.close()
