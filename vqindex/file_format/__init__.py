"""The ``.vqi`` file: one HDF5 file, written atomically, every block with checksums. FORMAT.md describes it."""

from .contents import FileContents
from .memory import from_bytes, to_bytes
from .reader import read, read_header, verify
from .writer import write

__all__ = ["FileContents", "from_bytes", "read", "read_header", "to_bytes", "verify", "write"]
