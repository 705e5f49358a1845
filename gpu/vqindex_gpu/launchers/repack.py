"""Launcher of ``repack.cu``: convert uploaded rows to the layout of the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..device import Device
from .parameters import Int32, Int64, KernelArgs, Pointer

__all__ = ["Args", "launch"]

_THREADS = 128
_WORDS = 4  # 8-byte words that a row has in a chunk (kernels/layout.cuh)


@dataclass(frozen=True)
class Args(KernelArgs):
    """Parameters of the conversion.

    Attributes
    ----------
    codes : device array of uint8, shape (rows, row_bytes)
        Codes as the host stores them.
    sign_bits : device array of uint8, shape (tiles, sign_bytes, 64), or None
        Sign bits as the host stores them; None for code rows that contain them.
    row_bytes : int32
        Bytes of a row of `codes`.
    sign_bytes : int32
        Bytes of a row's sign bits.
    fields : int32
        Fields of a row.
    bits : int32
        Bits of a field, its sign bit included.
    warmup_fields : int32
        Fields before the first coordinate's own, if sign bits are stored apart.
    start : int64
        The first row of `out` to write; it begins a tile.
    rows : int64
        Rows to convert.
    chunks : int32
        Chunks of a row in the device layout.
    out : device array of uint64
        Output: rows in the layout of kernels/layout.cuh; its words of these rows are 0.
    """

    kernel: ClassVar[str] = "repack"

    codes: Pointer
    sign_bits: Pointer
    row_bytes: Int32
    sign_bytes: Int32
    fields: Int32
    bits: Int32
    warmup_fields: Int32
    start: Int64
    rows: Int64
    chunks: Int32
    out: Pointer


def launch(device: Device, args: Args, slot: int) -> None:
    """Convert rows, one thread for each 8-byte word; a field takes `slot` bits."""
    words = args.rows * args.chunks * _WORDS
    args.launch(device, (-(-words // _THREADS), 1), _THREADS, {"SLOT": slot, "THREADS": _THREADS})
