"""Sets of rows as bits, the form that scans take: bit r % 64 of uint64 word r // 64 stands for row r.

Sign bits are stored in blocks of 64 rows (``bitplanes.py``); a word selects the rows of one block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "WORD",
    "bits_of",
    "count",
    "from_bytes",
    "full",
    "of_rows",
    "rows_of",
    "slice_rows",
    "words_of",
]

WORD = 64

U64 = NDArray[np.uint64]


def words_of(bits: NDArray[np.bool_]) -> U64:
    """Pack bits of shape (..., n) into words (..., ceil(n / 64)); unused bits of the last word are zero."""
    return from_bytes(np.packbits(bits, axis=-1, bitorder="little"))


def from_bytes(packed: NDArray[np.uint8]) -> U64:
    """Return bytes of shape (..., m) as words (..., ceil(m / 8)); unused bits of the last word are zero."""
    padded = np.zeros((*packed.shape[:-1], -(-packed.shape[-1] // 8) * 8), np.uint8)
    padded[..., : packed.shape[-1]] = packed
    return padded.view("<u8").astype(np.uint64, copy=False)


def bits_of(words: U64, n: int) -> NDArray[np.bool_]:
    """Undo `words_of`: return the first n bits of words (..., m), shape (..., n)."""
    as_bytes = np.ascontiguousarray(words, "<u8").view(np.uint8)
    return np.unpackbits(as_bytes, axis=-1, count=n, bitorder="little").view(np.bool_)


def full(n: int) -> U64:
    """Return words with the first n bits set."""
    words = np.full(-(-n // WORD), ~np.uint64(0), np.uint64)
    if n % WORD:
        words[-1] = np.uint64(2 ** (n % WORD) - 1)
    return words


def of_rows(rows: NDArray[np.int64], n: int) -> U64:
    """Return words of n bits with the bits of some rows set."""
    if 32 * rows.size > n:
        bits = np.zeros(n, np.bool_)
        bits[rows] = True
        return words_of(bits)
    words = np.zeros(-(-n // WORD), np.uint64)
    np.bitwise_or.at(words, rows // WORD, np.uint64(1) << (rows % WORD).astype(np.uint64))
    return words


def slice_rows(words: U64, start: int, stop: int) -> U64:
    """Return words (..., m) of rows [start, stop); unused bits of the last word are undefined."""
    first, shift = divmod(start, WORD)
    size = -(-(stop - start) // WORD)
    if shift == 0:
        return words[..., first : first + size]
    out = words[..., first : first + size] >> np.uint64(shift)
    upper = words[..., first + 1 : first + 1 + size] << np.uint64(WORD - shift)
    out[..., : upper.shape[-1]] |= upper
    return out


def rows_of(words: U64, n: int) -> NDArray[np.int64]:
    """Return the rows below n whose bits are set, ascending."""
    return np.flatnonzero(bits_of(words, n))


def count(words: U64) -> int:
    """Return the number of bits that are set."""
    if hasattr(np, "bitwise_count"):
        return int(np.bitwise_count(words).sum(dtype=np.int64))
    by_byte: Any = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)  # NumPy 1
    return int(by_byte[np.ascontiguousarray(words).view(np.uint8)].sum(dtype=np.int64))
