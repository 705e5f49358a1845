"""EmulatedDevice: a `Device` on the CPU, which runs kernels in the emulator and checks their memory accesses.

Arrays contain garbage at first. Guard bytes around each array are checked after every launch.
"""

import contextlib
import ctypes
import hashlib
import os
import random
import subprocess
import threading
import weakref
from pathlib import Path

import numpy as np

from vqindex.errors import BackendError
from vqindex_gpu import modules

FOLDER = Path(__file__).parent
BUILT = FOLDER.parent.parent / "build" / "emulator"
GUARD = 64
# The flags forbid contraction of float operations, and keep shared variables in memory across calls that, as far as the
# compiler knows, do not change them.
FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-fno-ipa-reference", "-U_FORTIFY_SOURCE", "-fPIC", "-shared", "-w"]


class EmulatorError(Exception):
    """A kernel hung or wrote outside of its arrays."""


class DeviceArray:
    """Memory of the emulated device. Launches take no other arrays, and as with CuPy the host cannot read it.

    Attributes
    ----------
    memory : ndarray
        The memory itself, for use in this folder only.
    """

    def __init__(self, memory, root=None):
        self.memory, self.root = memory, root  # a view keeps its allocation alive
        self.owner = None if root is None else root.owner  # the emulated device

    shape = property(lambda self: self.memory.shape)
    dtype = property(lambda self: self.memory.dtype)
    strides = property(lambda self: self.memory.strides)
    size = property(lambda self: self.memory.size)
    nbytes = property(lambda self: self.memory.nbytes)
    ndim = property(lambda self: self.memory.ndim)
    flags = property(lambda self: self.memory.flags)
    address = property(lambda self: self.memory.ctypes.data)

    def _part(self, memory):
        assert np.may_share_memory(memory, self.memory) or not memory.size
        return type(self)(memory, self.root or self)

    def __len__(self):
        return len(self.memory)

    def __getitem__(self, at):
        return self._part(self.memory[at])

    def reshape(self, *shape):
        return self._part(self.memory.reshape(*shape))

    def view(self, dtype):
        return self._part(self.memory.view(dtype))

    @property
    def T(self):  # noqa: N802 - the name that array libraries use
        return self._part(self.memory.T)

    def __array__(self, *_, **__):
        raise TypeError("device memory is not converted to a NumPy array implicitly")


def library(kernel, macros, edit=None):
    """Return the entry of a kernel compiled for this machine, from the build folder if it is up to date.

    `edit` maps the source to a changed one, for tests that break a kernel on purpose.
    """
    text = modules.source(kernel)
    text = text if edit is None else edit(text)
    flags = [*FLAGS, *modules.to_flags(macros)]
    header = FOLDER / "cuda.hpp"
    digest = hashlib.sha256(repr((text, flags, header.read_text())).encode()).hexdigest()[:24]
    path = BUILT / f"{kernel}-{digest}.so"
    if not path.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        temporary = BUILT / f"{kernel}-{digest}.{os.getpid()}"
        whole = f'#include "{header}"\n{text}\nVQ_EMULATE(vq_{kernel})\n'
        command = [os.environ.get("CXX", "g++"), *flags, "-x", "c++", "-", "-o", str(temporary)]
        done = subprocess.run(command, input=whole, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        temporary.replace(path)
    entry = ctypes.CDLL(str(path)).emulate
    entry.restype = ctypes.c_char_p
    entry.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64]
    return entry


class Event:
    """A point in a stream; `done` is set when all work before it is done."""

    def __init__(self, device, stream):
        self.device, self.stream, self.done = device, stream, False

    def synchronize(self):
        with self.device.lock:
            self.device.run_until(lambda: self.done, self.stream)


