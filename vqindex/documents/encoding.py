"""The values of SQLite rows: every string and every JSON value comes back as it was written.

SQLite stores text as UTF-8, which has no lone surrogates. A string with one is stored as a blob instead, in UTF-8 with
surrogates. Blobs and texts are never equal, and no string is both, so comparisons and unique indexes stay right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from ..errors import InvalidInputError

__all__ = ["decode_json", "decode_text", "digest_of", "digest_of_vector", "encode_json", "encode_text"]

_SURROGATES = "surrogatepass"
_PLAIN = (str, int, float, bool, type(None))
_DEEPEST = 100  # mappings and lists inside each other; Python reads some hundred wherever its stack may be


def encode_text(text: str) -> str | bytes:
    """Return a string as SQLite stores it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", _SURROGATES)
    return text


def decode_text(value: Any) -> Any:
    """Undo `encode_text`; None stays."""
    return value.decode("utf-8", _SURROGATES) if isinstance(value, bytes) else value


def encode_json(value: Any, name: str, deepest: int = _DEEPEST) -> str:
    """Return a mapping as ASCII JSON. NaN and infinities are written as Python does.

    Parameters
    ----------
    value : mapping
        Keys are strings, also in nested mappings.
    name : str
        What messages call it.
    deepest : int
        Most mappings and lists inside each other.

    Raises
    ------
    InvalidInputError
        If it is no mapping or too deep, if a key is no string, or if a value is of another type than those of JSON.
    """
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{name} is {value!r}; expected a mapping")
    try:
        _check_keys(value, name, deepest, deepest)
        return json.dumps(value if isinstance(value, dict) else dict(value))
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"{name} is {value!r}; expected values in JSON types ({error})") from None


def _check_keys(value: Any, name: str, room: int, deepest: int) -> None:
    """Check the keys of a value and of those in it, which may be `room` deep."""
    is_mapping = isinstance(value, Mapping)
    if not is_mapping and not isinstance(value, list | tuple):
        return
    if room == 0:
        raise InvalidInputError(f"{name} has values inside more than {deepest} others; expected at most {deepest}")
    if is_mapping:
        for key in value:
            if not isinstance(key, str):
                raise InvalidInputError(f"{name} has the key {key!r}; expected strings")
    for each in value.values() if is_mapping else value:
        if not isinstance(each, _PLAIN):
            _check_keys(each, name, room - 1, deepest)


def decode_json(text: str) -> dict[str, Any]:
    """Undo `encode_json`."""
    found: dict[str, Any] = json.loads(text)
    return found


def digest_of_vector(row: int, vector: bytes | None) -> int:
    """Return 50 bits that tell a row of ``pending`` from any other content; few enough to add thousands of them."""
    head = f"{row} {'-' if vector is None else 'v'}".encode()
    return int.from_bytes(blake2b(head + (vector or b""), digest_size=8).digest(), "big") >> 14


def digest_of(row: int, namespace: int, embedded: bool, *columns: Any) -> int:
    """Return 62 bits that tell a row of ``docs`` from any other content: of id, text, metadata and more as stored."""
    parts = [
        b"-" if value is None else b"b" + value if isinstance(value, bytes) else b"t" + value.encode()
        for value in columns
    ]
    head = f"{row} {namespace} {embedded:d} {[len(part) for part in parts]}".encode()
    return int.from_bytes(blake2b(head + b"".join(parts), digest_size=8).digest(), "big") >> 2
