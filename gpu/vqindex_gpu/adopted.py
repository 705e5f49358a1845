"""Callers' arrays that lie on a device, as `vqindex.arrays` handles them: checked and used where they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .device import Device, scalar
from .engine import THREADS, Engine

__all__ = ["Adopted", "accept"]


class Adopted:
    """An `OnDevice` array of a device's engine.

    Parameters
    ----------
    engine : Engine
        Of the device.
    array : device array
        What the caller gave, or a part or a conversion of it.
    origin : object
        The caller's own array, whose library results are given back in; it keeps the memory alive.
    """

    def __init__(self, engine: Engine, array: Any, origin: Any) -> None:
        self.engine, self.array, self._origin = engine, array, origin

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes."""
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
        rows, bad = accept(self.engine.device, self.array)
        return Adopted(self.engine, rows, self._origin), bad

    def host(self) -> NDArray[Any]:
        """Return a copy on the host."""
        return self.engine.device.download(self.array)

    def back(self, result: NDArray[Any]) -> Any:
        """Return a result as an array of the caller's library on this device."""
        device = self.engine.device
        return device.give(device.upload(np.ascontiguousarray(result)), self._origin)


def accept(device: Device, array: Any) -> tuple[Any, int]:
    """Return device rows (n, dim) of any real type and strides as float32 rows, and where they are not finite.

    The second is the first place, counted along rows, of what is no finite float32 value, or -1. Rows that are what is
    wanted are returned as they are.
    """
    (n, dim), size = array.shape, array.dtype.itemsize
    as_wanted = array.dtype == np.float32 and array.flags.c_contiguous
    out = array if as_wanted else device.empty((n, dim), np.float32)
    if not n:
        return out, -1
    bad = device.empty((1,), np.uint64)
    device.fill(bad, 255)
    macros = {"FLOATS": int(array.dtype.kind == "f"), "SIGNED": int(array.dtype.kind != "u"), "BYTES": size}
    strides = [scalar(stride // size, "q") for stride in array.strides]
    arguments = [array, *strides, scalar(n, "q"), scalar(dim, "i"), None if as_wanted else out, bad]
    device.launch("accept", {**macros, "THREADS": THREADS}, (-(-n * dim // THREADS), 1), THREADS, arguments)
    first = int(device.download(bad)[0])
    return out, first if first < n * dim else -1
