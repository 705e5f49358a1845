"""A stand-in for the part of CuPy that cupy_device.py uses, on the emulated device.

It lets the tests run cupy_device.py itself. It checks two rules of CuPy's launches: arguments are NumPy scalars (None
would be a null pointer to the argument, not a null argument), and dynamic shared memory above 48 KiB requires an
attribute of the function.
"""

import ctypes
import json
import sys
import threading
import types

import emulated
import numpy as np

OPT_IN = 227 << 10


class CUDARuntimeError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


class Pointer:
    """cupy.cuda.MemoryPointer."""

    def __init__(self, array):
        self.array, self.ptr = array, array.address

    def memset_async(self, value, size):
        assert size == self.array.nbytes
        self.array.owner.fill(self.array, value)

    def copy_from_device_async(self, source, size):
        assert size == self.array.nbytes == source.array.nbytes
        self.array.owner.copy(self.array, source.array)

    def copy_from_host_async(self, address, size):
        assert size == self.array.nbytes
        staged = np.frombuffer((ctypes.c_char * size).from_address(address), self.array.dtype)
        self.array.owner.copy_staged(self.array, staged.reshape(self.array.shape))


class Array(emulated.DeviceArray):
    """cupy.ndarray: `data` is a pointer object, `set` copies from the host."""

    data = property(lambda self: Pointer(self))
    device = property(lambda self: types.SimpleNamespace(id=self.owner.number))

    def set(self, array):
        assert type(array) is np.ndarray
        assert array.flags.c_contiguous
        assert self.flags.c_contiguous
        self.owner.copy_to(self, array)

    def copy(self):
        return self.owner.module.take(self)

    def __dlpack_device__(self):
        return 2, self.owner.number

    def __dlpack__(self, *, stream, max_version=None, copy=None):
        self.owner.wait_for_ours(stream)
        return Capsule(self)


class Capsule:
    """The return value of `__dlpack__`: an array and its owner."""

    def __init__(self, array):
        self.array = array


class Memory(emulated.EmulatedDevice):
    """The memory and streams of one device; its null stream has the number 1, as in DLPack."""

    def __init__(self, module, number, **kwargs):
        super().__init__(**kwargs)
        self.module, self.number = module, number

    def stream_number(self):
        stream = self._now()
        return 1 + next(i for i, other in enumerate(self._streams) if other is stream)

    def wait_for_ours(self, number):
        """Make another library's stream wait for the current one."""
        event = self.record()
        with self.on(self._streams[number - 1]):
            self.wait(event)


class Stream:
    def __init__(self, memory):
        self.memory, self.ours, self.inside = memory, memory.side_stream(), []

    def __enter__(self):
        self.inside.append(self.memory.on(self.ours))
        self.inside[-1].__enter__()

    def __exit__(self, *error):
        self.inside.pop().__exit__(*error)


class Event:
    def __init__(self, module):
        self.module = module

    def record(self):
        self.ours = self.module.current().record()

    def synchronize(self):
        self.ours.synchronize()


class Function:
    def __init__(self, module, kernel, macros):
        self.module, self.kernel = module, kernel
        self.entry = emulated.library(kernel, macros)
        self.shared_limit = 48 << 10

    @property
    def ptr(self):
        return self

    def __call__(self, grid, block, args, shared_mem=0):
        assert isinstance(args, tuple)
        assert all(isinstance(value, np.generic) for value in args)
        assert shared_mem <= self.shared_limit
        assert (grid[2], block[1], block[2]) == (1, 1, 1)
        self.module.current().run(self.kernel, self.entry, (grid[0], grid[1], block[0], shared_mem), args)


class Device:
    attributes = {"MaxSharedMemoryPerBlockOptin": OPT_IN}  # noqa: RUF012
    compute_capability = "90"

    def __init__(self, module, number):
        self._module, self.number = module, number

    @property
    def mem_info(self):
        memory = self._module.memories[self.number]
        return memory.free_bytes(), memory.memory

    def __enter__(self):
        self._module.inside.append(self.number)

    def __exit__(self, *_):
        self._module.inside.pop()


class CuPy(types.ModuleType):
    """The module itself."""

    def __init__(self, devices, **kwargs):
        super().__init__("cupy")
        self.__version__, self.ndarray = "0", Array
        self.memories = [Memory(self, number, **kwargs) for number in range(devices)]
        self.of_thread = threading.local()
        self.cuda = types.SimpleNamespace(
            Device=lambda number: Device(self, number),
            Event=lambda disable_timing: Event(self),
            Stream=self.stream,
            alloc_pinned_memory=lambda size: self.current().staging(size),
            get_current_stream=lambda: types.SimpleNamespace(
                synchronize=lambda: self.current().synchronize(),
                wait_event=lambda event: self.current().wait(event.ours),
            ),
            memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            function=types.SimpleNamespace(Module=lambda: Module(self)),
        )

    @property
    def inside(self):
        """The devices whose contexts this thread has entered."""
        if not hasattr(self.of_thread, "inside"):
            self.of_thread.inside = []
        return self.of_thread.inside

    def current(self):
        assert self.inside, "the caller depends on the current device"
        return self.memories[self.inside[-1]]

    def stream(self, non_blocking):
        assert non_blocking, "the null stream and this stream would wait for each other"
        return Stream(self.current())

    def empty(self, shape, dtype):
        memory = self.current()
        if int(np.prod(shape)) * np.dtype(dtype).itemsize > memory.free_bytes():
            raise OutOfMemoryError
        return memory.empty(shape, dtype, Array)

    def put(self, array, number=0):
        """Return a host array as the caller's array on a device."""
        out = self.memories[number].empty(array.shape, array.dtype, Array)
        out.memory[...] = array
        return out

    def take(self, array):
        """Return a copy on the current device of an array of another one."""
        assert not any(array.owner._streams), "copied from another device whose work may not be done"
        out = self.empty(array.shape, array.dtype)
        out.memory[...] = array.memory
        return out

    def asnumpy(self, array):
        return self.current().download(array)

    def from_dlpack(self, array):
        """Passes CuPy's current stream to the producer, as CuPy does."""
        kind, number = array.__dlpack_device__()
        assert kind == 2
        capsule = array.__dlpack__(stream=self.memories[number].stream_number(), max_version=(1, 0), copy=None)
        return Array(capsule.array.memory, capsule.array)

    def asarray(self, array):
        """Waits for the stream that `__cuda_array_interface__` names, as CuPy does."""
        what = array.__cuda_array_interface__
        assert what["version"] == 3
        memory = self.current()
        if what["stream"] is not None:
            event = types.SimpleNamespace(stream=memory._streams[what["stream"] - 1])
            memory.run_until(lambda: not event.stream, event.stream)
        return array.array

    def get_default_memory_pool(self):
        return types.SimpleNamespace(free_bytes=lambda: 0)


class Module:
    def __init__(self, module):
        self.module = module

    def load(self, cubin):
        self.kernel, self.macros = json.loads(cubin)

    def get_function(self, name):
        assert name == f"vq_{self.kernel}"
        return Function(self.module, self.kernel, self.macros)


def install(monkeypatch, devices=1, error=None, **kwargs):
    """Replace CuPy by a stand-in with some devices, or by one whose driver raises an error."""
    module = CuPy(devices, **kwargs)

    def count():
        if error:
            raise CUDARuntimeError(error)
        return devices

    module.cuda.runtime = types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=count,
        getDeviceProperties=lambda number: {"name": b"Emulator"},
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
        "vqindex_gpu.cupy_device.compiled", lambda kernel, macros, arch: json.dumps([kernel, dict(macros)]).encode()
    )
    return module
