"""What the engine needs of a device. `cupy_device.py` gives it with CuPy; the tests give it with an emulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Device", "Event", "scalar"]


class Event(Protocol):
    """A mark in a stream."""

    def synchronize(self) -> None:
        """Wait, on the host, until all before the mark is done."""


class Device(Protocol):
    """Memory and launches of one device; its arrays can be sliced along the first axis, and own their memory.

    What is started goes into the current stream, in order: the caller's, or within `on` another one.

    Attributes
    ----------
    name : str
        For messages.
    shared_bytes : int
        Most dynamic shared memory of a block.
    """

    name: str
    shared_bytes: int

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Allocate an array of undefined values; BackendError with the numbers if memory does not suffice."""

    def owns(self, array: Any) -> bool:
        """Whether an object is an array of this device."""

    def adopt(self, array: Any) -> Any:
        """Return a caller's array that lies on this device as one of ours, without a copy; None for any other.

        The current stream waits for what the array's library started before.
        """

    def give(self, array: Any, like: Any) -> Any:
        """Return one of our arrays as one of the library of `like`, without a copy."""

    def bring(self, array: Any) -> Any:
        """Return a copy of an array of another device, where all that was started is done."""

    def upload(self, array: NDArray[Any]) -> Any:
        """Return a copy of a host array."""

    def download(self, array: Any) -> NDArray[Any]:
        """Return a host copy, when what was launched before is done."""

    def copy_to(self, target: Any, array: NDArray[Any]) -> None:
        """Copy a host array into a contiguous device array (or slice) of its shape and type."""

    def copy(self, target: Any, source: Any) -> None:
        """Copy a contiguous device array into another of its shape and type."""

    def staging(self, size: int) -> NDArray[np.uint8]:
        """Return host memory that copies to the device can read while the host goes on."""

    def copy_staged(self, target: Any, staged: NDArray[np.uint8]) -> None:
        """Start a copy of a part of such memory; it must not change until the copy is done."""

    def side_stream(self) -> Any:
        """Return a new stream, which waits for no other one unasked."""

    def on(self, stream: Any) -> AbstractContextManager[None]:
        """Make a stream the current one of this thread."""

    def record(self) -> Event:
        """Return a mark behind what was started on the current stream."""

    def wait(self, event: Any) -> None:
        """Let the current stream wait for a mark in another one."""

    def synchronize(self) -> None:
        """Wait until what was started on the current stream is done."""

    def fill(self, array: Any, value: int) -> None:
        """Set all bytes of a contiguous array."""

    def address(self, array: Any) -> int:
        """Return where an array lies, for pointers inside structures."""

    def free_bytes(self) -> int:
        """Return how much memory can still be allocated."""

    def launch(
        self,
        kernel: str,
        macros: Mapping[str, int],
        grid: tuple[int, int],
        threads: int,
        arguments: Sequence[Any],
        shared: int = 0,
    ) -> None:
        """Start entry ``vq_<kernel>``. Arguments are device arrays, None (a null pointer) or NumPy scalars."""


def scalar(value: int | float, kind: str) -> np.generic:
    """Return an argument of C type ``int`` (i), ``long long`` (q), ``float`` (f) or ``double`` (d)."""
    kinds: dict[str, Callable[[Any], np.generic]] = {"i": np.int32, "q": np.int64, "f": np.float32, "d": np.float64}
    return kinds[kind](value)
