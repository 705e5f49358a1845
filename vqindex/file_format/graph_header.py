"""What the header of a file says of its graph: the constants of its links, and the curve that was measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..codes.graph import BATCH, LinkRule
from ..errors import FileFormatError
from ..rows.graph import MAX_SLOTS, Curve

__all__ = ["check_sizes", "curve_of", "has_many_entries", "header_of", "rule_of"]

_MOST = 2**31 - 1


def header_of(rule: LinkRule, linked: int, curve: Curve | None, many_entries: bool) -> dict[str, Any]:
    """Return the entry of a graph of so many linked rows, in JSON types."""
    entry: dict[str, Any] = {"linked": linked, "batch": BATCH, **rule._asdict()}
    if many_entries:
        entry["many_entries"] = True
    if curve is not None:
        entry["curve"] = {
            name: list(value) if isinstance(value, tuple) else value for name, value in curve._asdict().items()
        }
    return entry


def _integer(path: object, entry: dict[str, Any], name: str, low: int, high: int) -> int:
    value = entry.get(name)
    if type(value) is not int or not low <= value <= high:
        raise FileFormatError(f"{path}: {name} of its graph is {value!r}; expected an integer from {low} to {high}")
    return value


def check_sizes(path: object, entry: dict[str, Any], rows: int) -> None:
    """Refuse an entry whose links can't be those of a file of `rows` rows."""
    _integer(path, entry, "slots", 2, MAX_SLOTS)
    _integer(path, entry, "linked", 0, rows)


def rule_of(path: object, entry: dict[str, Any]) -> LinkRule:
    """Return the constants of an entry.

    Raises
    ------
    FileFormatError
        If they are missing or out of range.
    """
    slots = _integer(path, entry, "slots", 2, MAX_SLOTS)
    _integer(path, entry, "batch", BATCH, BATCH)
    kept, children = _integer(path, entry, "kept", 1, slots), _integer(path, entry, "children", 1, slots - 1)
    alpha = entry.get("alpha")
    if type(alpha) is not float or not 1 <= alpha <= 100 or float(np.float32(alpha)) != alpha:
        raise FileFormatError(f"{path}: alpha of its graph is {alpha!r}; expected a float32 number from 1 to 100")
    return LinkRule(slots, kept, alpha, _integer(path, entry, "effort", 1, _MOST), children)


def has_many_entries(path: object, entry: dict[str, Any]) -> bool:
    """Return whether walks start from many entries.

    Raises
    ------
    FileFormatError
        If the entry says neither.
    """
    many = entry.get("many_entries", False)
    if type(many) is not bool:
        raise FileFormatError(f"{path}: many_entries of its graph is {many!r}; expected true or false")
    return many


def curve_of(path: object, entry: dict[str, Any]) -> Curve | None:
    """Return the curve of an entry; None if there is none.

    Raises
    ------
    FileFormatError
        If it is no curve.
    """
    curve = entry.get("curve")
    if curve is None:
        return None
    if not isinstance(curve, dict) or set(curve) != set(Curve._fields):
        raise FileFormatError(f"{path}: the curve of its graph is {curve!r}; expected {', '.join(Curve._fields)}")
    _integer(path, curve, "k", 1, _MOST)
    _integer(path, curve, "queries", 0, _MOST)
    efforts = curve["efforts"]
    lists = [curve[name] for name in ("scored", "agreement", "error")]
    lists += [values for values in (curve["exact_agreement"], curve["exact_error"]) if values is not None]
    is_list = isinstance(efforts, list) and all(isinstance(v, list) and len(v) == len(efforts) for v in lists)
    if not is_list or not efforts or len(lists) == 4:
        raise FileFormatError(f"{path}: the curve of its graph has lists of different lengths")
    numbers = [value for values in lists for value in values]
    is_ascending = all(type(effort) is int and effort > 0 for effort in efforts) and sorted(set(efforts)) == efforts
    if not is_ascending or not all(type(number) is float and math.isfinite(number) for number in numbers):
        raise FileFormatError(f"{path}: the curve of its graph is no curve: {curve!r}")
    values: Any = (curve[name] for name in Curve._fields)
    return Curve._make(tuple(value) if isinstance(value, list) else value for value in values)
