"""The vectors and ids of a plan, read shard by shard. The readers are those of the package `vqindex_datasets`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import as_ids
from ..errors import InvalidInputError
from ..rows.ids import IdMap

if TYPE_CHECKING:
    from vqindex_datasets import VectorSource

__all__ = ["Rows", "identity_of", "open_ids", "open_rows"]


class Rows:
    """Rows [start, stop) of a source as an object with slices, which `VQIndex.add` reads one by one.

    Parameters
    ----------
    source : VectorSource
        The rows of a file.
    start, stop : int
        Which of them.
    reading : callable, optional
        Called before each read; what it raises ends the encoding.
    """

    def __init__(
        self, source: VectorSource, start: int, stop: int, reading: Callable[[], object] | None = None
    ) -> None:
        self.shape, self.dtype = (stop - start, source.shape[1]), source.dtype
        self._source, self._start, self._reading = source, start, reading

    def __getitem__(self, at: slice) -> NDArray[Any]:
        if self._reading is not None:
            self._reading()
        start, stop, _ = at.indices(self.shape[0])
        rows: NDArray[Any] = self._source.read(self._start + start, self._start + stop)
        return rows


def open_rows(path: str, dataset: str | None) -> VectorSource:
    """Open the vectors of a file."""
    from vqindex_datasets import open_vectors

    return open_vectors(Path(path), dataset)


def open_ids(path: str, column: str | None, count: int) -> NDArray[Any]:
    """Return the ids of all vectors, int64 or str; those of a .npy file of integers or strings are mapped.

    Raises
    ------
    InvalidInputError
        If they are no ids, or of another number than the vectors.
    """
    if column is not None:
        from vqindex_datasets import read_column

        ids = read_column(Path(path), column)
    else:
        try:
            ids = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise InvalidInputError(f"{path}: not a .npy file of ids ({error})") from None
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iuU" or len(ids) != count:
        shape = getattr(ids, "shape", None)
        raise InvalidInputError(
            f"{path}: has dtype {getattr(ids, 'dtype', None)} and shape {shape}; expected {count} integers or strings"
        )
    return ids


def checked_ids(ids: NDArray[Any]) -> NDArray[Any]:
    """Return the ids of a shard after a check that they are ids and differ."""
    if ids.dtype.kind == "U":
        IdMap().parse_ids(ids, len(ids))
        return np.asarray(ids)
    return as_ids(ids, len(ids))


def identity_of(data: str, ids: str | None) -> dict[str, Any]:
    """Return what tells whether the files of a plan have changed: their sizes, and the times of their last changes."""
    found: dict[str, Any] = {}
    for name, path in (("data", data), ("ids", ids)):
        if path is not None:
            status = Path(path).stat()
            found[name] = [status.st_size, status.st_mtime_ns]
    return found
