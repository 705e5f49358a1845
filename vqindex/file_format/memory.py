"""A ``.vqi`` file in memory, for pickles and copies to other processes."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from ..codes.codec import Codec
from .contents import FileContents
from .reader import read
from .writer import write_file

__all__ = ["from_bytes", "to_bytes"]


class _Buffer(io.BytesIO):
    """An `OutputFile` in memory, which outlives its closing."""

    def sync(self) -> None:
        """Do nothing: memory has nothing to sync."""

    def close(self) -> None:
        """Keep the bytes."""


def to_bytes(codec: Codec, contents: FileContents) -> bytes:
    """Return the bytes of the file that `write` would write."""
    buffer = _Buffer()
    write_file(buffer, codec, contents)
    return buffer.getvalue()


def from_bytes(data: bytes) -> FileContents:
    """Read the bytes of a file and check all of them.

    Raises
    ------
    FileFormatError
        If the bytes are no index, are damaged, or are of an unknown version.
    """
    with tempfile.TemporaryDirectory(prefix="vqindex-") as folder:
        path = Path(folder) / "index.vqi"
        path.write_bytes(data)
        return read(path)
