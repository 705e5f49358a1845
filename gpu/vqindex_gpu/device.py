"""What the engine needs of a device. `launch.py` gives it with CuPy; the tests give it with an emulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Device", "scalar"]


class Device(Protocol):
    """Memory and launches of one device; its arrays can be sliced along the first axis, and own their memory.

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
        """Whether an object is an array of this kind of device."""

    def upload(self, array: NDArray[Any]) -> Any:
        """Return a copy of a host array."""

    def download(self, array: Any) -> NDArray[Any]:
        """Return a host copy, when what was launched before is done."""

    def copy_to(self, target: Any, array: NDArray[Any]) -> None:
        """Copy a host array into a contiguous device array (or slice) of its shape and type."""

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
