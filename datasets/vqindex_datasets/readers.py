"""Read vectors from the usual file formats in bounded memory.

Every format becomes a :class:`~vqindex_datasets.VectorSource`, a 2-D table of numbers that is read in chunks of rows.
No reader unpickles, and no reader has the whole file in memory.
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from ._parquet import ParquetSource, parquet_column
from .errors import DatasetError
from .files import check_content, check_file, open_hdf5, reading_hdf5, reason
from .sources import ArraySource, VectorSource

__all__ = ["COLUMN_EXTENSIONS", "EXTENSIONS", "open_vectors", "read_column"]

Read = TypeVar("Read")


# Of NumPy, for a header that is not one; it parses Python.
HEADER_ERRORS = (ValueError, TypeError, EOFError, SyntaxError, tokenize.TokenError)

# Of a damaged, encrypted or unknown archive.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError)


class _VecsSource(VectorSource):
    """The formats of the fvecs family: each row is an int32 dimension, followed by the values."""

    def __init__(self, path: Path, value: str) -> None:
        size = path.stat().st_size
        head = _head(path, 4)
        d = int(np.frombuffer(head, "<i4")[0])
        if d < 1:
            raise DatasetError(f"{path}: row 0 says dimension {d}; expected at least 1")
        row_bytes = 4 + d * np.dtype(value).itemsize  # NumPy refuses a record of 2 GiB in words of its own
        if size % row_bytes:
            raise DatasetError(f"{path}: {size} bytes; expected a multiple of {row_bytes} (one row of dimension {d})")
        record = np.dtype([("d", "<i4"), ("v", value, (d,))])
        super().__init__(str(path), (size // record.itemsize, d), np.dtype(value))
        self._records: Any = np.memmap(path, record, mode="r")

    def _rows(self, start: int, stop: int) -> NDArray[Any]:
        records = self._records[start:stop]
        wrong = np.flatnonzero(records["d"] != self.shape[1])
        if wrong.size:
            found = int(records["d"][wrong[0]])
            raise DatasetError(
                f"{self.name}: row {start + int(wrong[0])} says dimension {found}; expected {self.shape[1]}"
            )
        return np.array(records["v"], order="C", subok=False)

    def _release(self) -> None:
        self._records = None


class _NpzSource(VectorSource):
    """One array of a .npz, streamed from the zip archive, which may be compressed and cannot be mapped."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, key: str) -> None:
        self._archive = archive
        self._stream: IO[bytes] = archive.open(key + ".npy")
        shape, fortran, dtype = _npy_header(self._stream, f"{path}[{key}]")
        super().__init__(f"{path}[{key}]", shape, dtype)
        if fortran:
            raise DatasetError(f"{self.name}: stored in Fortran order; expected C order (np.ascontiguousarray)")
        self._offset = self._stream.tell()

    def _rows(self, start: int, stop: int) -> NDArray[Any]:
        row_bytes = self.shape[1] * self.dtype.itemsize
        want = (stop - start) * row_bytes
        try:
            # In order the seek costs nothing; a seek backwards restarts the decompression.
            self._stream.seek(self._offset + start * row_bytes)
            data = self._stream.read(want)
        except _ZIP_ERRORS as error:
            raise DatasetError(f"{self.name}: damaged archive ({error}); expected rows {start}:{stop}") from error
        if len(data) != want:
            raise DatasetError(f"{self.name}: rows {start}:{stop} hold {len(data)} bytes; expected {want}")
        rows: NDArray[Any] = np.frombuffer(data, self.dtype).reshape(stop - start, self.shape[1]).copy()
        return rows

    def _release(self) -> None:
        self._stream.close()
        self._archive.close()


def _head(path: Path, count: int) -> bytes:
    """Return the first `count` bytes; raises DatasetError if the file is shorter."""
    with path.open("rb") as file:
        head = file.read(count)
    if len(head) != count:
        raise DatasetError(f"{path}: {len(head)} bytes; expected a header of {count} bytes")
    return head


