"""Device: what the engine needs of a device. cupy_device.py implements it with CuPy, and the tests with an emulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Device", "Event"]


class Event(Protocol):
    """A point in a stream."""

    def synchronize(self) -> None:
        """Block the host until all work before the event is done."""


class Device(Protocol):
    """Memory and kernel launches of one device.

    Arrays can be sliced along the first axis and own their memory. Work goes to the current stream and runs there in
    order. The current stream is the caller's; within `on` it is another one.

    Attributes
    ----------
    name : str
        Name for messages.
    shared_bytes : int
        Bytes of dynamic shared memory that a block can have.
    """

    name: str
    shared_bytes: int

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Allocate an array of undefined values.

        Raises
        ------
        BackendError
            If memory does not suffice, with the numbers.
        """

    def owns(self, array: Any) -> bool:
        """Whether an object is an array of this device."""

    def adopt(self, array: Any) -> Any:
        """Return a caller's array on this device as one of ours, without a copy; None for any other array.

        The current stream waits for the work that the array's library started before.
        """

    def give(self, array: Any, like: Any) -> Any:
        """Return one of our arrays as an array of the library of `like`, without a copy."""

    def bring(self, array: Any) -> Any:
        """Return a copy of an array of another device, whose work must be done."""

    def upload(self, array: NDArray[Any]) -> Any:
        """Return a device copy of a host array."""

    def download(self, array: Any) -> NDArray[Any]:
        """Return a host copy, after the work that was started before is done."""

    def copy_to(self, target: Any, array: NDArray[Any]) -> None:
        """Copy a host array into a contiguous device array (or slice) of its shape and type."""

    def copy(self, target: Any, source: Any) -> None:
        """Copy a contiguous device array into another of its shape and type."""

    def staging(self, size: int) -> NDArray[np.uint8]:
        """Return host memory from which `copy_staged` copies without blocking the host."""

    def copy_staged(self, target: Any, staged: NDArray[np.uint8]) -> None:
        """Start a copy from a part of staging memory, which must not change until the copy is done."""

    def side_stream(self) -> Any:
        """Return a new stream. It waits for other streams only where `wait` says so."""

    def on(self, stream: Any) -> AbstractContextManager[None]:
        """Make a stream the current one of this thread."""

    def record(self) -> Event:
        """Return an event after the work that was started on the current stream."""

    def wait(self, event: Any) -> None:
        """Make the current stream wait for an event of another stream."""

    def synchronize(self) -> None:
        """Block the host until the work that was started on the current stream is done."""

    def fill(self, array: Any, value: int) -> None:
        """Set all bytes of a contiguous array."""

    def address(self, array: Any) -> int:
        """Return the address of an array, for pointers inside structures."""

    def free_bytes(self) -> int:
        """Return how many bytes can still be allocated."""

    def launch(
        self,
        kernel: str,
        macros: Mapping[str, int],
        grid: tuple[int, int],
        threads: int,
        arguments: Sequence[Any],
        shared: int = 0,
    ) -> None:
        """Launch a kernel.

        Parameters
        ----------
        kernel : str
            Name of the kernel's file; its entry is ``vq_<kernel>``.
        macros : mapping
            Macros to compile it with, without the prefix ``VQ_``.
        grid : (int, int)
            Blocks in x and y.
        threads : int
            Threads of a block.
        arguments : sequence
            Device arrays, None (a null pointer) or NumPy scalars.
        shared : int
            Bytes of dynamic shared memory of a block.
        """
