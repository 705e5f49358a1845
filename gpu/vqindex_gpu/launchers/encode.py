"""Launcher of ``encode.cu``: rotate rows, then quantize and pack them, or prepare them for the trellis search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..device import Device
from .parameters import Double, Float, Int32, KernelArgs, Pointer
from .rotation import THREADS, Rotation, shared_bytes

__all__ = ["ScalarArgs", "TrellisArgs", "launch"]


@dataclass(frozen=True)
class ScalarArgs(KernelArgs):
    """Parameters of the encoder of scalar codes.

    Attributes
    ----------
    vectors : device array of float32, shape (n, dim)
        Finite rows.
    rotation : Rotation
        The rotation.
    cosine : int32
        Whether the metric is cosine.
    norm : device array of float32, shape (n,), or None
        Output: |x|.
    thresholds : device array of float32, shape (2^bits - 1,)
        Thresholds of the codebook, rising.
    levels : device array of int16, shape (2^bits,)
        Levels of the codebook.
    bits : int32
        Bits of a field.
    renormalized : int32
        Whether `rescale` makes the estimate unbiased.
    cell_scale : float64
        Value of a grid step for a unit norm.
    codes : device array of uint8, shape (n, code_bytes)
        Output: packed fields.
    code_bytes : int32
        Bytes of a code row.
    rescale : device array of float32, shape (n,)
        Output: scale of the estimate.
    """

    kernel: ClassVar[str] = "encode"
    variant: ClassVar[Mapping[str, int]] = {"TRELLIS": 0}

    vectors: Pointer
    rotation: Rotation
    cosine: Int32
    norm: Pointer
    thresholds: Pointer
    levels: Pointer
    bits: Int32
    renormalized: Int32
    cell_scale: Double
    codes: Pointer
    code_bytes: Int32
    rescale: Pointer


@dataclass(frozen=True)
class TrellisArgs(KernelArgs):
    """Parameters of the first step of the trellis encoder.

    Attributes
    ----------
    vectors : device array of float32, shape (n, dim)
        Finite rows.
    rotation : Rotation
        The rotation.
    cosine : int32
        Whether the metric is cosine.
    norm : device array of float32, shape (n,), or None
        Output: |x|.
    value_scale : float32
        Integer values per unit of the codebook.
    peak : int32
        Largest magnitude of an integer value.
    rotated : device array of float32, shape (n, dim)
        Output: rotated rows in the scaled domain.
    values : device array of int16, shape (n, dim)
        Output: rotated rows as integers, the input of the trellis search.
    norm2 : device array of float64, shape (n,)
        Output: squared norms in the scaled domain.
    shift : device array of int32, shape (n,)
        Output: exponents of the scaled domain.
    """

    kernel: ClassVar[str] = "encode"
    variant: ClassVar[Mapping[str, int]] = {"TRELLIS": 1}

    vectors: Pointer
    rotation: Rotation
    cosine: Int32
    norm: Pointer
    value_scale: Float
    peak: Int32
    rotated: Pointer
    values: Pointer
    norm2: Pointer
    shift: Pointer


def launch(device: Device, args: ScalarArgs | TrellisArgs) -> None:
    """Encode rows, one block for each."""
    rows = args.vectors.shape[0]
    args.launch(device, (rows, 1), THREADS, {"THREADS": THREADS}, shared_bytes(args.rotation.dim))
