"""FROZEN: rows as records. DO NOT CHANGE: files depend on every bit (tests/golden/records.json).

A search by a graph scores rows in no order. So an index with a graph stores everything that the score of a row needs in
one record, and reads as few cache lines as it can. A record consists of

    code       scalar codes, and the trellis of one bit: the packed row (packing.py), spec.code_bytes bytes;
               other trellis codes: the row's sign bits, ceil(d / 8) bytes, the lowest bit first, then the other bits of
               its fields, spec.row_bytes bytes (bitplanes.py)
    zeros      up to a multiple of 4 bytes
    rescale    float32, little-endian
    norm       float32, little-endian; only if the index stores norms
    zeros      up to `size` bytes

The size is 16, 32 or 64 bytes, the least that is enough, so that no record has parts of two cache lines. A record of
more than 64 bytes ends with its last scalar. Its size is then a multiple of 4.

Blocks of sign bits (bitplanes.py) lie beside the records, for the scan of all rows. Those of scalar codes and of the
trellis are in the records too. Codes with a second projection have no records.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError
from ..spec import IndexSpec
from .bitplanes import StoredRows, aligned_zeros, empty_sign_bits, has_whole_codes, join_codes, split_codes
from .encoded import Encoded

__all__ = ["RecordLayout", "empty_records", "pack_records", "split_stored", "stored_records", "unpack_records"]

U8 = NDArray[np.uint8]

_SIZES = (16, 32, 64)  # bytes of short records
_SPLIT_VALUES = 2**22  # coordinates that are split at a time


class RecordLayout(NamedTuple):
    """Where the parts of a record are, in bytes.

    Attributes
    ----------
    size : int
        Bytes of a record.
    sign_bytes : int
        Bytes of sign bits at the beginning; 0 if the code row is whole.
    code_at, code_bytes : int
        The code row without these sign bits.
    rescale_at : int
        The rescale.
    norm_at : int or None
        The norm; None if none is stored.
    """

    size: int
    sign_bytes: int
    code_at: int
    code_bytes: int
    rescale_at: int
    norm_at: int | None

    @classmethod
    def of(cls, spec: IndexSpec) -> RecordLayout:
        """Return the layout of the records of an index.

        Raises
        ------
        InvalidInputError
            If the code has a second projection.
        """
        if spec.codec != "trellis" and not spec.has_sign_bits:
            raise InvalidInputError(
                f"codec {spec.codec!r} with sketch {spec.sketch!r} has no graph; expected turboquant-prod with sketch "
                "'shared', turboquant-mse, or trellis"
            )
        sign_bytes = spec.sign_bytes if spec.codec == "trellis" else 0
        code_bytes = spec.row_bytes if sign_bytes else spec.code_bytes
        rescale_at = -(-(sign_bytes + code_bytes) // 4) * 4
        norm_at = rescale_at + 4 if spec.stores_norm else None
        end = rescale_at + (8 if spec.stores_norm else 4)
        size = next((size for size in _SIZES if end <= size), end)
        return cls(size, sign_bytes, sign_bytes, code_bytes, rescale_at, norm_at)


def empty_records(spec: IndexSpec, rows: int) -> StoredRows:
    """Return stored rows in records, all zero. The records begin at a cache line."""
    signs = empty_sign_bits(spec, rows) if spec.has_sign_bits else None
    return stored_records(spec, signs, aligned_zeros((rows, RecordLayout.of(spec).size)))


def stored_records(spec: IndexSpec, signs: U8 | None, records: U8) -> StoredRows:
    """Return blocks of sign bits and records, shape (n, size), as stored rows, whose arrays are views."""
    layout = RecordLayout.of(spec)

    def scalars(at: int) -> NDArray[np.float32]:
        return records[:, at : at + 4].view("<f4")[:, 0]

    return StoredRows(
        signs,
        records[:, layout.code_at : layout.code_at + layout.code_bytes],
        scalars(layout.rescale_at),
        None if layout.norm_at is None else scalars(layout.norm_at),
        records,
    )


def pack_records(spec: IndexSpec, rows: Encoded) -> U8:
    """Return code rows as records, shape (n, size)."""
    layout = RecordLayout.of(spec)
    records = aligned_zeros((rows.rows, layout.size))
    into, codes = stored_records(spec, None, records), rows.codes
    if layout.sign_bytes:
        records[:, : layout.sign_bytes], codes = split_codes(spec, codes)
    into.codes[:] = codes
    into.rescale[:] = rows.rescale
    if into.norm is not None and rows.norm is not None:
        into.norm[:] = rows.norm
    return records


def unpack_records(spec: IndexSpec, records: U8) -> Encoded:
    """Undo `pack_records`."""
    layout, stored = RecordLayout.of(spec), stored_records(spec, None, records)
    codes = np.ascontiguousarray(stored.codes)
    if layout.sign_bytes:
        codes = join_codes(spec, records[:, : layout.sign_bytes], codes)
    return Encoded(codes, stored.rescale.copy(), None if stored.norm is None else stored.norm.copy())


def split_stored(spec: IndexSpec, stored: StoredRows) -> StoredRows:
    """Return stored rows without records, in contiguous arrays. Sign bits are shared, and rows that have no records."""
    if stored.records is None:
        return stored
    codes = stored.codes
    if stored.signs is not None and has_whole_codes(spec, stored):
        codes, step = np.empty((stored.rows, spec.row_bytes), np.uint8), max(1, _SPLIT_VALUES // spec.dim)
        for start in range(0, stored.rows, step):
            codes[start : start + step] = split_codes(spec, stored.codes[start : start + step])[1]
    norm = None if stored.norm is None else np.ascontiguousarray(stored.norm)
    return StoredRows(stored.signs, np.ascontiguousarray(codes), np.ascontiguousarray(stored.rescale), norm)
