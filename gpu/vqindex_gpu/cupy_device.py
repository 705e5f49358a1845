"""CupyDevice: the `Device` protocol for CUDA devices, through CuPy and on CuPy's current stream.

Importing this module does not import CuPy; `find_devices` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqindex.errors import BackendError

from .modules import compiled

__all__ = ["INSTALL", "CupyDevice", "find_devices", "import_cupy"]

_DLPACK_CUDA = 2  # kDLCUDA
INSTALL = "pip install 'vqindex[gpu-cuda13]' (with drivers before 580: 'vqindex[gpu-cuda12]')"


def import_cupy() -> Any:
    """Import CuPy.

    Raises
    ------
    BackendError
        If CuPy is not installed or does not load, with the command that installs it.
    """
    try:
        import cupy
    except ImportError as error:
        raise BackendError(f"device 'cuda' needs CuPy, which could not be imported ({error}); {INSTALL}") from error
    return cupy


def find_devices() -> list[CupyDevice]:
    """Return the CUDA devices of this machine that CUDA_VISIBLE_DEVICES names.

    Raises
    ------
    BackendError
        If CuPy, a driver or a device is missing, in one sentence.
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
        Ordinal of the device.
    """

    def __init__(self, number: int) -> None:
        self._cupy = cupy = import_cupy()
        self.number = number
        self._device = cupy.cuda.Device(number)
        attributes, major_minor = self._device.attributes, self._device.compute_capability
        self.shared_bytes: int = attributes["MaxSharedMemoryPerBlockOptin"]
        # The kernels use no instruction of sm_90a beyond sm_90. The tests compile for sm_90a, so devices do, too.
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
                needed = int(np.prod(shape)) * np.dtype(dtype).itemsize
                raise BackendError(
                    f"{self.name} has {self.free_bytes()} bytes of memory free; {needed} are needed"
                ) from None

    def owns(self, array: Any) -> bool:
        """Whether an object is a CuPy array of this device."""
        return isinstance(array, self._cupy.ndarray) and array.device.id == self.number

    def adopt(self, array: Any) -> Any:
        """Return a caller's array on this device as a CuPy array of the same memory, or None.

        A library with DLPack receives the current stream and makes it wait for its own stream. A library that has only
        ``__cuda_array_interface__`` names a stream in it, and CuPy waits for that stream.
        """
        if self.owns(array):
            return array
        if isinstance(array, self._cupy.ndarray):
            return None
        with self._device:
            if hasattr(array, "__dlpack_device__"):
                if tuple(map(int, array.__dlpack_device__())) != (_DLPACK_CUDA, self.number):
                    return None
                if hasattr(array, "detach"):  # torch: detach from the graph
                    array = array.detach()
                    if str(array.dtype) == "torch.bfloat16":
                        array = array.float()
                return self._cupy.from_dlpack(array)
            if hasattr(array, "__cuda_array_interface__"):
                ours = self._cupy.asarray(array)
                return ours if self.owns(ours) else None
        return None

    def give(self, array: Any, like: Any) -> Any:
        """Return a CuPy array as one of torch, of a library with an array namespace, or of CuPy, as `like` is."""
        if isinstance(like, self._cupy.ndarray):
            return array
        if type(like).__module__.partition(".")[0] == "torch":
            library = import_module("torch")
        elif hasattr(like, "__array_namespace__"):
            library = like.__array_namespace__()
        else:
            return array
        with self._device:
            return library.from_dlpack(array)

    def bring(self, array: Any) -> Any:
        """Return a copy of a CuPy array of another device, whose work must be done."""
        with self._device:
            return array.copy()

    def upload(self, array: NDArray[Any]) -> Any:
        """Return a device copy of a host array."""
        out = self.empty(array.shape, array.dtype)
        self.copy_to(out, array)
        return out

    def copy_to(self, target: Any, array: NDArray[Any]) -> None:
        """Copy a host array into a contiguous device array of its shape and type."""
        with self._device:
            if array.size:
                target.set(np.ascontiguousarray(array))

    def download(self, array: Any) -> NDArray[Any]:
        """Return a host copy, after the work that was started before is done."""
        with self._device:
            host: NDArray[Any] = self._cupy.asnumpy(array)
        return host

    def copy(self, target: Any, source: Any) -> None:
        """Copy a contiguous device array into another of its shape and type."""
        with self._device:
            target.data.copy_from_device_async(source.data, source.nbytes)

    def staging(self, size: int) -> NDArray[np.uint8]:
        """Return pinned host memory."""
        with self._device:
            return np.frombuffer(self._cupy.cuda.alloc_pinned_memory(size), np.uint8, size)

    def copy_staged(self, target: Any, staged: NDArray[np.uint8]) -> None:
        """Start a copy from a part of pinned memory."""
        with self._device:
            target.data.copy_from_host_async(staged.ctypes.data, staged.nbytes)

    def side_stream(self) -> Any:
        """Return a new stream that does not wait for the null stream."""
        with self._device:
            return self._cupy.cuda.Stream(non_blocking=True)

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        """Make a stream the current one of this thread."""
        with self._device, stream:
            yield

    def record(self) -> Any:
        """Return an event after the work that was started on the current stream."""
        with self._device:
            event = self._cupy.cuda.Event(disable_timing=True)
            event.record()
        return event

    def wait(self, event: Any) -> None:
        """Make the current stream wait for an event of another stream."""
        with self._device:
            self._cupy.cuda.get_current_stream().wait_event(event)

    def synchronize(self) -> None:
        """Block the host until the work that was started on the current stream is done."""
        with self._device:
            self._cupy.cuda.get_current_stream().synchronize()

    def fill(self, array: Any, value: int) -> None:
        """Set all bytes of a contiguous array."""
        with self._device:
            array.data.memset_async(value, array.nbytes)

    def address(self, array: Any) -> int:
        """Return the address of an array."""
        return int(array.data.ptr)

    def free_bytes(self) -> int:
        """Return how many bytes can still be allocated, including unused memory of CuPy's pool."""
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
        """Launch a kernel on the current stream; compile it if it is new."""
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
        """Raise the limit of dynamic shared memory from 48 KiB to all that the function's static memory leaves free."""
        from cupy_backends.cuda.api import driver

        static = driver.funcGetAttribute(driver.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function.ptr)
        attribute = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        driver.funcSetAttribute(function.ptr, attribute, self.shared_bytes - static)
