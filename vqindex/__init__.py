"""vqindex: an approximate nearest-neighbour vector index that trains nothing.

>>> import vqindex
>>> index = vqindex.VQIndex(dim=768, bits=4, metric="cosine")
"""

from .errors import BackendError, FileFormatError, InvalidInputError, StoreError, UnknownIdError, VQIndexError
from .filters import bitmap, exclude
from .index import VQIndex
from .result import RangeResult, SearchResult, SearchResultWithError
from .spec import IndexSpec
from .store import DurableIndex
from .store import open_store as open
from .version import __version__

__all__ = [
    "BackendError",
    "DurableIndex",
    "FileFormatError",
    "IndexSpec",
    "InvalidInputError",
    "RangeResult",
    "SearchResult",
    "SearchResultWithError",
    "StoreError",
    "UnknownIdError",
    "VQIndex",
    "VQIndexError",
    "__version__",
    "bitmap",
    "exclude",
    "open",
]
