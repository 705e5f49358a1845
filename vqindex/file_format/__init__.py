"""The ``.vqi`` file: one HDF5 file, written atomically, every block with checksums. FORMAT.md is its description."""

from .reader import Stored, read, read_header, verify
from .writer import write

__all__ = ["Stored", "read", "read_header", "verify", "write"]
