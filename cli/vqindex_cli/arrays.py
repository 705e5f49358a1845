"""Arrays that commands read whole: ids, and centers."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import vqindex
from vqindex.arrays import as_ids
from vqindex.rows.ids import IdMap
from vqindex_datasets import read_column
from vqindex_datasets.files import check_file
from vqindex_datasets.readers import COLUMN_EXTENSIONS, HEADER_ERRORS

__all__ = ["ids_file", "read_array", "read_ids"]

_IDS = "integers or strings"


def read_ids(path: Path | None, column: str | None, count: int | None = None) -> NDArray[Any] | None:
    """Read ids, int64 or str, and check them; with `count`, also their number and that they differ.

    Parameters
    ----------
    path : Path, optional
        A .npy file, or with `column` a file with columns.
    column : str, optional
        The column of `path`.
    count : int, optional
        The number of vectors.
    """
    if path is None:
        return None
    try:
        ids = read_array(path, _IDS) if column is None else read_column(path, column)
        if ids.dtype.kind != "U":
            return as_ids(ids, count)
        IdMap().parse_ids(ids, count)
        return ids
    except vqindex.InvalidInputError as error:
        name = path if column is None else f"{path}[{column}]"
        raise click.ClickException(f"{name}: {error}") from None


def ids_file(ids: Path | None, column: str | None, data: Path | None) -> Path | None:
    """Return the file of --ids and --ids-column: a column is one of DATA unless --ids names another file."""
    if ids is None:
        return None if column is None else data
    if column is None and data is not None and not ids.exists() and _has_column(data, str(ids)):
        raise click.ClickException(
            f"{ids}: no such file; for the column {str(ids)!r} of {data} give --ids-column {ids}"
        )
    return ids


def _has_column(data: Path, name: str) -> bool:
    try:
        read_column(data, name)
    except ValueError:
        return False
    return True


def read_array(path: Path, what: str) -> NDArray[Any]:
    """Read the array of a .npy file."""
    check_file(path, f"a .npy file of {what}")
    if path.suffix.lower() in COLUMN_EXTENSIONS and what == _IDS:
        raise click.ClickException(f"{path}: not a .npy file; give --ids-column NAME for a column of it")
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except (*HEADER_ERRORS, zipfile.BadZipFile) as error:
        raise click.ClickException(f"{path}: not a .npy file of {what} ({error})") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise click.ClickException(f"{path}: a .npz archive; expected a .npy file of {what}")
    return array