class EmulatedDevice:
    """A device whose kernels run in the emulator.

    Parameters
    ----------
    seed : int
        Seed of the order of threads; 0 is round-robin.
    memory : int
        Bytes that can be allocated.
    edit : callable, optional
        Maps a kernel's source to a changed one, for tests that break a kernel on purpose.
    schedule : {"now", "late", "sides first", "random"}
        When work in streams runs. "now": at once. "late": only when the host or another stream waits for it. "sides
        first": at once in side streams, late in the main stream. "random": at random times. "late" and "sides first"
        find every missing wait.
    """

    name = "emulator"
    shared_bytes = 227 << 10

    def __init__(self, seed=1, memory=2**40, edit=None, schedule="now"):
        self.seed, self.memory, self.edit, self.schedule = seed, memory, edit, schedule
        self.used = 0
        self.launches = []
        self.downloaded = 0  # bytes
        self.lock = threading.RLock()
        self._main = []
        self._streams = [self._main]
        self._of_thread = threading.local()
        self._entries = {}
        self._chance = random.Random(seed)
        self._guarded = {}
        self._freed = []

    # ---- memory

    def empty(self, shape, dtype, kind=DeviceArray):
        with self.lock:
            dtype = np.dtype(dtype)
            size = int(np.prod(shape)) * dtype.itemsize
            self._forget()
            if self.used + size > self.memory:
                raise BackendError(f"{self.name}: {size} bytes are needed and {self.memory - self.used} are free")
            room = np.frombuffer(bytearray(size + 2 * GUARD + 16), np.uint8)
            start = GUARD + -(room.ctypes.data + GUARD) % 16
            room[:] = 0xA5
            room[start : start + size] = 0xC3
            self.used += size
            array = kind(room[start : start + size].view(dtype).reshape(shape))
            array.owner = self
            self._guarded[id(room)] = (room, start, size, weakref.ref(array))
            return array

    def _forget(self):
        for key, (room, start, size, array) in list(self._guarded.items()):
            if array() is None:
                self.used -= size
                del self._guarded[key]
                self._freed.append(room)
            elif not ((room[:start] == 0xA5).all() and (room[start + size :] == 0xA5).all()):
                raise EmulatorError("a kernel wrote outside of its arrays")
        if not any(self._streams):  # work in a stream may still use freed memory
            self._freed.clear()

    def free_bytes(self):
        with self.lock:
            self._forget()
            return self.memory - self.used

    def owns(self, array):
        return isinstance(array, DeviceArray) and array.owner is self

    def address(self, array):
        assert self.owns(array)
        return array.address

    def staging(self, size):
        return np.full(size, 0xC3, np.uint8)

    # ---- streams

    def _now(self):
        return getattr(self._of_thread, "stream", self._main)

    def side_stream(self):
        self._streams.append([])
        return self._streams[-1]

    @contextlib.contextmanager
    def on(self, stream):
        before, self._of_thread.stream = self._now(), stream
        try:
            yield
        finally:
            self._of_thread.stream = before

    def put(self, work):
        """Put work into the current stream: a callable, or an event to wait for."""
        with self.lock:
            self._now().append(work)
            for stream in self._streams:
                while stream and self._goes_on(stream) and self._step(stream):
                    pass

    def _goes_on(self, stream):
        """Return whether a stream runs before anything waits for it."""
        if self.schedule == "random":
            return self._chance.random() < 0.7
        return self.schedule == "now" or (self.schedule == "sides first" and stream is not self._main)

    @staticmethod
    def _step(stream):
        """Run the next work of a stream; return False if it waits for an event."""
        if isinstance(stream[0], Event):
            if not stream[0].done:
                return False
            stream.pop(0)
        else:
            stream.pop(0)()
        return True

    def run_until(self, done, stream):
        """Run a stream, and those that it waits for, only as far as needed."""
        while not done():
            assert stream, "waits for an event that no stream contains"
            if not self._step(stream):
                Event.synchronize(stream[0])  # the original, even if a test has replaced the method

    def synchronize(self):
        with self.lock:
            stream = self._now()
            self.run_until(lambda: not stream, stream)

    def record(self):
        event = Event(self, self._now())
        self.put(lambda: setattr(event, "done", True))
        return event

    def wait(self, event):
        self.put(event)

    # ---- copies

    def upload(self, array):
        out = self.empty(array.shape, array.dtype)
        self.copy_to(out, array)
        return out

    def copy_to(self, target, array):
        assert self.owns(target)
        assert isinstance(array, np.ndarray)
        assert (target.shape, target.dtype) == (array.shape, array.dtype)
        taken = np.array(array)  # memory that is not pinned may change at once
        self.put(lambda: target.memory.__setitem__(..., taken))

    def copy_staged(self, target, staged):
        assert (target.shape, target.dtype) == (staged.shape, staged.dtype)
        self.put(lambda: target.memory.__setitem__(..., staged))

    def copy(self, target, source):
        assert (target.shape, target.dtype) == (source.shape, source.dtype)
        self.put(lambda: target.memory.__setitem__(..., source.memory))

    def bring(self, array):
        assert not self.owns(array)
        assert not any(array.owner._streams), "copied from another device whose work may not be done"
        return self.upload(array.memory)

    def fill(self, array, value):
        assert array.flags.c_contiguous
        self.put(lambda: array.memory.reshape(-1).view(np.uint8).__setitem__(..., value))

    def download(self, array):
        assert self.owns(array)
        self.synchronize()
        self.downloaded += array.nbytes
        return np.array(array.memory)

    # ---- callers' arrays

    def adopt(self, array):
        return array if self.owns(array) else None

    def give(self, array, like):
        assert self.owns(like)
        return array

    # ---- kernels

    def launch(self, kernel, macros, grid, threads, arguments, shared=0):
        assert shared <= self.shared_bytes
        assert grid[0] >= 1
        assert 1 <= grid[1] < 65536
        key = (kernel, tuple(sorted(macros.items())))
        if key not in self._entries:
            self._entries[key] = library(kernel, macros, self.edit)
        values = []
        for argument in arguments:
            if argument is None or self.owns(argument):
                values.append(np.uint64(0 if argument is None else argument.address))
            else:
                assert isinstance(argument, np.generic), (
                    f"{kernel}: {argument!r} is no device array and no NumPy scalar"
                )
                values.append(argument)
        self.launches.append(kernel)
        self.run(kernel, self._entries[key], (*grid, threads, shared), values)

    def run(self, kernel, entry, shape, values):
        """Put a launch into the current stream; values are NumPy scalars, addresses among them."""

        def work():
            buffers = [ctypes.create_string_buffer(value.tobytes(), value.itemsize) for value in values]
            pointers = (ctypes.c_void_p * len(buffers))(*[ctypes.addressof(buffer) for buffer in buffers])
            error = entry(pointers, (ctypes.c_uint32 * 4)(*shape), self.seed)
            if error:
                raise EmulatorError(f"{kernel}: {error.decode()}")
            self._forget()

        self.put(work)
