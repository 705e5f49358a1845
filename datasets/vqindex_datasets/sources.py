"""Tables of vectors that are read in chunks of rows. Every reader returns one."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import DatasetError

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on

__all__ = ["ArraySource", "VectorSource"]

# Kinds of dtypes of vectors: floats, signed and unsigned integers; not bool, complex, text or objects.
_NUMERIC_KINDS = "fiu"


class VectorSource(abc.ABC):
    """Rows of vectors, read on demand; also a context manager.

    Parameters
    ----------
    name : str
        Name of the source in messages, usually the path.
    shape : tuple of int
        ``(n, d)``.
    dtype : numpy dtype
        Type of the arrays of `read` and `chunks`.

    Notes
    -----
    A subclass implements ``_rows(start, stop)``, which gets checked bounds.
    """

    def __init__(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if len(shape) != 2:
            raise DatasetError(f"{name}: the array has shape {tuple(shape)}; expected 2-D (n, d)")
        if dtype.kind not in _NUMERIC_KINDS:
            raise DatasetError(f"{name}: the array has dtype {dtype}; expected floats or integers")
        if shape[1] < 1:
            raise DatasetError(f"{name}: the array has shape {tuple(shape)}; expected at least one column")
        self.name = name
        self.shape: tuple[int, int] = (int(shape[0]), int(shape[1]))
        self.dtype = dtype
        self._open = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, shape={self.shape}, dtype={self.dtype})"

    def __len__(self) -> int:
        return self.shape[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Reading afterwards raises `DatasetError`; closing twice is harmless."""
        if self._open:
            self._open = False
            self._release()

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Read some of the rows.

        Parameters
        ----------
        start : int
            First row.
        stop : int, optional
            The row after the last; by default all are read.

        Returns
        -------
        ndarray of any float or integer type, shape (stop - start, d)
            A new array.

        Raises
        ------
        DatasetError
            If the bounds are not ``0 <= start <= stop <= n``, the source is closed, or the file is damaged.
        """
        n = self.shape[0]
        stop = n if stop is None else stop
        if not 0 <= start <= stop <= n:
            raise DatasetError(f"{self.name}: rows {start}:{stop} asked for; expected 0 <= start <= stop <= {n}")
        self._check_open()
        return self._rows(start, stop)

    def chunks(self, rows: int = 65536) -> Iterator[NDArray[Any]]:
        """Read all rows in order.

        Parameters
        ----------
        rows : int, default 65536
            Most rows of a chunk.

        Yields
        ------
        ndarray of any float or integer type, shape (<= rows, d)
            A new array.

        Raises
        ------
        DatasetError
            If `rows` < 1, the source is closed, or the file is damaged.
        """
        if rows < 1:
            raise DatasetError(f"{self.name}: chunks of {rows} rows asked for; expected at least 1")
        for start in range(0, self.shape[0], rows):
            yield self.read(start, min(start + rows, self.shape[0]))

    def _check_open(self) -> None:
        if not self._open:
            raise DatasetError(f"{self.name}: the source is closed; expected an open one")

    @abc.abstractmethod
    def _rows(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows of an open source, with checked bounds."""

    def _release(self) -> None:  # noqa: B027 - most sources have no open file
        """Close the files of the subclass."""


class ArraySource(VectorSource):
    """A source over an object with shape, dtype and slices: an array, a memory map, or an HDF5 data set.

    Parameters
    ----------
    array : array-like of shape (n, d)
        The vectors; read by slices, never copied as a whole.
    name : str
        Name of the source in messages.
    release : callable, optional
        Function that closes the file of the array; `close` calls it once.
    """

    def __init__(self, array: Any, name: str = "array", release: Callable[[], None] | None = None) -> None:
        super().__init__(name, array.shape, array.dtype)
        self._array = array
        self._on_release = release

    def _rows(self, start: int, stop: int) -> NDArray[Any]:
        try:
            return np.array(self._array[start:stop], order="C", subok=False)
        except (OSError, RuntimeError) as error:  # of HDF5, which names neither the file nor the rows
            raise DatasetError(f"{self.name}: rows {start}:{stop} can't be read ({error})") from error

    def _release(self) -> None:
        self._array = None
        if self._on_release is not None:
            self._on_release()
