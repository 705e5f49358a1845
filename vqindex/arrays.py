"""Input arrays: the only module that checks, casts or copies the arrays users pass.

It accepts NumPy arrays, memory maps, h5py datasets, nested lists, torch and CuPy tensors, pyarrow columns, any object
with DLPack, and objects that can only be sliced. It returns C-contiguous float32 or int64 NumPy arrays. An array in the
memory of a backend's device (`OnDevice`) passes the same checks and stays on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MappingView, Set
from numbers import Number
from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ._native import all_finite
from .errors import InvalidInputError
from .native_calls import call_native

__all__ = [
    "OnDevice",
    "VectorSource",
    "as_host",
    "as_ids",
    "as_matrix",
    "as_queries",
    "float_chunks",
    "float_rows",
    "is_on_device",
    "on_host",
    "refuse_no_array",
]

F32 = NDArray[np.float32]
_SHOWN = 5
_CHUNK_VALUES = 2**22  # float32 values in a chunk: 16 MiB of input
_DEVICE_CHUNK_VALUES = 2**26  # the same, for arrays in device memory
_GAP = 8  # reading up to so many unused rows costs less than another call


@runtime_checkable
class OnDevice(Protocol):
    """A caller's array in the memory of a backend's own device (`Backend.adopt`)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a value."""

    def __getitem__(self, at: Any) -> OnDevice:
        """Return a view."""

    def float32(self) -> tuple[OnDevice, int]:
        """Return the array as C-contiguous float32, and the flat position of its first non-finite value, or -1."""

    def host(self) -> NDArray[Any]:
        """Return a copy on the host."""

    def back(self, result: NDArray[Any]) -> Any:
        """Return a result on this device, as an array of the caller's library."""


_PLAIN = (np.ndarray, list, tuple)  # the usual cases, by a quick test; a test for a protocol or an ABC takes long


def is_on_device(array: Any) -> TypeGuard[OnDevice]:
    """Whether an array is an OnDevice."""
    return not isinstance(array, _PLAIN) and isinstance(array, OnDevice)


def on_host(rows: F32 | OnDevice) -> F32:
    """Return checked rows on the host."""
    return rows if isinstance(rows, np.ndarray) else rows.host()


def _is_sliced(array: Any) -> bool:
    """Whether an object has shape, dtype and slices, and no other protocol of arrays."""
    protocols = ("__array__", "__dlpack__", "__cuda_array_interface__")
    return all(hasattr(array, name) for name in ("shape", "dtype", "__getitem__")) and not any(
        hasattr(array, name) for name in protocols
    )


def refuse_no_array(value: Any, what: str, expected: str) -> None:
    """Raise InvalidInputError for a value that NumPy would wrap in an array of no dimension, naming its kind."""
    kind = _kind_of_no_array(value)
    if kind is not None:
        raise InvalidInputError(f"{what} is {kind}; expected {expected}")


def _kind_of_no_array(value: Any) -> str | None:
    """Return what kind of thing a value is that NumPy would wrap in an array of no dimension; None for other values."""
    if isinstance(value, _PLAIN):
        return None
    if isinstance(value, str | bytes):
        return f"{value!r}"
    if isinstance(value, Set | Mapping | MappingView):
        return f"a {type(value).__name__}"
    if isinstance(value, Iterator):
        return f"a {type(value).__name__}, which can be read only once"
    if callable(value) and not hasattr(value, "shape"):
        return "a function"
    if hasattr(value, "nnz") and hasattr(value, "toarray"):
        return f"a sparse {type(value).__name__}"
    return None


def _refuse_one(value: Any, shape: tuple[int, ...], what: str, expected: str) -> None:
    """Raise InvalidInputError for a value that became an array of no dimension, naming it or its kind."""
    if shape == ():
        if value is None or isinstance(value, Number):
            shown = repr(value)
        else:
            shown = "an array of no dimension" if hasattr(value, "shape") else f"a {type(value).__name__}"
        raise InvalidInputError(f"{what} is {shown}; expected {expected}")


