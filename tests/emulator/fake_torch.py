"""A stand-in for the part of torch that exchanges tensors, on the emulated device of `fake_cupy`.

A tensor's values arrive in a stream of the tensor's own, like the output of a model that still runs. A consumer whose
stream does not wait, as DLPack requires, reads garbage. Copies to the host are refused.
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
        return 2, self.array.owner.number

    def __dlpack__(self, *, stream, max_version=None, copy=None):
        self.seen.append(stream)
        memory = self.array.owner
        with memory.on(self.stream):
            event = memory.record()
        with memory.on(memory._streams[stream - 1]):
            memory.wait(event)
        return fake_cupy.Capsule(self.array)


class Bfloat16(Tensor):
    """The upper half of float32's bits, a type that NumPy lacks."""

    dtype = "torch.bfloat16"

    def detach(self):
        return Bfloat16(self.array, self.stream, self.seen)

    def float(self):
        return Tensor(self.array, self.stream, self.seen)

    def __dlpack__(self, **_):
        raise BufferError("NumPy has no bfloat16")


class Named:
    """An array with only `__cuda_array_interface__`, as Numba's; it names the stream to wait for."""

    def __init__(self, array, stream):
        self.array, self.stream = array, stream

    @property
    def __cuda_array_interface__(self):
        number = 1 + next(i for i, other in enumerate(self.array.owner._streams) if other is self.stream)
        return {"version": 3, "stream": number}


class Torch(types.ModuleType):
    """The module; `seen` lists the streams that its tensors received."""

    def __init__(self, cupy):
        super().__init__("torch")
        self.cupy, self.seen = cupy, []

    def late(self, values, number=0):
        """Return an array, and the stream that will write its values."""
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
        """Passes a new stream to the producer, as torch passes its own."""
        memory = self.cupy.memories[array.__dlpack_device__()[1]]
        stream = memory.side_stream()
        capsule = array.__dlpack__(stream=len(memory._streams))
        assert isinstance(capsule.array, emulated.DeviceArray)
        return Tensor(capsule.array, stream, self.seen)


def read(tensor):
    """Return the values that torch itself reads, after its stream is done."""
    memory = tensor.array.owner
    with memory.on(tensor.stream):
        memory.synchronize()
    return np.array(tensor.array.memory)


def install(monkeypatch, cupy):
    """Replace torch by the stand-in."""
    module = Torch(cupy)
    monkeypatch.setitem(sys.modules, "torch", module)
    return module
