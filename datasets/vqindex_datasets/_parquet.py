"""The .parquet reader; it imports pyarrow when a file is opened."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DatasetError
from .files import reason
from .sources import VectorSource

__all__ = ["ParquetSource", "parquet_column"]


# Arrow's names of float types that differ from NumPy's; pyarrow's own conversion needs pandas in some versions.
_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}


_BATCH_ROWS = 65536
_BATCH_VALUES = 2**22  # of a batch of vectors
_Batches = Iterator[Any]


def _open(path: Path) -> tuple[Any, Any]:
    """Return the module pyarrow and the open file."""
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DatasetError(
            f"{path}: .parquet needs pyarrow, which is not installed: pip install 'vqindex[parquet]'"
        ) from error
    try:
        return arrow, parquet.ParquetFile(path)
    except (arrow.ArrowException, OSError) as error:
        why = reason(error) if isinstance(error, OSError) else None
        if why is None and _begins_like_parquet(path):
            why = f"truncated or damaged ({error}); expected a whole parquet file"
        raise DatasetError(f"{path}: {why or f'not a parquet file ({error}); expected one'}") from error


def _begins_like_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def parquet_column(path: Path, name: str) -> NDArray[Any]:
    """Read one column of integers or strings, batch by batch; a column of other values raises DatasetError."""
    arrow, file = _open(path)
    with file:
        fields = {field.name: field.type for field in file.schema_arrow}
        if name not in fields:
            raise DatasetError(f"{path}: no column {name!r}; expected one of {list(fields)}")
        kind, types = fields[name], arrow.types
        kind = kind.value_type if types.is_dictionary(kind) else kind
        is_text = any(str(kind) == text for text in ("string", "large_string", "string_view"))
        if not is_text and not types.is_integer(kind):
            raise DatasetError(f"{path}: column {name!r} holds {fields[name]}; expected integers or strings")
        parts: list[NDArray[Any]] = []
        first = 0
        try:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[name]):
                column = batch.column(0)
                if column.null_count:
                    row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
                    raise DatasetError(f"{path}: column {name!r} is null in row {row}; expected an id")
                parts.append(np.array(column.to_pylist(), str) if is_text else _integers(column))
                first += len(column)
        except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}[{name}]: damaged ({error}); expected a readable parquet file") from error
    return np.concatenate(parts) if parts else np.empty(0, str if is_text else np.int64)


def _integers(column: Any) -> NDArray[Any]:
    decoded = column.dictionary_decode() if hasattr(column, "dictionary_decode") else column
    out: NDArray[Any] = decoded.to_numpy(zero_copy_only=False)
    return out


class ParquetSource(VectorSource):
    """A column of lists of numbers of equal length, read in batches.

    Parameters
    ----------
    path : Path
        The file.
    column : str, optional
        The column to read; by default the only column of lists of numbers.

    Raises
    ------
    DatasetError
        If pyarrow is missing, the file is damaged, or the column is missing, ragged or holds nulls.
    """

    def __init__(self, path: Path, column: str | None) -> None:
        self._arrow, self._file = _open(path)
        try:
            self._column = self._pick(path, column)
            kind = self._file.schema_arrow.field(self._column).type
            self.name = name = f"{path}[{self._column}]"
            super().__init__(name, (self._file.metadata.num_rows, self._dimension(kind, name)), _dtype(kind))
        except BaseException:
            self._file.close()
            raise
        groups = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)])
        # Reads in order go on in the same batches, because a row group may be larger than memory.
        self._batches: _Batches | None = None
        self._batch: NDArray[Any] = np.empty((0, self.shape[1]), self.dtype)
        self._position = 0  # row of the file that `_batch` begins with

    def _pick(self, path: Path, column: str | None) -> str:
        fields = {field.name: field.type for field in self._file.schema_arrow}
        lists = [name for name, kind in fields.items() if self._is_vector(kind)]
        if column is None:
            if len(lists) != 1:
                raise DatasetError(f"{path}: list columns {lists}; expected one, or name it with dataset=")
            return str(lists[0])
        if column not in lists:
            found = fields.get(column, "missing")
            raise DatasetError(f"{path}: column {column!r} is {found}; expected a list of numbers, one of {lists}")
        return column

    def _is_vector(self, kind: Any) -> bool:
        types = self._arrow.types
        if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
            return False
        return bool(types.is_floating(kind.value_type) or types.is_integer(kind.value_type))

    def _dimension(self, kind: Any, name: str) -> int:
        """Return the length of the lists, from the type or, for lists of variable length, from the first row."""
        if self._arrow.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        batches = self._decode(lambda: iter(self._file.iter_batches(batch_size=1, columns=[self._column])))
        batch = self._decode(lambda: next(batches, None))
        if batch is not None and batch.num_rows and not batch.column(0).null_count:
            return len(batch.column(0)[0])
        raise DatasetError(f"{name}: the first row has no vector; expected one, to know the dimension")

    def chunks(self, rows: int = 65536) -> Iterator[NDArray[Any]]:
        """Yield all rows in order, at most `rows` at a time; each row group is decoded once."""
        if rows < 1:
            raise DatasetError(f"{self.name}: chunks of {rows} rows asked for; expected at least 1")
        self._check_open()
        first = 0
        batches = self._file.iter_batches(batch_size=rows, columns=[self._column])
        while (batch := self._decode(lambda: next(batches, None))) is not None:
            yield self._to_numpy(batch.column(0), first)
            first += batch.num_rows

    def _rows(self, start: int, stop: int) -> NDArray[Any]:
        out = np.empty((stop - start, self.shape[1]), self.dtype)
        if start == stop:
            return out
        if self._batches is None or not self._position <= start:
            self._seek(start)
        elif (group := self._group_of(start)) > self._group_of(self._position + len(self._batch)):
            self._seek(int(self._starts[group]))
        done = start
        while done < stop:
            end = self._position + len(self._batch)
            if done < end:
                rows = self._batch[done - self._position : stop - self._position]
                out[done - start : done - start + len(rows)] = rows
                done += len(rows)
            else:
                self._position, self._batch = end, self._next_batch(end)
        return out

    def _group_of(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, "right")) - 1

    def _seek(self, row: int) -> None:
        """Begin anew with the row group that holds a row."""
        group = self._group_of(row)
        groups = list(range(group, self._file.num_row_groups))
        self._batches = iter(
            self._file.iter_batches(batch_size=self._batch_rows, row_groups=groups, columns=[self._column])
        )
        self._batch, self._position = self._batch[:0], int(self._starts[group])

    def _next_batch(self, first: int) -> NDArray[Any]:
        batches, self._batches = self._batches or iter(()), None  # an error ends the batches
        batch = self._decode(lambda: next(batches, None))
        if batch is None:
            raise DatasetError(f"{self.name}: ends before row {first}; expected {self.shape[0]} rows")
        rows = self._to_numpy(batch.column(0), first)
        self._batches = batches
        return rows

    @property
    def _batch_rows(self) -> int:
        return max(1, min(_BATCH_ROWS, _BATCH_VALUES // self.shape[1]))

    def _decode(self, action: Any) -> Any:
        try:
            return action()
        except (self._arrow.ArrowException, OSError) as error:
            raise DatasetError(f"{self.name}: damaged ({error}); expected a readable parquet file") from error

    def _to_numpy(self, column: Any, first: int) -> NDArray[Any]:
        """Return an arrow list array as an array of shape (m, d)."""
        if column.null_count:
            row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise DatasetError(f"{self.name}: row {row} is null; expected {self.shape[1]} numbers")
        lengths = np.asarray(column.value_lengths()) if hasattr(column, "value_lengths") else None
        if lengths is not None and (lengths != self.shape[1]).any():
            row = int(np.flatnonzero(lengths != self.shape[1])[0])
            raise DatasetError(f"{self.name}: row {first + row} has {lengths[row]} numbers; expected {self.shape[1]}")
        values = column.flatten()
        if values.null_count:
            at = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
            raise DatasetError(f"{self.name}: row {first + at // self.shape[1]} holds a null; expected numbers")
        return np.array(values.to_numpy(zero_copy_only=False), self.dtype).reshape(len(column), self.shape[1])

    def _release(self) -> None:
        self._batches = None
        self._file.close()


def _dtype(kind: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(_FLOATS.get(str(kind.value_type), str(kind.value_type)))
    return dtype
