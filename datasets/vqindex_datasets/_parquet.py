"""The .parquet reader; it imports pyarrow when a file is opened."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DatasetError
from .sources import VectorSource

__all__ = ["ParquetSource"]


# Arrow's names of float types that differ from NumPy's; pyarrow's own conversion needs pandas in some versions.
_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}


class ParquetSource(VectorSource):
    """A column of lists of numbers of equal length, read by row groups.

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
        try:
            self._arrow: Any = importlib.import_module("pyarrow")
            parquet: Any = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise DatasetError(
                f"{path}: .parquet needs pyarrow, which is not installed: pip install 'vqindex[parquet]'"
            ) from error
        try:
            self._file: Any = parquet.ParquetFile(path)
        except (self._arrow.ArrowException, OSError) as error:
            raise DatasetError(f"{path}: cannot be opened ({error}); expected a parquet file") from error
        try:
            self._column = self._pick(path, column)
            kind = self._file.schema_arrow.field(self._column).type
            name = f"{path}[{self._column}]"
            super().__init__(name, (self._file.metadata.num_rows, self._dimension(kind, name)), _dtype(kind))
        except BaseException:
            self._file.close()
            raise
        groups = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(groups, dtype=np.int64)])

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
        for batch in self._file.iter_batches(batch_size=1, columns=[self._column]):
            if batch.column(0).null_count:
                break
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
        if start == stop:
            return np.empty((0, self.shape[1]), self.dtype)
        first = int(np.searchsorted(self._starts, start, "right")) - 1
        last = int(np.searchsorted(self._starts, stop, "left"))
        arrays = []
        for group in range(first, last):
            table = self._decode(lambda group=group: self._file.read_row_group(group, columns=[self._column]))
            begin = int(self._starts[group])
            low, high = max(start - begin, 0), min(stop - begin, table.num_rows)
            for chunk in table.column(0).slice(low, high - low).chunks:
                arrays.append(self._to_numpy(chunk, begin + low))
                low += len(chunk)
        return np.concatenate(arrays)

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
        self._file.close()


def _dtype(kind: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(_FLOATS.get(str(kind.value_type), str(kind.value_type)))
    return dtype
