"""The records of a DocStore, and conditions that SQLite checks before Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Narrow", "Record"]


@dataclass
class Record:
    """One document.

    Attributes
    ----------
    id : str
        Id of the document.
    text : str or None
        Text of the document.
    metadata, more : dict
        Values in JSON types: the fields that filters read, and other values that the framework stores.
    embedding : ndarray of float32, shape (dim,), or None
        Vector of the document. Records that are read have one only if the store keeps embeddings.
    """

    id: str
    text: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    embedding: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Narrow:
    """The condition that the value at a path in a JSON column is one of `values`."""

    column: str
    path: tuple[str, ...]
    values: tuple[Any, ...]

    def sql(self) -> tuple[str, list[Any]] | None:
        """Return an SQL condition and its parameters; None if SQLite might compare the values otherwise than Python."""
        if self.column not in ("metadata", "more") or any('"' in name for name in self.path):
            return None
        if not self.values or not all(map(_comparable, self.values)):
            return None
        json_path = "$" + "".join(f'."{name}"' for name in self.path)
        marks = ", ".join("?" * len(self.values))
        return f"json_extract({self.column}, ?) IN ({marks})", [json_path, *self.values]


def _comparable(value: Any) -> bool:
    """Whether SQLite compares a value as Python does; it may round the last digit of floats otherwise."""
    if isinstance(value, str):
        return "\0" not in value
    return isinstance(value, int) and abs(value) < 2**53
