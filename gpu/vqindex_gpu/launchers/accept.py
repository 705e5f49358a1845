"""Launcher of ``accept.cu``: convert a caller's rows to float32 and find values that are not finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..device import Device
from .parameters import Int32, Int64, KernelArgs, Pointer

__all__ = ["Args", "launch"]

_THREADS = 128


@dataclass(frozen=True)
class Args(KernelArgs):
    """Parameters of the conversion.

    Attributes
    ----------
    source : device array of any real type, shape (n, dim)
        The caller's rows.
    row_stride, column_stride : int64
        Values from one row, and from one column, to the next.
    rows : int64
        Number of rows n.
    dim : int32
        Values of a row.
    out : device array of float32, shape (n, dim), or None
        Output; None if the caller's rows can be used as they are.
    first_bad : device array of uint64, shape (1,)
        Output: the first place, counted along rows, of a value that is not a finite float32. The caller sets all bits.
    """

    kernel: ClassVar[str] = "accept"

    source: Pointer
    row_stride: Int64
    column_stride: Int64
    rows: Int64
    dim: Int32
    out: Pointer
    first_bad: Pointer


def launch(device: Device, args: Args) -> None:
    """Convert and check values, one thread for each."""
    dtype: np.dtype[np.generic] = args.source.dtype
    macros = {"FLOATS": int(dtype.kind == "f"), "SIGNED": int(dtype.kind != "u"), "BYTES": dtype.itemsize}
    blocks = -(-args.rows * args.dim // _THREADS)
    args.launch(device, (blocks, 1), _THREADS, {**macros, "THREADS": _THREADS})
