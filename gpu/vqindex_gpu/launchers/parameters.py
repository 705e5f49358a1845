"""Kernel parameters as dataclasses: one field for each parameter, annotated with its C type.

``Pointer`` is a device array, or None for a null pointer. Any other field is a number, converted to the NumPy scalar
of its C type when the kernel is launched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, ClassVar, get_type_hints

import numpy as np

from ..device import Device

__all__ = ["DeviceSelection", "Double", "Float", "Int32", "Int64", "KernelArgs", "Parameters", "Pointer"]

Pointer = Any
Int32 = Annotated[int, np.int32]
Int64 = Annotated[int, np.int64]
Float = Annotated[float, np.float32]
Double = Annotated[float, np.float64]


class Parameters:
    """Consecutive parameters of a kernel; the base of dataclasses."""

    @classmethod
    @cache
    def scalar_types(cls) -> dict[str, type[np.generic] | None]:
        """Return the NumPy type of each field in order; None for arrays and for nested `Parameters`."""
        hints = get_type_hints(cls, include_extras=True)
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # subclasses are dataclasses
        return {name: getattr(hints[name], "__metadata__", [None])[0] for name in names}

    def arguments(self) -> list[Any]:
        """Return the arguments in order, as `Device.launch` takes them."""
        arguments: list[Any] = []
        for name, kind in self.scalar_types().items():
            value = getattr(self, name)
            if isinstance(value, Parameters):
                arguments += value.arguments()
            else:
                arguments.append(value if kind is None else kind(value))
        return arguments


class KernelArgs(Parameters):
    """All parameters of a kernel.

    Attributes
    ----------
    kernel : str
        Name of the kernel's file; its entry is ``vq_<kernel>``.
    variant : mapping
        The macro that selects this signature, where the kernel has two.
    """

    kernel: ClassVar[str]
    variant: ClassVar[Mapping[str, int]] = {}

    def launch(
        self, device: Device, grid: tuple[int, int], threads: int, macros: Mapping[str, int], shared: int = 0
    ) -> None:
        """Launch the kernel with these arguments.

        Parameters
        ----------
        device : Device
            Where the arrays lie.
        grid : (int, int)
            Blocks in x and y.
        threads : int
            Threads of a block.
        macros : mapping
            Macros of the kernel beside `variant`.
        shared : int
            Bytes of dynamic shared memory of a block.
        """
        device.launch(self.kernel, {**self.variant, **macros}, grid, threads, self.arguments(), shared)


@dataclass(frozen=True)
class DeviceSelection(Parameters):
    """The rows that a search may return.

    Attributes
    ----------
    allowed : device array of uint64, shape (1 or nq, tiles), or None
        One bit for each row of a tile; None for all rows.
    allowed_stride : int64
        Words from one query's line to the next; 0 if all queries share one line.
    """

    allowed: Pointer
    allowed_stride: Int64
