"""The ``.vqi`` file: one HDF5 file, written atomically, every block with checksums. FORMAT.md describes it."""

from .contents import FileContents, Identity
from .memory import to_bytes
from .reader import read, read_bytes, read_header, verify
from .writer import write

__all__ = ["FileContents", "Identity", "read", "read_bytes", "read_header", "to_bytes", "verify", "write"]
