"""CupyDevice: memory and launches of a CUDA device through CuPy, on the caller's current stream.

CuPy is imported by `find_devices`, not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqindex.errors import BackendError

from .modules import compiled

__all__ = ["INSTALL", "CupyDevice", "find_devices", "import_cupy"]

INSTALL = "pip install 'vqindex[gpu-cuda13]' (with drivers before 580: 'vqindex[gpu-cuda12]')"


def import_cupy() -> Any:
    """Import CuPy.

    Raises
    ------
    BackendError
        If it is not installed or does not load, with the command that installs it.
    """
    try:
        import cupy
    except ImportError as error:
        raise BackendError(f"device 'cuda' needs CuPy, which could not be imported ({error}); {INSTALL}") from error
    return cupy


def find_devices() -> list[CupyDevice]:
    """Return the CUDA devices of this machine, those of CUDA_VISIBLE_DEVICES.

    Raises
    ------
    BackendError
        Without CuPy, a driver or a device, in one sentence.
    """
    cupy = import_cupy()
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendError(f"device 'cuda' finds no usable NVIDIA driver ({error}); see vqindex doctor") from None
    if count == 0:
        raise BackendError("device 'cuda' finds no NVIDIA GPU; see vqindex doctor")
    return [CupyDevice(number) for number in range(count)]


class CupyDevice:
    """One CUDA device.

    Parameters
    ----------
    number : int
        Its ordinal.
    """

    def __init__(self, number: int) -> None:
        self._cupy = cupy = import_cupy()
        self._device = cupy.cuda.Device(number)
        attributes, major_minor = self._device.attributes, self._device.compute_capability
        self.shared_bytes: int = attributes["MaxSharedMemoryPerBlockOptin"]
        # The engine needs nothing of sm_90a beyond sm_90; the name is what the compile matrix of the tests checks.
        self.arch = f"sm_{major_minor}" + ("a" if major_minor == "90" else "")
        properties = cupy.cuda.runtime.getDeviceProperties(number)
        self.name = f"{properties['name'].decode()} (cuda:{number})"
        if int(major_minor) < 80:
            raise BackendError(f"{self.name} has compute capability {major_minor}; expected 80 or more")
        self._functions: dict[tuple[str, tuple[tuple[str, int], ...]], Any] = {}

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Allocate an array of undefined values."""
        with self._device:
            try:
                return self._cupy.empty(shape, dtype)
            except self._cupy.cuda.memory.OutOfMemoryError:
                wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
                raise BackendError(
                    f"{self.name} has {self.free_bytes()} bytes of memory free; {wanted} are needed"
                ) from None

    def owns(self, array: Any) -> bool:
        """Whether an object is a CuPy array."""
        return isinstance(array, self._cupy.ndarray)

    def upload(self, array: NDArray[Any]) -> Any:
        """Return a copy of a host array."""
        out = self.empty(array.shape, array.dtype)
        self.copy_to(out, array)
        return out

    def copy_to(self, target: Any, array: NDArray[Any]) -> None:
        """Copy a host array into a contiguous device array of its shape and type."""
        with self._device:
            if array.size:
                target.set(np.ascontiguousarray(array))

    def download(self, array: Any) -> NDArray[Any]:
        """Return a host copy, when what was launched before is done."""
        with self._device:
            host: NDArray[Any] = self._cupy.asnumpy(array)
        return host

    def synchronize(self) -> None:
        """Wait until what was started on the current stream is done."""
        with self._device:
            self._cupy.cuda.get_current_stream().synchronize()

    def fill(self, array: Any, value: int) -> None:
        """Set all bytes of a contiguous array."""
        with self._device:
            array.data.memset_async(value, array.nbytes)

    def address(self, array: Any) -> int:
        """Return where an array lies."""
        return int(array.data.ptr)

    def free_bytes(self) -> int:
        """Return how much memory can still be allocated, what CuPy's pool holds unused included."""
        with self._device:
            free, _ = self._device.mem_info
            return int(free) + int(self._cupy.get_default_memory_pool().free_bytes())

    def launch(
        self,
        kernel: str,
        macros: Mapping[str, int],
        grid: tuple[int, int],
        threads: int,
        arguments: Sequence[Any],
        shared: int = 0,
    ) -> None:
        """Start entry ``vq_<kernel>`` on the current stream."""
        values = []
        for argument in arguments:
            if argument is None:
                argument = np.uint64(0)
            elif not isinstance(argument, np.generic):
                argument = np.uint64(self.address(argument))
            values.append(argument)
        with self._device:
            self._function(kernel, macros)((*grid, 1), (threads, 1, 1), tuple(values), shared_mem=shared)

    def _function(self, kernel: str, macros: Mapping[str, int]) -> Any:
        key = (kernel, tuple(sorted(macros.items())))
        if key not in self._functions:
            module = self._cupy.cuda.function.Module()
            module.load(compiled(kernel, macros, self.arch))
            function = module.get_function(f"vq_{kernel}")
            self._allow_shared(function)
            self._functions[key] = function
        return self._functions[key]

    def _allow_shared(self, function: Any) -> None:
        """Raise the limit of dynamic shared memory, 48 KiB otherwise, as far as the function's own leaves room."""
        from cupy_backends.cuda.api import driver

        static = driver.funcGetAttribute(driver.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function.ptr)
        attribute = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        driver.funcSetAttribute(function.ptr, attribute, self.shared_bytes - static)
