"""The HDF5 layout of ann-benchmarks: train, test, neighbors, distances.

Two layouts are in use. Older files have float32 vectors and int32 neighbors, and no attributes ``type`` and
``dimension``. Current files have int64 neighbors, float64 distances and both attributes. `load_annbench` reads both
layouts, and also float16 and integer vectors. `write_annbench` writes the current layout.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import DTypeLike, NDArray

from .errors import DatasetError
from .files import DamagedFileError, check_content, check_file, is_hdf5, open_hdf5, reading_hdf5
from .readers import open_vectors
from .sources import VectorSource

__all__ = ["DISTANCES", "Dataset", "is_annbench", "load_annbench", "stated_distance", "write_annbench"]

DISTANCES: dict[str, str] = {
    "angular": "cosine",
    "cosine": "cosine",
    # VIBE's name for unit vectors. ip and cosine rank these alike, and cosine is not affected by their rounding.
    "normalized": "cosine",
    "euclidean": "l2",
    "l2": "l2",
    "ip": "ip",
    "dot": "ip",
}
"""Values of the attribute ``distance``, and the metric of each."""

_PARTS = ("train", "test", "neighbors", "distances")


@dataclass(frozen=True)
class Dataset:
    """A checked ann-benchmarks file. Each access to an array reads it from the file.

    Attributes
    ----------
    path : Path
        The file.
    metric : str
        "cosine", "l2" or "ip".
    distance : str
        Name of the metric in the file.
    n, nq, dim, gt_k : int
        Train rows, queries, dimension, and true neighbors per query.
    """

    path: Path
    metric: str
    distance: str
    n: int
    nq: int
    dim: int
    gt_k: int

    @property
    def train(self) -> VectorSource:
        """The train rows, shape (n, dim), read in chunks. Each access opens the file; close the source after use."""
        return open_vectors(self.path, "train")

    @property
    def test(self) -> NDArray[np.float32]:
        """The queries, float32 of shape (nq, dim)."""
        return np.asarray(_read(self.path, "test"), np.float32)

    @property
    def neighbors(self) -> NDArray[np.int64]:
        """Row numbers of the true neighbors, nearest first, int64 of shape (nq, gt_k)."""
        return np.asarray(_read(self.path, "neighbors"), np.int64)

    @property
    def distances(self) -> NDArray[np.float64]:
        """Distances of the true neighbors, float64 (nq, gt_k): 1 - cos, unsquared Euclidean, or -<q, x>."""
        return np.asarray(_read(self.path, "distances"), np.float64)


def _read(path: Path, name: str) -> Any:
    with open_hdf5(path) as file, reading_hdf5(path):
        return file[name][()]


def is_annbench(path: str | Path) -> bool:
    """Return whether a file has the layout of ann-benchmarks, train, test, neighbors and distances, without checks.

    Parameters
    ----------
    path : str or Path
        The file. The result is False if it does not exist, is damaged, or is not HDF5.

    Returns
    -------
    bool
        Whether the file has this layout.

    Raises
    ------
    DatasetError
        If the file is HDF5, but another process has it open for writing, or this user may not read it.
    """
    if not is_hdf5(Path(path)):
        return False
    try:
        with open_hdf5(Path(path)) as file, reading_hdf5(Path(path)):
            return _has_layout(file)
    except DamagedFileError:
        return False


def _has_layout(file: Any) -> bool:
    return all(isinstance(file.get(name), h5py.Dataset) for name in _PARTS)


def stated_distance(path: str | Path) -> str | None:
    """Return the distance for which an HDF5 file says that its vectors are meant, also without the whole layout.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    str or None
        A key of `DISTANCES`; None if the file is not HDF5, says nothing or something else.
    """
    if not is_hdf5(Path(path)):
        return None
    with open_hdf5(Path(path)) as file, reading_hdf5(Path(path)):
        value = file.attrs.get("distance")
        text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text if text in DISTANCES else None


def load_annbench(path: str | Path) -> Dataset:
    """Open and check an ann-benchmarks file.

    Parameters
    ----------
    path : str or Path
        The HDF5 file, old or current layout.

    Returns
    -------
    Dataset
        Sizes and metric of the file; the arrays are read on access.

    Raises
    ------
    DatasetError
        If the file can't be read, is not in this layout, sparse or binary, has an unknown distance or inconsistent
        shapes, or if a neighbor is not a train row.
    """
    path = Path(path)
    check_file(path, "an ann-benchmarks HDF5 file")
    check_content(path, "an ann-benchmarks HDF5 file")
    with open_hdf5(path) as file, reading_hdf5(path):
        if not _has_layout(file):
            raise DatasetError(f"{path}: not in the ann-benchmarks layout; expected HDF5 with {', '.join(_PARTS)}")
        distance = _text(file, path, "distance")
        if distance not in DISTANCES:
            raise DatasetError(f"{path}: distance {distance!r}; expected one of {', '.join(DISTANCES)}")
        if _text(file, path, "type", "dense") != "dense":
            raise DatasetError(f"{path}: type {_text(file, path, 'type')!r}; expected 'dense'")
        for name in _PARTS:
            if file[name].ndim != 2:
                raise DatasetError(f"{path}: {name} has shape {file[name].shape}; expected 2-D")
            if file[name].dtype.kind not in "fiu":
                raise DatasetError(f"{path}: {name} has dtype {file[name].dtype}; expected floats or integers")
        (n, dim), (nq, test_dim) = file["train"].shape, file["test"].shape
        if test_dim != dim or int(file.attrs.get("dimension", dim)) != dim:
            raise DatasetError(
                f"{path}: test has dimension {test_dim} and the attribute says "
                f"{file.attrs.get('dimension')}; expected {dim}, that of train"
            )
        neighbors = file["neighbors"][()]
        _check_neighbors(str(path), neighbors, file["distances"].shape, n, nq)
    return Dataset(path, DISTANCES[distance], distance, n, nq, dim, neighbors.shape[1])


def _text(file: Any, path: Path, name: str, default: str | None = None) -> str:
    value = file.attrs.get(name, default)
    if value is None:
        raise DatasetError(f"{path}: no attribute {name!r}; expected one of {', '.join(DISTANCES)}")
    return value.decode() if isinstance(value, bytes) else str(value)


def _check_neighbors(name: str, neighbors: NDArray[Any], distances: tuple[int, ...], n: int, nq: int) -> None:
    if neighbors.ndim != 2 or len(neighbors) != nq:
        raise DatasetError(f"{name}: neighbors has shape {neighbors.shape}; expected ({nq}, k)")
    if neighbors.dtype.kind not in "iu":
        raise DatasetError(f"{name}: neighbors has dtype {neighbors.dtype}; expected integers")
    if tuple(distances) != neighbors.shape:
        raise DatasetError(f"{name}: distances has shape {tuple(distances)}; expected {neighbors.shape}, as neighbors")
    wrong = np.flatnonzero(((neighbors < 0) | (neighbors >= n)).ravel())
    if wrong.size:
        row, column = divmod(int(wrong[0]), neighbors.shape[1])
        raise DatasetError(
            f"{name}: neighbors[{row}, {column}] is {neighbors[row, column]}; expected 0 to {n - 1}, a train row"
        )


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path, which replaces `path` if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_annbench(
    path: str | Path,
    train: NDArray[Any] | VectorSource | Iterable[NDArray[Any]],
    test: NDArray[Any],
    neighbors: NDArray[Any],
    distances: NDArray[Any],
    distance: str,
    *,
    dtype: DTypeLike = np.float32,
    point_type: str = "float",
    neighbors_dtype: DTypeLike = np.int64,
    distances_dtype: DTypeLike = np.float64,
) -> Path:
    """Write an ann-benchmarks file, atomically.

    Parameters
    ----------
    path : str or Path
        The file; an existing one is replaced at the end.
    train : ndarray of any float or integer type, shape (n, d), VectorSource, or iterable of such arrays
        The rows. An array or a source is stored contiguously in the file; an iterable, whose length is not known in
        advance, in HDF5 chunks.
    test : ndarray of any float or integer type, shape (nq, d)
        The queries.
    neighbors, distances : ndarray of any integer and any float type, shape (nq, k)
        The exact neighbors, nearest first; distances as in `Dataset.distances`.
    distance : str
        A key of `DISTANCES`.
    dtype : numpy dtype
        Type of the stored vectors.
    point_type : str
        The attribute ``point_type``.
    neighbors_dtype : numpy dtype
        int64 as in current files; int32 takes half the space.
    distances_dtype : numpy dtype
        float64 as in current files; float32 takes half the space.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    DatasetError
        If shapes or neighbors do not fit, the distance is unknown, or a value does not fit in `dtype`.
    """
    path, neighbors, distances = Path(path), np.asarray(neighbors), np.asarray(distances)
    if distance not in DISTANCES:
        raise DatasetError(f"distance {distance!r}; expected one of {', '.join(DISTANCES)}")
    test = _cast(np.asarray(test), np.dtype(dtype), "test")
    if test.ndim != 2:
        raise DatasetError(f"{path}: test has shape {test.shape}; expected (nq, d)")
    # In this order: the HDF5 file is closed before the temporary file is synced and renamed.
    with _replacing(path) as temporary, h5py.File(temporary, "w") as file:
        n = _write_train(file, train, test.shape[1], np.dtype(dtype))
        _check_neighbors(str(path), neighbors, distances.shape, n, len(test))
        file["test"] = test
        file["neighbors"] = _cast(neighbors, np.dtype(neighbors_dtype), "neighbors")
        file["distances"] = _cast(distances, np.dtype(distances_dtype), "distances")
        dimension = test.shape[1]
        file.attrs.update(type="dense", distance=distance, dimension=dimension, point_type=point_type)
    return path


def _cast(array: NDArray[Any], dtype: np.dtype[Any], what: str) -> NDArray[Any]:
    """Return an array in another type; raises DatasetError for values that become infinite or change as integers."""
    with np.errstate(over="ignore", invalid="ignore"):
        out = array.astype(dtype)
    bad = ~np.isfinite(out) if dtype.kind == "f" else out != array
    if bad.any():
        first = tuple(int(x) for x in np.argwhere(bad)[0])
        raise DatasetError(f"{what}{list(first)} is {array[first]}; expected a finite value that {dtype} can hold")
    return out


def _write_train(
    file: Any, train: NDArray[Any] | VectorSource | Iterable[NDArray[Any]], dim: int, dtype: np.dtype[Any]
) -> int:
    """Write the train rows chunk by chunk and return their number."""
    if isinstance(train, np.ndarray) and train.ndim != 2:
        raise DatasetError(f"train has shape {train.shape}; expected (n, {dim})")
    if isinstance(train, (VectorSource, np.ndarray)):
        rows = file.create_dataset("train", (train.shape[0], dim), dtype)
        blocks: Iterable[NDArray[Any]] = train.chunks() if isinstance(train, VectorSource) else [train]
    else:
        # Chunks of about 1 MiB: large enough for fast scans, small enough for the default chunk cache.
        step = max(1, (1 << 20) // (dim * dtype.itemsize))
        rows = file.create_dataset("train", (0, dim), dtype, maxshape=(None, dim), chunks=(step, dim))
        blocks = train
    done = 0
    for block in blocks:
        if block.ndim != 2 or block.shape[1] != dim:
            raise DatasetError(f"train rows have shape {block.shape}; expected (m, {dim}), the dimension of test")
        if done + len(block) > len(rows):
            rows.resize(done + len(block), axis=0)
        rows[done : done + len(block)] = _cast(block, dtype, "train")
        done += len(block)
    return done