def _column_of_arrow(column: Any) -> NDArray[Any]:
    """Return a pyarrow Array or ChunkedArray: lists of numbers as a matrix, anything else as a vector."""
    if not hasattr(column, "null_count") or hasattr(column, "schema"):
        raise InvalidInputError(f"the array is a pyarrow {type(column).__name__}; expected a column")
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise InvalidInputError(f"row {row} is null; expected a value in every row")
    arrays = [_chunk_of_arrow(chunk) for chunk in getattr(column, "chunks", [column]) if len(chunk)]
    widths = {array.shape[1:] for array in arrays}
    if len(widths) > 1:
        raise InvalidInputError(
            f"rows have {', '.join(str(*w) for w in sorted(widths))} numbers; expected equal lengths"
        )
    return np.concatenate(arrays) if arrays else np.empty(0, np.float32)


def _chunk_of_arrow(chunk: Any) -> NDArray[Any]:
    chunk = getattr(chunk, "storage", chunk)  # of an extension type, such as tensors of fixed shape
    if not hasattr(chunk, "flatten") or not hasattr(chunk.type, "value_type"):
        values = chunk.to_pylist() if str(chunk.type).endswith(("string", "string_view")) else None
        return chunk.to_numpy(zero_copy_only=False) if values is None else np.array(values, object)
    lengths = chunk.value_lengths().to_numpy(zero_copy_only=False) if hasattr(chunk, "value_lengths") else np.empty(0)
    width = int(lengths[0]) if lengths.size else int(getattr(chunk.type, "list_size", 0))
    if lengths.size and (lengths != width).any():
        row = int(np.argmax(lengths != width))
        raise InvalidInputError(f"row {row} has {lengths[row]} numbers and row 0 has {width}; expected equal lengths")
    values = chunk.flatten()
    if values.null_count:
        at = values.is_null().to_pylist().index(True)
        raise InvalidInputError(f"row {at // width} holds a null; expected {width} numbers")
    out: NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(len(chunk), width)
    return out


def _to_host(array: Any) -> Any:
    """Return an object that NumPy can slice; device tensors and DLPack objects are copied to the host."""
    if is_on_device(array):
        return array
    if np.ma.is_masked(array):
        raise InvalidInputError("the array has masked values; expected an array without a mask")
    if isinstance(array, np.ndarray) or type(array).__module__.startswith("h5py") or _is_sliced(array):
        return array
    if type(array).__module__.partition(".")[0] == "pyarrow":
        return _column_of_arrow(array)
    if hasattr(array, "detach"):  # torch: leave the graph and the device
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":
            array = array.float()
        return array.numpy()
    if hasattr(array, "get") and hasattr(array, "__cuda_array_interface__"):  # CuPy
        return array.get()
    if hasattr(array, "__array__"):
        return np.asarray(array)
    if hasattr(array, "__dlpack__"):
        return np.from_dlpack(array)
    try:
        return np.asarray(array)
    except ValueError:
        raise InvalidInputError(f"nested lists are ragged{_first_odd(array)}; expected rows of equal length") from None


def _first_odd(rows: Any) -> str:
    """Return what is odd about the first of some rows that is unlike row 0, as text after a colon."""
    counts = [len(row) if hasattr(row, "__len__") else None for row in rows]
    odd = next((row for row, count in enumerate(counts) if count is None or count != counts[0]), None)
    if odd is None:
        return ""
    shown = f"is {rows[odd]!r}" if counts[odd] is None else f"has {counts[odd]} entries"
    return f": row {odd} {shown}" + ("" if counts[0] is None else f" and row 0 has {counts[0]}")


def as_host(array: Any) -> NDArray[Any]:
    """Return any input as a NumPy array of any shape and type."""
    return np.asarray(_to_host(array))