def _npy_header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, Fortran order and dtype of a .npy header; raises DatasetError for objects, before unpickling."""
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise DatasetError(f"{name}: .npy version {version}; expected 1.0 or 2.0")
    except DatasetError:
        raise
    except HEADER_ERRORS as error:
        raise DatasetError(f"{name}: not a .npy array ({error}); expected a header from np.save") from error
    if dtype.hasobject:
        raise DatasetError(f"{name}: dtype {dtype} needs pickle, which is never loaded; expected floats or integers")
    return shape, fortran, dtype


def _no_dataset(path: Path, dataset: str | None) -> None:
    if dataset is not None:
        raise DatasetError(f"{path}: dataset={dataset!r} given; expected none, this format holds one unnamed array")


def _open_npy(path: Path, dataset: str | None) -> VectorSource:
    _no_dataset(path, dataset)
    with path.open("rb") as stream:
        shape, _, dtype = _npy_header(stream, str(path))
        offset = stream.tell()
    need = offset + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if path.stat().st_size < need:
        raise DatasetError(f"{path}: {path.stat().st_size} bytes; expected {need} for shape {shape} of {dtype}")
    if 0 in shape:  # an empty range of a file cannot be mapped
        return ArraySource(np.empty(shape, dtype), str(path))
    return ArraySource(np.load(path, mmap_mode="r", allow_pickle=False), str(path))


def _pick(path: Path, shapes: dict[str, tuple[int, ...]], dataset: str | None, preferred: tuple[str, ...]) -> str:
    """Return the name of the array to read: `dataset`, a preferred name, or the only 2-D array."""
    if dataset is not None:
        name = dataset.strip("/")
        if name not in shapes:
            raise DatasetError(f"{path}: no array {dataset!r}; expected one of {sorted(shapes)}")
        return name
    flat = sorted(name for name, shape in shapes.items() if len(shape) == 2)
    for name in preferred:
        if name in flat:
            return name
    if len(flat) != 1:
        raise DatasetError(f"{path}: 2-D arrays {flat} of {sorted(shapes)}; expected one, or name it with dataset=")
    return flat[0]


def _open_npz(path: Path, dataset: str | None) -> VectorSource:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise DatasetError(f"{path}: not a zip archive ({error}); expected a file from np.savez") from error
    try:
        shapes: dict[str, tuple[int, ...]] = {}
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as stream:
                    shapes[member[:-4]] = _npy_header(stream, f"{path}[{member[:-4]}]")[0]
        return _NpzSource(path, archive, _pick(path, shapes, dataset, ("train", "vectors")))
    except _ZIP_ERRORS as error:
        archive.close()
        raise DatasetError(f"{path}: damaged archive ({error}); expected a file from np.savez") from error
    except BaseException:
        archive.close()
        raise


def _open_hdf5(path: Path, dataset: str | None) -> VectorSource:
    file = open_hdf5(path)
    try:
        shapes: dict[str, tuple[int, ...]] = {}

        def note(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset):
                # A data set without a shape (h5py.Empty) counts as 0-D, so that `_pick` never returns it.
                shapes[name] = tuple(node.shape or ())

        with reading_hdf5(path):
            file.visititems(note)
            name = _pick(path, shapes, dataset, ("train",))
            return ArraySource(file[name], f"{path}[{name}]", file.close)
    except BaseException:
        file.close()
        raise


def _npz_column(path: Path, name: str) -> NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            if name not in archive.files:
                raise DatasetError(f"{path}: no array {name!r}; expected one of {sorted(archive.files)}")
            return np.asarray(archive[name])
    except DatasetError:
        raise
    except (*HEADER_ERRORS, *_ZIP_ERRORS) as error:
        raise DatasetError(f"{path}[{name}]: can't be read ({error}); expected integers or strings") from error


def _hdf5_column(path: Path, name: str) -> NDArray[Any]:
    with open_hdf5(path) as file, reading_hdf5(path):
        names: list[str] = []
        file.visititems(lambda found, node: names.append(found) if isinstance(node, h5py.Dataset) else None)
        if name.strip("/") not in names:
            raise DatasetError(f"{path}: no data set {name!r}; expected one of {sorted(names)}")
        node = file[name]
        if h5py.check_string_dtype(node.dtype) is not None:
            return np.array(node.asstr()[()], str)
        return np.asarray(node[()])


def _vecs(value: str) -> Callable[[Path, str | None], VectorSource]:
    def opener(path: Path, dataset: str | None) -> VectorSource:
        _no_dataset(path, dataset)
        return _VecsSource(path, value)

    return opener


def _bin(value: str) -> Callable[[Path, str | None], VectorSource]:
    """Return an opener for the big-ann layout: two int32, n and d, then n x d values."""

    def opener(path: Path, dataset: str | None) -> VectorSource:
        _no_dataset(path, dataset)
        n, d = (int(x) for x in np.frombuffer(_head(path, 8), "<i4"))
        size, need = path.stat().st_size, 8 + n * d * np.dtype(value).itemsize
        if n < 0 or d < 1 or size != need:
            raise DatasetError(f"{path}: {size} bytes; expected {need} for the {n} x {d} that its header says")
        if n == 0:
            return ArraySource(np.empty((0, d), value), str(path))
        return ArraySource(np.memmap(path, value, mode="r", offset=8, shape=(n, d)), str(path))

    return opener


def _open_parquet(path: Path, dataset: str | None) -> VectorSource:
    return ParquetSource(path, dataset)


_OPENERS: dict[str, Callable[[Path, str | None], VectorSource]] = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".hdf5": _open_hdf5,
    ".h5": _open_hdf5,
    ".fvecs": _vecs("<f4"),
    ".bvecs": _vecs("u1"),
    ".ivecs": _vecs("<i4"),
    ".fbin": _bin("<f4"),
    ".u8bin": _bin("u1"),
    ".i8bin": _bin("i1"),
    ".parquet": _open_parquet,
}

_COLUMNS: dict[str, Callable[[Path, str], NDArray[Any]]] = {
    ".npz": _npz_column,
    ".hdf5": _hdf5_column,
    ".h5": _hdf5_column,
    ".parquet": parquet_column,
}

COLUMN_EXTENSIONS: tuple[str, ...] = tuple(_COLUMNS)
"""The file extensions of `read_column`."""

EXTENSIONS: tuple[str, ...] = tuple(_OPENERS)
"""The file extensions of `open_vectors`."""


def open_vectors(path: str | Path, dataset: str | None = None) -> VectorSource:
    """Open a file of vectors; its extension determines the format.

    Parameters
    ----------
    path : str or Path
        A file with one of `EXTENSIONS`.
    dataset : str, optional
        The array in a .npz (by default "train", "vectors" or the only 2-D array), the data set in an HDF5 file (by
        default "train" or the only 2-D one), or the column of a .parquet (by default the only list column).

    Returns
    -------
    VectorSource
        A source of shape (n, d) with the dtype of the file. Close it, or use it in a ``with`` statement.

    Raises
    ------
    DatasetError
        If the file is missing, locked, damaged, not readable by this user, or of an unknown format, or has no 2-D
        array of numbers.
    """
    path = Path(path)
    return _read(path, dataset, _OPENERS, "a file of vectors", f"extension {path.suffix!r}")


def _read(
    path: Path, name: Any, readers: Mapping[str, Callable[[Path, Any], Read]], expected: str, unknown: str
) -> Read:
    """Return what the reader for a file's extension returns; `unknown` is what a message says of other extensions."""
    check_file(path, expected)
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DatasetError(f"{path}: {unknown}; expected one of {', '.join(readers)}")
    check_content(path, expected)
    try:
        return reader(path, name)
    except OSError as error:
        raise DatasetError(f"{path}: {reason(error) or error}") from error


def read_column(path: str | Path, name: str) -> NDArray[Any]:
    """Read one column of a file as a whole, such as the ids that lie beside the vectors.

    Parameters
    ----------
    path : str or Path
        A .parquet, .npz or HDF5 file.
    name : str
        The column, key or data set.

    Returns
    -------
    ndarray of any integer type or of str, shape (n,)
        The values.

    Raises
    ------
    DatasetError
        If the file can't be read, has no columns or no such column, or the column does not hold integers or strings.
    """
    path = Path(path)
    column = _read(path, name, _COLUMNS, "a file with columns", "has no columns with names")
    if column.dtype.kind not in "iuU" or column.ndim != 1:
        raise DatasetError(
            f"{path}[{name}]: dtype {column.dtype} and shape {column.shape}; expected integers or strings of shape (n,)"
        )
    return column
