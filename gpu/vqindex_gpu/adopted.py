"""Adopted: a caller's array on a device, in the form that `vqindex.arrays` checks and encodes without a host copy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .device import Device
from .engine import Engine
from .launchers import accept as accept_kernel

__all__ = ["Adopted", "accept"]


class Adopted:
    """An `OnDevice` array of a device's engine.

    Parameters
    ----------
    engine : Engine
        The engine of the device.
    array : device array
        The caller's array, a part of it, or a conversion of it.
    origin : object
        The caller's own array. It determines the library of results, and keeps the memory alive.
    """

    def __init__(self, engine: Engine, array: Any, origin: Any) -> None:
        self.engine, self.array, self._origin = engine, array, origin

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    def __getitem__(self, at: Any) -> Adopted:
        """Return a view."""
        return Adopted(self.engine, self.array[at], self._origin)

    def float32(self) -> tuple[Adopted, int]:
        """Return rows as C-contiguous float32 on the device, and the first place that is not finite, or -1."""
        rows, first_bad = accept(self.engine.device, self.array)
        return Adopted(self.engine, rows, self._origin), first_bad

    def host(self) -> NDArray[Any]:
        """Return a copy on the host."""
        return self.engine.device.download(self.array)

    def back(self, result: NDArray[Any]) -> Any:
        """Return a host result as an array of the caller's library on this device."""
        device = self.engine.device
        return device.give(device.upload(np.ascontiguousarray(result)), self._origin)


def accept(device: Device, array: Any) -> tuple[Any, int]:
    """Convert rows on a device to float32 and find the first value that is not finite.

    Parameters
    ----------
    device : Device
        Where the rows lie.
    array : device array, shape (n, dim)
        Rows of any real type and any strides.

    Returns
    -------
    rows : device array of float32, shape (n, dim)
        C-contiguous; `array` itself if it already is.
    first_bad : int
        The first place, counted along rows, of a value that is not a finite float32, or -1.
    """
    (n, dim), size = array.shape, array.dtype.itemsize
    usable = array.dtype == np.float32 and array.flags.c_contiguous
    out = array if usable else device.empty((n, dim), np.float32)
    if not n:
        return out, -1
    first_bad = device.empty((1,), np.uint64)
    device.fill(first_bad, 255)
    row_stride, column_stride = (stride // size for stride in array.strides)
    args = accept_kernel.Args(array, row_stride, column_stride, n, dim, None if usable else out, first_bad)
    accept_kernel.launch(device, args)
    first = int(device.download(first_bad)[0])
    return out, first if first < n * dim else -1
