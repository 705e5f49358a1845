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
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..spec import IndexSpec
from .encoded import Encoded
from .packing import pack, unpack

__all__ = ["BLOCK_ROWS", "StoredRows", "empty_sign_bits", "join", "join_rows", "put_rows", "put_scalars", "split"]

BLOCK_ROWS = 64

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]


class StoredRows(NamedTuple):
    """Rows of an index as they are stored and searched.

    Attributes
    ----------
    signs : ndarray of uint8, shape (ceil(n / 64), ceil(d / 8), 64), or None
        Sign bits.
    codes : ndarray of uint8, shape (n, spec.row_bytes)
        The other bits, or the whole rows.
    rescale : ndarray of float32, shape (n,)
        As in `Encoded`.
    norm : ndarray of float32, shape (n,), or None
        As in `Encoded`.
    """

    signs: U8 | None
    codes: U8
    rescale: F32
    norm: F32 | None

    @property
    def rows(self) -> int:
        """Number of rows n (len() of a tuple is its number of fields)."""
        return len(self.codes)

    def first(self, count: int) -> StoredRows:
        """Return the first rows, as views."""
        if count == self.rows:
            return self
        signs = None if self.signs is None else self.signs[: -(-count // BLOCK_ROWS)]
        norm = None if self.norm is None else self.norm[:count]
        return StoredRows(signs, self.codes[:count], self.rescale[:count], norm)

    def after(self, row: int) -> StoredRows:
        """Return the rows from `row` on, a multiple of 64, as views."""
        signs = None if self.signs is None else self.signs[row // BLOCK_ROWS :]
        return StoredRows(signs, self.codes[row:], self.rescale[row:], None if self.norm is None else self.norm[row:])

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


def empty_sign_bits(spec: IndexSpec, rows: int) -> U8:
    """Return zero sign bits for `rows` rows; every line of 64 bytes is aligned to a cache line."""
    shape = (-(-rows // BLOCK_ROWS), spec.sign_bytes, BLOCK_ROWS)
    size = math.prod(shape)
    buffer = np.zeros(size + BLOCK_ROWS, np.uint8)
    start = -buffer.ctypes.data % BLOCK_ROWS
    return buffer[start : start + size].reshape(shape)


def split(spec: IndexSpec, rows: Encoded) -> StoredRows:
    """Convert code rows to the stored layout."""
    if not spec.has_sign_bits:
        return StoredRows(None, rows.codes, rows.rescale, rows.norm)
    fields = unpack(rows.codes, spec.fields, spec.bits)
    sign_rows = np.zeros((-(-rows.rows // BLOCK_ROWS) * BLOCK_ROWS, spec.sign_bytes), np.uint8)
    sign_rows[: rows.rows] = np.packbits(fields[:, spec.warmup_fields :] >> (spec.bits - 1), axis=1, bitorder="little")
    blocks = np.ascontiguousarray(sign_rows.reshape(-1, BLOCK_ROWS, spec.sign_bytes).transpose(0, 2, 1))
    lower_bits = np.zeros((rows.rows, 0), np.uint8)
    if spec.bits > 1:
        lower_bits = pack(fields & np.uint8(2 ** (spec.bits - 1) - 1), spec.bits - 1)
    return StoredRows(blocks, lower_bits, rows.rescale, rows.norm)


def put_rows(spec: IndexSpec, rows: Encoded, into: StoredRows, start: int) -> None:
    """Write code rows into preallocated stored rows, from row `start` on."""
    new = split(spec, rows)
    if into.signs is None or new.signs is None:
        into.codes[start : start + rows.rows] = new.codes
    else:
        targets = np.arange(start, start + rows.rows)
        sign_rows = new.signs.transpose(0, 2, 1).reshape(-1, spec.sign_bytes)[: rows.rows]
        into.signs[targets // BLOCK_ROWS, :, targets % BLOCK_ROWS] = sign_rows
        into.codes[start : start + rows.rows] = new.codes
    put_scalars(rows, into, start)


def put_scalars(rows: Encoded, into: StoredRows, start: int) -> None:
    """Write the scalars of code rows into stored rows, from row `start` on."""
    into.rescale[start : start + rows.rows] = rows.rescale
    if into.norm is not None and rows.norm is not None:
        into.norm[start : start + rows.rows] = rows.norm


def join_rows(spec: IndexSpec, stored: StoredRows, at: slice | NDArray[np.int64]) -> Encoded:
    """Return some stored rows as code rows."""
    norm = None if stored.norm is None else stored.norm[at]
    lower_bits = np.ascontiguousarray(stored.codes[at])
    if stored.signs is None:
        return Encoded(lower_bits, stored.rescale[at], norm)
    rows = np.arange(stored.rows)[at] if isinstance(at, slice) else at
    signs = stored.signs[rows // BLOCK_ROWS, :, rows % BLOCK_ROWS]
    fields = np.zeros((len(signs), spec.fields), np.uint8)
    fields[:, spec.warmup_fields :] = np.unpackbits(signs, axis=1, count=spec.dim, bitorder="little") << np.uint8(
        spec.bits - 1
    )
    if spec.bits > 1:
        fields |= unpack(lower_bits, spec.fields, spec.bits - 1)
    return Encoded(pack(fields, spec.bits), stored.rescale[at], norm)


def join(spec: IndexSpec, stored: StoredRows) -> Encoded:
    """Undo `split`."""
    return join_rows(spec, stored, slice(None))
