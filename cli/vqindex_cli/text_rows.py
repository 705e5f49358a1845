"""Rows of a file of texts: JSON lines, CSV or Parquet, read in batches as the arguments of `Documents.add`."""

from __future__ import annotations

import csv
import importlib
import json
import math
from collections.abc import Callable, Iterator
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import click

from vqindex_datasets.files import check_file

__all__ = ["Columns", "TextRows", "read_rows"]

_KINDS = "a file of texts (.jsonl, .csv or .parquet)"
_LONGEST_CELL = 2**31 - 1  # of CSV; the module's own limit is less than a vector of 8,000 numbers needs


class Columns(NamedTuple):
    """Which columns of a file hold what.

    Attributes
    ----------
    text, vector, id : str
        Columns of the texts, the vectors and the ids; a file may lack the last two.
    metadata : tuple of str, or None
        Columns of the metadata; None for all others.
    """

    text: str
    vector: str
    id: str
    metadata: tuple[str, ...] | None


class TextRows(NamedTuple):
    """Some rows of a file.

    Attributes
    ----------
    texts, vectors, ids : list
        A value for each row; None where a row has none.
    metadata : list of dict
        Metadata of each row.
    """

    texts: list[str | None]
    vectors: list[list[float] | None]
    ids: list[str | None]
    metadata: list[dict[str, Any]]


_Rows = Iterator[tuple[str, dict[str, Any]]]  # what messages call a row, and its columns


def read_rows(path: Path, columns: Columns, batch: int) -> Iterator[TextRows]:
    """Yield the rows of a file, at most `batch` at a time.

    Raises
    ------
    click.ClickException
        If the file is of another kind or damaged, a row holds values of other types, or a column is missing.
    """
    readers: dict[str, Callable[[Path, Columns], _Rows]] = {
        ".jsonl": _json_rows, ".ndjson": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows,
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    check_file(path, _KINDS)
    if reader is None:
        raise click.ClickException(f"{path}: the name ends in {path.suffix!r}; expected {_KINDS}")
    rows = reader(path, columns)
    while found := list(islice(rows, batch)):
        parsed = [_parsed(where, row, columns) for where, row in found]
        yield TextRows(*map(list, zip(*parsed, strict=True)))


def _parsed(where: str, row: dict[str, Any], columns: Columns) -> tuple[Any, ...]:
    text, vector, id_ = (row.get(name) for name in columns[:3])
    if text is None and vector is None:
        raise click.ClickException(
            f"{where} has neither {columns.text!r} nor {columns.vector!r}; name the columns with --text and --vector"
        )
    if text is not None and not isinstance(text, str):
        raise click.ClickException(f"{where}: {columns.text!r} is {_short(text)}; expected a string")
    if vector is not None:
        _check_vector(where, vector, columns.vector)
    if id_ is not None and not isinstance(id_, str | int):
        raise click.ClickException(f"{where}: {columns.id!r} is {_short(id_)}; expected a string or an integer")
    if columns.metadata is None:
        metadata = {name: value for name, value in row.items() if name not in columns[:3]}
    else:
        metadata = {name: row[name] for name in columns.metadata if name in row}
    return text, vector, None if id_ is None else str(id_), metadata


def _check_vector(where: str, vector: Any, name: str) -> None:
    if not isinstance(vector, list) or not vector:
        raise click.ClickException(f"{where}: {name!r} is {_short(vector)}; expected a list of numbers")
    for value in vector:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise click.ClickException(f"{where}: {name!r} holds {_short(value)}; expected numbers")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _json_rows(path: Path, columns: Columns) -> _Rows:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:  # also of wrong UTF-8
                raise click.ClickException(f"{where}: not JSON ({error})") from None
            if not isinstance(row, dict):
                raise click.ClickException(f"{where}: {_short(row)}; expected a JSON object")
            yield where, row


def _csv_rows(path: Path, columns: Columns) -> _Rows:
    """Yield rows of CSV. Metadata that read as numbers, true or false in JSON are these; empty cells are left out."""
    csv.field_size_limit(_LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row or None in row.values():
                    raise click.ClickException(f"{where} has another number of columns than the first line")
                yield where, {name: _cell(name, text, columns) for name, text in row.items() if text != ""}
        except (csv.Error, UnicodeDecodeError) as error:
            number = reader.reader.line_num  # its own is that of the last whole row
            raise click.ClickException(f"{path}, line {number}: not CSV in UTF-8 ({error})") from None


def _cell(name: str, text: str, columns: Columns) -> Any:
    if name in (columns.text, columns.id):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if name == columns.vector:
        return value
    return value if isinstance(value, bool) or (isinstance(value, int | float) and math.isfinite(value)) else text


def _parquet_rows(path: Path, columns: Columns) -> _Rows:
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise click.ClickException(
            f"{path}: .parquet needs pyarrow, which is not installed: pip install 'vqindex[parquet]'"
        ) from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=4096):
                for row in batch.to_pylist():
                    yield (
                        f"{path}, row {number}",
                        {name: _json_value(value) for name, value in row.items() if value is not None},
                    )
                    number += 1
    except (arrow.ArrowException, OSError) as error:
        raise click.ClickException(f"{path}: not a readable parquet file ({error})") from None


def _json_value(value: Any) -> Any:
    """Return dates as their ISO strings; JSON has no others."""
    if isinstance(value, dict):
        return {name: _json_value(inner) for name, inner in value.items()}
    if isinstance(value, list) and not all(isinstance(each, float | int) for each in value):
        return [_json_value(inner) for inner in value]
    return value.isoformat() if isinstance(value, date | datetime) else value
