"""FROZEN: how rows lie in memory and in files. DO NOT CHANGE: files depend on every bit (tests/golden/planes.json).

A code row (packing.py) consists of b-bit fields, one per coordinate. If the code has sign bits, a row is stored as
two arrays:

Sign bits. The highest bit of a coordinate's field is the sign of the rotated coordinate. Byte j of a row holds the
    signs of coordinates 8j .. 8j + 7, the lowest bit first. 64 rows form a block, whose order is [byte j][row]: one
    load reads eight coordinates of 64 rows. The shape is (ceil(n / 64), ceil(d / 8), 64) bytes. The unused rows of the
    last block are zero.
Codes. The other b - 1 bits of every field, packed as in packing.py: (n, ceil(m (b - 1) / 8)) bytes. m is d, except for
    a trellis (trellis.py). A trellis has warm-up fields before the first coordinate's field; they have no sign, and
    their highest bits are 0.

Codes without sign bits (the trellis of one bit, and codes with a sketch of their own) are stored as packed rows.

Rows may be stored as records beside the same sign bits instead (records.py).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..spec import IndexSpec
from .encoded import Encoded
from .packing import pack, unpack

__all__ = [
    "BLOCK_ROWS",
    "CACHE_LINE",
    "StoredRows",
    "aligned_zeros",
    "empty_sign_bits",
    "has_whole_codes",
    "join",
    "join_codes",
    "join_rows",
    "put_rows",
    "put_scalars",
    "split",
    "split_codes",
]

BLOCK_ROWS = 64
CACHE_LINE = 64  # bytes

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]


class StoredRows(NamedTuple):
    """Rows of an index as they are stored and searched.

    Attributes
    ----------
    signs : ndarray of uint8, shape (ceil(n / 64), ceil(d / 8), 64), or None
        Sign bits.
    codes : ndarray of uint8, shape (n, spec.row_bytes) or (n, spec.code_bytes)
        The other bits, or the whole rows (`has_whole_codes`).
    rescale : ndarray of float32, shape (n,)
        As in `Encoded`.
    norm : ndarray of float32, shape (n,), or None
        As in `Encoded`.
    records : ndarray of uint8, shape (n, size), or None
        Rows as records (``records.py``); codes and scalars are then views of them.
    """

    signs: U8 | None
    codes: U8
    rescale: F32
    norm: F32 | None
    records: U8 | None = None

    @property
    def rows(self) -> int:
        """Number of rows n (len() of a tuple is its number of fields)."""
        return len(self.codes)

    @property
    def row_arrays(self) -> tuple[NDArray[Any] | None, ...]:
        """The arrays with an entry for each row, no byte in two of them."""
        return (self.codes, self.rescale, self.norm) if self.records is None else (self.records,)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in (self.signs, *self.row_arrays) if array is not None)

    def first(self, count: int) -> StoredRows:
        """Return the first rows, as views."""
        return self.slice_rows(0, count)

    def slice_rows(self, start: int, stop: int) -> StoredRows:
        """Return rows `start`, a multiple of 64, to before `stop`, as views."""
        if start == 0 and stop == self.rows:
            return self
        signs = None if self.signs is None else self.signs[start // BLOCK_ROWS : -(-stop // BLOCK_ROWS)]
        norm = None if self.norm is None else self.norm[start:stop]
        records = None if self.records is None else self.records[start:stop]
        return StoredRows(signs, self.codes[start:stop], self.rescale[start:stop], norm, records)

    def sign_parts(self) -> list[U8]:
        """Return the sign bits in one part or two, with zeros in the unused columns of the last block.

        In the block itself these columns may belong to rows that are being added. So the last part is a copy.
        """
        if self.signs is None:
            return []
        full, used = divmod(self.rows, BLOCK_ROWS)
        if not used:
            return [self.signs]
        last = self.signs[full:].copy()
        last[:, :, used:] = 0
        return [self.signs[:full], last]


def aligned_zeros(shape: tuple[int, ...]) -> U8:
    """Return zero bytes that begin at a cache line."""
    size = math.prod(shape)
    buffer = np.zeros(size + CACHE_LINE, np.uint8)
    start = -buffer.ctypes.data % CACHE_LINE
    return buffer[start : start + size].reshape(shape)


def empty_sign_bits(spec: IndexSpec, rows: int) -> U8:
    """Return zero sign bits for `rows` rows; every line of 64 bytes is aligned to a cache line."""
    return aligned_zeros((-(-rows // BLOCK_ROWS), spec.sign_bytes, BLOCK_ROWS))


def has_whole_codes(spec: IndexSpec, stored: StoredRows) -> bool:
    """Whether `stored.codes` are whole code rows: those of codes without sign bits, and of scalar codes in records."""
    return stored.signs is None or (stored.records is not None and spec.codec != "trellis")


def split_codes(spec: IndexSpec, codes: U8) -> tuple[U8, U8]:
    """Return the sign bits (n, ceil(d / 8)) and the other bits (n, spec.row_bytes) of code rows with sign bits."""
    fields = unpack(codes, spec.fields, spec.bits)
    sign_rows = np.packbits(fields[:, spec.warmup_fields :] >> (spec.bits - 1), axis=1, bitorder="little")
    lower_bits = np.zeros((len(codes), 0), np.uint8)
    if spec.bits > 1:
        lower_bits = pack(fields & np.uint8(2 ** (spec.bits - 1) - 1), spec.bits - 1)
    return sign_rows, lower_bits


def join_codes(spec: IndexSpec, sign_rows: U8, lower_bits: U8) -> U8:
    """Undo `split_codes`."""
    fields = np.zeros((len(sign_rows), spec.fields), np.uint8)
    fields[:, spec.warmup_fields :] = np.unpackbits(sign_rows, axis=1, count=spec.dim, bitorder="little") << np.uint8(
        spec.bits - 1
    )
    if spec.bits > 1:
        fields |= unpack(lower_bits, spec.fields, spec.bits - 1)
    return pack(fields, spec.bits)


def split(spec: IndexSpec, rows: Encoded) -> StoredRows:
    """Convert code rows to the stored layout."""
    if not spec.has_sign_bits:
        return StoredRows(None, rows.codes, rows.rescale, rows.norm)
    sign_rows, lower_bits = split_codes(spec, rows.codes)
    whole = np.zeros((-(-rows.rows // BLOCK_ROWS) * BLOCK_ROWS, spec.sign_bytes), np.uint8)
    whole[: rows.rows] = sign_rows
    blocks = np.ascontiguousarray(whole.reshape(-1, BLOCK_ROWS, spec.sign_bytes).transpose(0, 2, 1))
    return StoredRows(blocks, lower_bits, rows.rescale, rows.norm)


def put_rows(spec: IndexSpec, rows: Encoded, into: StoredRows, start: int) -> None:
    """Write code rows into preallocated stored rows, from row `start` on."""
    at, codes = slice(start, start + rows.rows), rows.codes
    if into.signs is not None:
        sign_rows, lower_bits = split_codes(spec, codes)
        targets = np.arange(at.start, at.stop)
        into.signs[targets // BLOCK_ROWS, :, targets % BLOCK_ROWS] = sign_rows
        if not has_whole_codes(spec, into):
            codes = lower_bits
            if into.records is not None:
                into.records[at, : spec.sign_bytes] = sign_rows
    into.codes[at] = codes
    put_scalars(rows, into, start)


def put_scalars(rows: Encoded, into: StoredRows, start: int) -> None:
    """Write the scalars of code rows into stored rows, from row `start` on."""
    into.rescale[start : start + rows.rows] = rows.rescale
    if into.norm is not None and rows.norm is not None:
        into.norm[start : start + rows.rows] = rows.norm


def join_rows(spec: IndexSpec, stored: StoredRows, at: slice | NDArray[np.int64]) -> Encoded:
    """Return some stored rows as code rows."""
    norm = None if stored.norm is None else stored.norm[at]
    codes = np.ascontiguousarray(stored.codes[at])
    if stored.signs is not None and not has_whole_codes(spec, stored):
        rows = np.arange(stored.rows)[at] if isinstance(at, slice) else at
        codes = join_codes(spec, stored.signs[rows // BLOCK_ROWS, :, rows % BLOCK_ROWS], codes)
    return Encoded(codes, stored.rescale[at], norm)


def join(spec: IndexSpec, stored: StoredRows) -> Encoded:
    """Undo `split`."""
    return join_rows(spec, stored, slice(None))
