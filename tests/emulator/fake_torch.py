"""As much of torch as takes part in an exchange of tensors, on the emulated device of `fake_cupy`.

A tensor's values come in a stream of its own, like those that a model has just been asked for: whoever does not let its
stream wait, as DLPack says, reads garbage. Copies to the host are refused.
"""

import sys
import types

import emulated
import fake_cupy
import numpy as np


class Tensor:
    __module__ = "torch"

    def __init__(self, array, stream, seen):
        self.array, self.stream, self.seen = array, stream, seen

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: f"torch.{self.array.dtype}")

    def detach(self):
        return Tensor(self.array, self.stream, self.seen)

    def cpu(self):
        raise AssertionError("copied to the host")

    numpy = __array__ = cpu

    def __dlpack_device__(self):
        return 2, self.array.home.number

    def __dlpack__(self, *, stream, max_version=None, copy=None):
        self.seen.append(stream)
        memory = self.array.home
        with memory.on(self.stream):
            event = memory.record()
        with memory.on(memory._streams[stream - 1]):
            memory.wait(event)
        return fake_cupy.Capsule(self.array)


class Bfloat16(Tensor):
    """Half of the bits of float32, which DLPack has no NumPy type for."""

    dtype = "torch.bfloat16"

    def detach(self):
        return Bfloat16(self.array, self.stream, self.seen)

    def float(self):
        return Tensor(self.array, self.stream, self.seen)

    def __dlpack__(self, **_):
        raise BufferError("no NumPy type is bfloat16")


class Named:
    """An array that has `__cuda_array_interface__` alone, as Numba's: it names the stream to wait for."""

    def __init__(self, array, stream):
        self.array, self.stream = array, stream

    @property
    def __cuda_array_interface__(self):
        number = 1 + next(i for i, other in enumerate(self.array.home._streams) if other is self.stream)
        return {"version": 3, "stream": number}


class Torch(types.ModuleType):
    """The module, its tensors and the streams that they showed to it and were shown."""

    def __init__(self, cupy):
        super().__init__("torch")
        self.cupy, self.seen = cupy, []

    def late(self, values, number=0):
        """Return memory of a device, and a stream that will bring the values there."""
        memory = self.cupy.memories[number]
        array, stream = memory.empty(values.shape, values.dtype, fake_cupy.Array), memory.side_stream()
        with memory.on(stream):
            memory.copy_to(array, values)
        return array, stream

    def tensor(self, values, number=0, kind=Tensor):
        return kind(*self.late(values, number), self.seen)

    def named(self, values):
        return Named(*self.late(values))

    def from_dlpack(self, array):
        """As torch's: shows its own stream, here a new one, to the producer."""
        memory = self.cupy.memories[array.__dlpack_device__()[1]]
        stream = memory.side_stream()
        capsule = array.__dlpack__(stream=len(memory._streams))
        assert isinstance(capsule.array, emulated.DeviceArray)
        return Tensor(capsule.array, stream, self.seen)


def read(tensor):
    """What torch itself would read: when its stream is done."""
    memory = tensor.array.home
    with memory.on(tensor.stream):
        memory.synchronize()
    return np.array(tensor.array.memory)


def install(monkeypatch, cupy):
    """Put a torch in place of the real one."""
    module = Torch(cupy)
    monkeypatch.setitem(sys.modules, "torch", module)
    return module
