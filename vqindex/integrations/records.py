"""What goes in and out of a DocStore: records, and conditions that SQLite checks before Python does."""

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
        Its name.
    text : str or None
        Its text.
    metadata, more : dict
        JSON-able values: what filters look at, and whatever else the framework wants back.
    embedding : ndarray of float32, shape (dim,), or None
        Its vector. Records that come back have one only in stores that keep them.
    """

    id: str
    text: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    embedding: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Narrow:
    """Leaves out documents whose value at a path in a JSON column is none of `values`."""

    column: str
    path: tuple[str, ...]
    values: tuple[Any, ...]

    def sql(self) -> tuple[str, list[Any]] | None:
        """Return a condition and its parameters; None where SQLite might not see what Python does."""
        if self.column not in ("metadata", "more") or any('"' in part for part in self.path):
            return None
        if not self.values or not all(map(_comparable, self.values)):
            return None
        place = "$" + "".join(f'."{part}"' for part in self.path)
        marks = ", ".join("?" * len(self.values))
        return f"json_extract({self.column}, ?) IN ({marks})", [place, *self.values]


def _comparable(value: Any) -> bool:
    """Whether SQLite compares a value as Python does: not fractions, whose last digit it may read otherwise."""
    if isinstance(value, str):
        return "\0" not in value
    return isinstance(value, int) and abs(value) < 2**53
