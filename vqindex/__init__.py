"""vqindex: an approximate nearest-neighbour vector index that trains nothing.

>>> import vqindex
>>> index = vqindex.VQIndex(dim=768, bits=4, metric="cosine")
"""

from .errors import BackendError, FileFormatError, InvalidInputError, UnknownIdError, VQIndexError
from .index import VQIndex
from .result import SearchResult, SearchResultWithError
from .spec import IndexSpec
from .version import __version__

__all__ = [
    "BackendError",
    "FileFormatError",
    "IndexSpec",
    "InvalidInputError",
    "SearchResult",
    "SearchResultWithError",
    "UnknownIdError",
    "VQIndex",
    "VQIndexError",
    "__version__",
]
