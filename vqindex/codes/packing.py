"""FROZEN: how codes lie in bytes. DO NOT CHANGE: files depend on every bit (tests/golden/packing.json).

A code row is one little-endian bit stream. Field j of `bits` bits occupies stream bits [j * bits, (j + 1) * bits),
least significant first. Stream bit i is bit (i mod 8) of byte (i div 8). A row has ceil(fields * bits / 8) bytes; its
unused last bits are zero. Eight fields fill exactly `bits` bytes, for every width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack", "unpack"]


def pack(fields: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack fields below 2**bits, shape (n, m) uint8, into rows of shape (n, ceil(m * bits / 8)) uint8."""
    n, m = fields.shape
    groups = -(-m // 8)
    padded = np.zeros((n, groups, 8), np.uint8)
    padded.reshape(n, groups * 8)[:, :m] = fields
    words = np.zeros((n, groups), "<u8")
    for i in range(8):
        words |= padded[:, :, i].astype(np.uint64) << np.uint64(i * bits)
    stream = words.view(np.uint8).reshape(n, groups, 8)[:, :, :bits].reshape(n, groups * bits)
    return np.ascontiguousarray(stream[:, : -(-m * bits // 8)])


def unpack(rows: NDArray[np.uint8], fields: int, bits: int) -> NDArray[np.uint8]:
    """Undo `pack`: rows of shape (n, ceil(fields * bits / 8)) uint8 become (n, fields) uint8."""
    n = rows.shape[0]
    groups = -(-fields // 8)
    stream = np.zeros((n, groups * bits), np.uint8)
    stream[:, : rows.shape[1]] = rows
    padded = np.zeros((n, groups, 8), np.uint8)
    padded[:, :, :bits] = stream.reshape(n, groups, bits)
    words = padded.view("<u8")[:, :, 0]
    out = np.empty((n, groups, 8), np.uint8)
    mask = np.uint64(2**bits - 1)
    for i in range(8):
        out[:, :, i] = words >> np.uint64(i * bits) & mask
    return np.ascontiguousarray(out.reshape(n, groups * 8)[:, :fields])