def as_matrix(array: Any, dim: int, what: str) -> Any:
    """Check that `array` is a numeric (n, dim) array; return it without reading values (a memory map stays one).

    Raises
    ------
    InvalidInputError
        If the array is not two-dimensional or not real-valued, or has another number of columns.
    """
    refuse_no_array(array, what, f"an array of shape (n, {dim})")
    given, array = array, _to_host(array)
    _refuse_one(given, array.shape, what, f"an array of shape (n, {dim})")
    if array.shape == (0,):
        array = np.empty((0, dim), np.float32)
    if array.shape == (dim,):
        raise InvalidInputError(f"{what} have shape ({dim},), one vector; expected (n, {dim}), here {what}[None]")
    if len(array.shape) != 2:
        hint = f", here np.stack({what})" if array.dtype == object and len(array.shape) == 1 else ""
        raise InvalidInputError(f"{what} have shape {tuple(array.shape)}; expected (n, {dim}){hint}")
    if array.dtype.kind not in "fiu":
        raise InvalidInputError(f"{what} have dtype {array.dtype}; expected a float or integer type")
    if array.shape[1] != dim:
        raise InvalidInputError(f"{what} have {array.shape[1]} columns; the index has dim {dim}")
    return array


def _check_slice(block: NDArray[Any], shape: tuple[int, int], what: str) -> None:
    """Raise InvalidInputError for a slice of an object that differs from the shape and type that the object has."""
    if block.shape != shape or block.dtype.kind not in "fiu":
        raise InvalidInputError(
            f"{what} slice to {block.dtype} of shape {block.shape}; expected numbers of shape {shape}"
        )


def _sliced(matrix: Any, run: NDArray[np.int64], what: str) -> NDArray[Any]:
    """Return the rows of a checked matrix from the first to the last of a run."""
    block = np.asarray(matrix[run[0] : run[-1] + 1])
    _check_slice(block, (int(run[-1] + 1 - run[0]), matrix.shape[1]), what)
    return block


def _checked_float32(block: Any, rows: range | NDArray[np.int64], dim: int, what: str) -> Any:
    """Return a block of rows as float32; errors call its rows by the numbers `rows`."""
    if is_on_device(block):
        converted, position = block.float32()
        if position >= 0:  # check the row again on the host, which raises the error
            row = position // block.shape[1]
            _checked_float32(block[row : row + 1].host(), rows[row : row + 1], dim, what)
        return converted
    raw = np.asarray(block)
    _check_slice(raw, (len(rows), dim), what)
    if raw.dtype == np.float32:
        out = np.ascontiguousarray(raw)
    else:
        with np.errstate(over="ignore", under="ignore"):
            out = np.ascontiguousarray(raw, np.float32)
    if not call_native(all_finite, out):
        row, column = np.argwhere(~np.isfinite(out))[0]
        raise InvalidInputError(f"{what}[{rows[row]}, {column}] is {raw[row, column]}; expected a finite float32 value")
    return out


def float_chunks(matrix: Any, rows: int, what: str) -> Iterator[F32 | OnDevice]:
    """Yield a checked matrix, on the host or the device, as C-contiguous float32 chunks of at most `rows` rows.

    Raises
    ------
    InvalidInputError
        At a chunk with a NaN or an infinity, before or after the cast to float32; the message names row and column.
    """
    n, dim = matrix.shape
    for start in range(0, n, rows):
        yield _checked_float32(matrix[start : start + rows], range(start, min(start + rows, n)), dim, what)


