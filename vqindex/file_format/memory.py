"""A ``.vqi`` file in memory, for pickles and copies to other processes."""

from __future__ import annotations

import io

from ..codes.codec import Codec
from .contents import FileContents
from .writer import write_file

__all__ = ["to_bytes"]


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
