"""Launcher of ``finish.cu``: pack the fields of trellis rows and compute `rescale`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..device import Device
from .parameters import Int32, KernelArgs, Pointer

__all__ = ["Args", "launch"]

_THREADS = 128


@dataclass(frozen=True)
class Args(KernelArgs):
    """Parameters of the last step of the trellis encoder.

    Attributes
    ----------
    rotated : device array of float32, shape (n, dim)
        Rotated rows in the scaled domain.
    norm2 : device array of float64, shape (n,)
        Squared norms in the scaled domain.
    shift : device array of int32, shape (n,)
        Exponents of the scaled domain.
    fields : device array of uint8, shape (n, dim + warmup_fields)
        One field of the best path in each byte.
    levels : device array of int8, shape (2^window,)
        Level of each window.
    dim : int32
        Coordinates of a row.
    bits : int32
        Bits of a field.
    warmup_fields : int32
        Fields before the first coordinate's own.
    has_signs : int32
        Whether the highest bit of a stored field is the sign of its coordinate.
    cosine : int32
        Whether the metric is cosine.
    codes : device array of uint8, shape (n, code_bytes)
        Output: packed fields.
    code_bytes : int32
        Bytes of a code row.
    rescale : device array of float32, shape (n,)
        Output: scale of the estimate.
    """

    kernel: ClassVar[str] = "finish"

    rotated: Pointer
    norm2: Pointer
    shift: Pointer
    fields: Pointer
    levels: Pointer
    dim: Int32
    bits: Int32
    warmup_fields: Int32
    has_signs: Int32
    cosine: Int32
    codes: Pointer
    code_bytes: Int32
    rescale: Pointer


def launch(device: Device, args: Args) -> None:
    """Finish rows, one block for each."""
    args.launch(device, (args.rotated.shape[0], 1), _THREADS, {"THREADS": _THREADS})
