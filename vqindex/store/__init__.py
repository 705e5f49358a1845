"""An index in a folder: immutable ``.vqi`` segments and a manifest that is replaced atomically (FORMAT.md)."""

from .durable import DurableIndex
from .opening import discard_store, open_store
from .snapshot import verify_store

__all__ = ["DurableIndex", "discard_store", "open_store", "verify_store"]
