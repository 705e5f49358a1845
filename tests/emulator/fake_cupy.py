"""As much of CuPy as launch.py uses, over the emulated device, so that launch.py itself runs in the tests.

What CuPy is known to do and a launch must respect is checked here: arguments are NumPy scalars (None would be a null
pointer to the argument, not a null argument), and dynamic shared memory above 48 KiB needs the attribute set.
"""

import ctypes
import json
import sys
import types

import emulated
import numpy as np

OPT_IN = 227 << 10


class CUDARuntimeError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


class Array(emulated.DeviceArray):
    """cupy.ndarray: `data` is a pointer object, `set` copies from the host."""

    @property
    def data(self):
        where = self.ctypes.data

        def memset_async(value, size):
            ctypes.memset(where, value, size)

        return types.SimpleNamespace(ptr=where, memset_async=memset_async)

    def set(self, array):
        assert type(array) is np.ndarray
        assert array.flags.c_contiguous
        assert self.flags.c_contiguous
        assert (array.shape, array.dtype) == (self.shape, self.dtype)
        self[...] = array


class Function:
    def __init__(self, kernel, macros):
        self.entry = emulated.library(kernel, macros)
        self.shared_limit = 48 << 10

    @property
    def ptr(self):
        return self

    def __call__(self, grid, block, args, shared_mem=0):
        assert isinstance(args, tuple)
        assert all(isinstance(value, np.generic) for value in args)
        assert shared_mem <= self.shared_limit
        values = [ctypes.create_string_buffer(value.tobytes(), value.itemsize) for value in args]
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
        shape = (ctypes.c_uint32 * 4)(grid[0], grid[1], block[0], shared_mem)
        assert (grid[2], block[1], block[2]) == (1, 1, 1)
        error = self.entry(pointers, shape, 1)
        assert error is None, error


class Module:
    def load(self, cubin):
        self.kernel, self.macros = json.loads(cubin)

    def get_function(self, name):
        assert name == f"vq_{self.kernel}"
        return Function(self.kernel, self.macros)


class Device:
    attributes = {"MaxSharedMemoryPerBlockOptin": OPT_IN}  # noqa: RUF012
    compute_capability = "90"

    def __init__(self, module, number):
        self._module, self.number = module, number

    @property
    def mem_info(self):
        return self._module.memory.free_bytes(), self._module.memory.memory

    def __enter__(self):
        self._module.inside.append(self.number)

    def __exit__(self, *_):
        self._module.inside.pop()


def install(monkeypatch, devices=1, memory=2**40, error=None):
    """Put a CuPy with some devices in place of the real one, or one whose driver gives an error."""
    module = types.ModuleType("cupy")
    module.memory, module.inside = emulated.EmulatedDevice(memory=memory), []

    def empty(shape, dtype):
        assert module.inside, "allocated on whatever device is current"
        if int(np.prod(shape)) * np.dtype(dtype).itemsize > module.memory.free_bytes():
            raise OutOfMemoryError
        return module.memory.empty(shape, dtype).view(Array)

    def count():
        if error:
            raise CUDARuntimeError(error)
        return devices

    module.__version__, module.ndarray, module.empty = "0", Array, empty
    module.asnumpy = np.array
    module.get_default_memory_pool = lambda: types.SimpleNamespace(free_bytes=lambda: 0)
    runtime = types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=count,
        getDeviceProperties=lambda number: {"name": b"Emulator"},
    )
    module.cuda = types.SimpleNamespace(
        Device=lambda number: Device(module, number),
        runtime=runtime,
        get_current_stream=lambda: types.SimpleNamespace(synchronize=lambda: None),
        memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        function=types.SimpleNamespace(Module=Module),
    )
    driver = types.SimpleNamespace(
        CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES="static",
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES="dynamic",
        funcGetAttribute=lambda attribute, function: 1024,
        funcSetAttribute=lambda function, attribute, value: setattr(function, "shared_limit", value),
    )
    api = types.ModuleType("cupy_backends.cuda.api")
    api.driver = driver
    for name, part in {
        "cupy": module,
        "cupy_backends": types.ModuleType("cupy_backends"),
        "cupy_backends.cuda": types.ModuleType("cupy_backends.cuda"),
        "cupy_backends.cuda.api": api,
    }.items():
        monkeypatch.setitem(sys.modules, name, part)
    monkeypatch.setattr(
        "vqindex_gpu.launch.compiled", lambda kernel, macros, arch: json.dumps([kernel, dict(macros)]).encode()
    )
    return module
