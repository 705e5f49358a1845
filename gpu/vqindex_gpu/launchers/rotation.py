"""The Hadamard rotation, which the kernels of ``encode.cu`` and ``prepare.cu`` share (``kernels/rotate.cuh``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vqindex.codes.rotation import Hadamard

from ..device import Device
from .parameters import Int32, Parameters, Pointer

__all__ = ["THREADS", "Rotation", "shared_bytes"]

THREADS = 128  # of the block that rotates one vector
_MAX_LEVELS = 256  # scaled thresholds, which lie behind the two buffers


@dataclass(frozen=True)
class Rotation(Parameters):
    """Parameters of the rotation.

    Attributes
    ----------
    dim : int32
        Coordinates of a vector.
    stride : int32
        Of the permutation between rounds.
    signs : device array of uint32, shape (3, ceil(dim / 32))
        Bit j of a round is set where coordinate j changes its sign.
    scales : device array of float32, shape (16,)
        ``scales[m] = fl(1 / sqrt(2^m))``.
    """

    dim: Int32
    stride: Int32
    signs: Pointer
    scales: Pointer

    @classmethod
    def of(cls, rotation: Hadamard, dim: int, device: Device) -> Rotation:
        """Upload the tables of a rotation."""
        signs = np.zeros((len(rotation.signs), -(-dim // 32) * 4), np.uint8)
        packed = np.packbits(rotation.signs < 0, axis=1, bitorder="little")
        signs[:, : packed.shape[1]] = packed
        scales = (1.0 / np.sqrt(2.0 ** np.arange(16))).astype(np.float32)
        stride = int(rotation.source[1]) if dim > 1 else 1
        return cls(dim, stride, device.upload(signs.view("<u4")), device.upload(scales))


def shared_bytes(dim: int) -> int:
    """Return the dynamic shared memory of a block: two padded vectors and the scaled thresholds."""
    padded = (dim + dim // 16 + 4) // 4 * 4
    return 2 * padded * 4 + _MAX_LEVELS * 4
