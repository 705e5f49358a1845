"""vqindex: an approximate nearest-neighbor vector index that trains nothing.

>>> import vqindex
>>> index = vqindex.VQIndex(dim=768, bits=4, metric="cosine")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    BackendError,
    FileFormatError,
    InvalidInputError,
    OffsetWarning,
    SlowCodecWarning,
    StorageError,
    StoreBusyError,
    StoreConflictError,
    StoreError,
    UnknownIdError,
    VQIndexError,
)
from .index import VQIndex
from .planning import Choice, Plan, plan
from .result import Canaries, Explanation, ModelCheck, NeighborsGraph, Pairs, RangeResult, SearchResult
from .rows.filters import bitmap, exclude
from .rows.graph import Curve
from .spec import IndexSpec
from .version import __version__

if TYPE_CHECKING:
    from . import documents
    from .store import DurableIndex
    from .store import open_store as open

__all__ = [
    "BackendError",
    "Canaries",
    "Choice",
    "Curve",
    "DurableIndex",
    "Explanation",
    "FileFormatError",
    "IndexSpec",
    "InvalidInputError",
    "ModelCheck",
    "NeighborsGraph",
    "OffsetWarning",
    "Pairs",
    "Plan",
    "RangeResult",
    "SearchResult",
    "SlowCodecWarning",
    "StorageError",
    "StoreBusyError",
    "StoreConflictError",
    "StoreError",
    "UnknownIdError",
    "VQIndex",
    "VQIndexError",
    "__version__",
    "bitmap",
    "documents",
    "exclude",
    "open",
    "plan",
]

_ON_DISK = {"DurableIndex": "DurableIndex", "open": "open_store"}


def __getattr__(name: str) -> Any:
    """Import the modules that need HDF5 at their first use, so that importing vqindex stays quick."""
    if name == "documents":
        return import_module(".documents", __name__)
    if name not in _ON_DISK:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import store

    return getattr(store, _ON_DISK[name])


def __dir__() -> list[str]:
    """List the public names alone."""
    return sorted(__all__)
