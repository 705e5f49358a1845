"""Launcher of ``viterbi.cu``: the trellis search, one thread for each state and several vectors in a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vqindex.codes.trellis import Trellis

from ..device import Device
from .parameters import Int32, Int64, KernelArgs, Pointer

__all__ = ["Args", "blocks", "choices_shape", "launch"]

_THREADS = 256
_MAX_BLOCKS = 132 * 8  # bounds the scratch; eight blocks for each multiprocessor of an H200


@dataclass(frozen=True)
class Args(KernelArgs):
    """Parameters of the trellis search.

    Attributes
    ----------
    values : device array of int16, shape (n, dim)
        Rotated rows as integers.
    rows : int64
        Number of rows n.
    dim : int32
        Coordinates of a row.
    levels : device array of int8, shape (2^window,)
        Level of each window.
    limit : int32
        Differences are clamped to this magnitude.
    start_mask : int32
        Bits that must be zero in the first window.
    choices : device array of uint8, shape `choices_shape`
        Scratch.
    fields : device array of uint8, shape (n, fields)
        Output: one field of the best path in each byte.
    """

    kernel: ClassVar[str] = "viterbi"

    values: Pointer
    rows: Int64
    dim: Int32
    levels: Pointer
    limit: Int32
    start_mask: Int32
    choices: Pointer
    fields: Pointer


def blocks(rows: int, trellis: Trellis) -> int:
    """Return the number of blocks that share the rows."""
    vectors_per_block = _THREADS >> (trellis.window - trellis.bits)
    return min(-(-rows // vectors_per_block), _MAX_BLOCKS)


def choices_shape(rows: int, dim: int, trellis: Trellis) -> tuple[int, int, int]:
    """Return the shape of the scratch: one byte for each block, coordinate and thread."""
    return blocks(rows, trellis), dim, _THREADS


def launch(device: Device, args: Args, trellis: Trellis) -> None:
    """Search for the best path of every row."""
    macros = {"BITS": trellis.bits, "WINDOW": trellis.window, "GAIN": trellis.gain, "THREADS": _THREADS}
    args.launch(device, (blocks(args.rows, trellis), 1), _THREADS, macros)
