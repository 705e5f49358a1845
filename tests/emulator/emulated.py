"""A device for the engine that is this CPU: kernels run in the emulator, memory is watched.

Arrays stand between guard bytes, which are checked after every launch, and begin as garbage.
"""

import ctypes
import hashlib
import os
import subprocess
import weakref
from pathlib import Path

import numpy as np

from vqindex.errors import BackendError
from vqindex_gpu import modules

HERE = Path(__file__).parent
BUILT = HERE.parent.parent / "build" / "emulator"
GUARD = 64
# No contraction of float operations, and shared variables are memory, whatever a call is known to touch.
FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-fno-ipa-reference", "-U_FORTIFY_SOURCE", "-fPIC", "-shared", "-w"]


class EmulatorError(Exception):
    """A kernel hung, or wrote where it may not."""


class DeviceArray(np.ndarray):
    """Memory of the emulated device: launches take nothing else."""


def library(kernel, macros, edit=None):
    """Compile a kernel for this machine, or take it from the build folder; return its entry.

    `edit` maps the source to another one: what a test breaks on purpose.
    """
    text = modules.source(kernel)
    text = text if edit is None else edit(text)
    flags = [*FLAGS, *modules.to_flags(macros)]
    header = HERE / "cuda.hpp"
    key = hashlib.sha256(repr((text, flags, header.read_text())).encode()).hexdigest()[:24]
    path = BUILT / f"{kernel}-{key}.so"
    if not path.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        temporary = BUILT / f"{kernel}-{key}.{os.getpid()}"
        whole = f'#include "{header}"\n{text}\nVQ_EMULATE(vq_{kernel})\n'
        command = [os.environ.get("CXX", "g++"), *flags, "-x", "c++", "-", "-o", str(temporary)]
        done = subprocess.run(command, input=whole, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        temporary.replace(path)
    entry = ctypes.CDLL(str(path)).emulate
    entry.restype = ctypes.c_char_p
    entry.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64]
    return entry


class EmulatedDevice:
    """The engine's view of the emulator.

    Parameters
    ----------
    seed : int
        Of the order of threads; 0 is round-robin.
    memory : int
        Bytes that can be allocated.
    """

    name = "emulator"
    shared_bytes = 227 << 10

    def __init__(self, seed=1, memory=2**40, edit=None):
        self.seed, self.memory, self.edit = seed, memory, edit
        self.used = 0
        self.launches = []
        self._entries = {}
        self._guarded = {}

    def empty(self, shape, dtype):
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        if self.used + size > self.memory:
            raise BackendError(f"{self.name}: {size} bytes are needed and {self.memory - self.used} are free")
        room = np.frombuffer(bytearray(size + 2 * GUARD + 16), np.uint8)
        start = GUARD + -(room.ctypes.data + GUARD) % 16
        room[:] = 0xA5
        room[start : start + size] = 0xC3
        self.used += size
        array = room[start : start + size].view(dtype).reshape(shape).view(DeviceArray)
        self._guarded[id(room)] = (room, start, size, weakref.ref(array))
        return array

    def _forget(self):
        for key, (room, start, size, array) in list(self._guarded.items()):
            if array() is None:
                self.used -= size
                del self._guarded[key]
            elif not ((room[:start] == 0xA5).all() and (room[start + size :] == 0xA5).all()):
                raise EmulatorError("a kernel wrote outside of its arrays")

    def owns(self, array):
        return isinstance(array, DeviceArray)

    def upload(self, array):
        out = self.empty(array.shape, array.dtype)
        out[...] = array
        return out

    def download(self, array):
        assert isinstance(array, DeviceArray)
        return np.array(array)

    def copy_to(self, target, array):
        assert isinstance(target, DeviceArray)
        assert target.shape == array.shape
        assert target.dtype == array.dtype
        target[...] = array

    def synchronize(self):
        pass

    def fill(self, array, value):
        assert array.flags.c_contiguous
        array.reshape(-1).view(np.uint8)[...] = value

    def address(self, array):
        assert isinstance(array, DeviceArray)
        return array.ctypes.data

    def free_bytes(self):
        self._forget()
        return self.memory - self.used

    def launch(self, kernel, macros, grid, threads, arguments, shared=0):
        assert shared <= self.shared_bytes
        assert grid[0] >= 1
        assert 1 <= grid[1] < 65536
        key = (kernel, tuple(sorted(macros.items())))
        if key not in self._entries:
            self._entries[key] = library(kernel, macros, self.edit)
        values = []
        for argument in arguments:
            if argument is None or isinstance(argument, DeviceArray):
                values.append(ctypes.c_uint64(0 if argument is None else argument.ctypes.data))
            else:
                assert isinstance(argument, np.generic), f"{kernel}: {argument!r} is no device array and no scalar"
                values.append(ctypes.create_string_buffer(argument.tobytes(), argument.itemsize))
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
        shape = (ctypes.c_uint32 * 4)(*grid, threads, shared)
        self.launches.append(kernel)
        error = self._entries[key](pointers, shape, self.seed)
        if error:
            raise EmulatorError(f"{kernel}: {error.decode()}")
        self._forget()
