"""vqindex: an approximate nearest-neighbour vector index that trains nothing.

>>> import vqindex
>>> index = vqindex.VQIndex(dim=768, bits=4, metric="cosine")
"""

from .errors import BackendError, FileFormatError, InvalidInputError, UnknownIdError, VQIndexError
from .filters import bitmap, exclude
from .index import VQIndex
from .result import RangeResult, SearchResult, SearchResultWithError
from .spec import IndexSpec
from .version import __version__

__all__ = [
    "BackendError",
    "FileFormatError",
    "IndexSpec",
    "InvalidInputError",
    "RangeResult",
    "SearchResult",
    "SearchResultWithError",
    "UnknownIdError",
    "VQIndex",
    "VQIndexError",
    "__version__",
    "bitmap",
    "exclude",
]
