"""The ``.vqi`` file: one HDF5 file, written atomically, every block with checksums. FORMAT.md describes it."""

from .contents import FileContents
from .reader import read, read_header, verify
from .writer import write

__all__ = ["FileContents", "read", "read_header", "verify", "write"]