class VectorSource:
    """Vectors to be encoded. The constructor checks them; `chunks` reads them later, a chunk at a time.

    Parameters
    ----------
    vectors : array-like of shape (n, dim), or OnDevice
        A user's array, or the one that `Backend.adopt` returned.
    dim : int
        Expected number of columns.

    Raises
    ------
    InvalidInputError
        As `as_matrix`.
    """

    def __init__(self, vectors: Any, dim: int) -> None:
        self._matrix = as_matrix(vectors, dim, "vectors")
        self.rows: int = self._matrix.shape[0]
        self.dim = dim

    def chunks(self, rows: int | None = None) -> Iterator[tuple[int, F32 | OnDevice]]:
        """Yield the first row of each chunk and its float32 rows, on the host or the device.

        Parameters
        ----------
        rows : int, optional
            Most rows of a chunk; by default as many as fill 16 MiB on the host, or 256 MiB on a device.

        Raises
        ------
        InvalidInputError
            At a chunk with a NaN or an infinity; the message names row and column.
        """
        if rows is None:
            values = _DEVICE_CHUNK_VALUES if is_on_device(self._matrix) else _CHUNK_VALUES
            rows = max(1, values // self.dim)
        for number, chunk in enumerate(float_chunks(self._matrix, rows, "vectors")):
            yield number * rows, chunk


def float_rows(matrix: Any, rows: NDArray[np.int64], what: str) -> F32:
    """Return some rows, ascending, of a checked matrix as C-contiguous float32.

    Other objects than NumPy arrays are read by slices, each over a run of neighboring rows.

    Raises
    ------
    InvalidInputError
        For a NaN or an infinity; the message names row and column.
    """
    if isinstance(matrix, np.ndarray) or not rows.size:
        selected = matrix[rows] if rows.size else np.empty((0, matrix.shape[1]), np.float32)
    else:
        runs = np.split(rows, np.flatnonzero(np.diff(rows) > _GAP) + 1)
        selected = np.concatenate([_sliced(matrix, run, what)[run - run[0]] for run in runs])
    out: F32 = _checked_float32(selected, rows, matrix.shape[1], what)
    return out


def as_queries(array: Any, dim: int) -> tuple[F32 | OnDevice, bool]:
    """Return float32 queries of shape (nq, dim), and whether the input is a single 1-D query."""
    # The usual case by a few quick tests, since all others together take a good part of a short search.
    if type(array) is np.ndarray and array.dtype == np.float32 and array.shape[-1:] == (dim,) and array.ndim <= 2:
        matrix = np.ascontiguousarray(array if array.ndim == 2 else array[None])
        if call_native(all_finite, matrix):
            return matrix, array.ndim == 1
    expected = f"an array of shape (nq, {dim}) or ({dim},)"
    refuse_no_array(array, "queries", expected)
    given, array = array, _to_host(array)
    _refuse_one(given, array.shape, "queries", expected)
    single = len(array.shape) == 1 and array.shape[0] != 0
    if single:
        array = array[:][None, :]
    matrix = as_matrix(array, dim, "queries")
    return _checked_float32(matrix[:], range(matrix.shape[0]), dim, "queries"), single


def as_ids(ids: Any, count: int | None = None) -> NDArray[np.int64]:
    """Return int64 ids of shape (n,), checked to be whole, non-negative and distinct.

    Parameters
    ----------
    ids : array-like
        Integers.
    count : int, optional
        Expected number of ids; with it the ids must also be distinct.
    """
    refuse_no_array(ids, "ids", "a list or an array of ids, in order")
    array = np.asarray(_to_host(ids))
    _refuse_one(ids, array.shape, "ids", "a list or an array of ids")
    if array.ndim != 1:
        raise InvalidInputError(f"ids have shape {array.shape}; expected one dimension")
    if array.size and array.dtype.kind not in "iu":
        odd = next((id for id in array.tolist() if not isinstance(id, int | str)), None)
        shown = f", the first of another kind is {odd!r}" if array.dtype.kind == "O" else ""
        raise InvalidInputError(f"ids have dtype {array.dtype}{shown}; expected an integer type, or strings")
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise InvalidInputError(f"id {array.max()} does not fit int64")
    out = array.astype(np.int64)
    if out.size and out.min() < 0:
        raise InvalidInputError(f"id {out.min()} is negative; expected ids from 0 to 2**63 - 1")
    if count is not None:
        if out.size != count:
            raise InvalidInputError(f"{out.size} ids were given for {count} vectors")
        ordered = np.sort(out)
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        if repeated.size:
            raise InvalidInputError(f"ids are given twice: {_listed(repeated)}")
    return out


def _listed(values: NDArray[np.int64]) -> str:
    """Return the first few distinct values as text."""
    distinct = np.unique(values)
    more = f" and {distinct.size - _SHOWN} more" if distinct.size > _SHOWN else ""
    return ", ".join(map(str, distinct[:_SHOWN].tolist())) + more
