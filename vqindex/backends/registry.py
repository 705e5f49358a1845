"""The backend of a device name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from typing import Literal

from ..codes.codec import Codec
from ..errors import BackendError, SlowCodecWarning, outside_of_package
from ..spec import IndexSpec
from .protocol import Backend

__all__ = ["Device", "available", "make_backend", "resolve", "warn_of_numpy_steps"]


# The names that users pass, for type checkers; `resolve` checks them at run time.
Device = Literal["auto", "cpu", "cuda", "native", "reference"]

# Factories import their backends when called: importing vqindex stays quick, and only a GPU needs CuPy.


def _native(codec: Codec) -> Backend:
    from .cpu import NativeBackend

    return NativeBackend(codec)


def _reference(codec: Codec) -> Backend:
    from .reference import ReferenceBackend

    return ReferenceBackend(codec)


def _cuda(codec: Codec) -> Backend:
    from vqindex_gpu.backend import CudaBackend
    from vqindex_gpu.cupy_device import find_devices

    return CudaBackend(codec, find_devices())


# To register a backend, add its name and a factory, which may raise BackendError with the reason.
_FACTORIES: dict[str, Callable[[Codec], Backend]] = {"native": _native, "reference": _reference, "cuda": _cuda}
_NEED_DEVICES = ("cuda",)


def available() -> tuple[str, ...]:
    """Return the names of the backends that need no special device."""
    return tuple(name for name in _FACTORIES if name not in _NEED_DEVICES)


def resolve(device: str = "auto") -> str:
    """Return the backend's name for a device: ``auto``, ``cpu``, ``cuda`` or a backend's own name.

    The environment variable VQINDEX_BACKEND sets the backend of ``auto`` and ``cpu``; without it both are ``native``. A
    GPU is used only if the caller or the variable requests it.

    Raises
    ------
    BackendError
        If this build has no such backend.
    """
    name = device
    if device in ("auto", "cpu"):
        name = os.environ.get("VQINDEX_BACKEND") or "native"
        if device == "cpu" and name in _NEED_DEVICES:
            name = "native"
    if not isinstance(name, str) or name not in _FACTORIES:
        origin = f"VQINDEX_BACKEND is {name!r}" if name != device else f"device is {device!r}"
        raise BackendError(f"{origin}; this build has: auto, cpu, {', '.join(_FACTORIES)}")
    return name


def make_backend(codec: Codec, device: str = "auto") -> Backend:
    """Build the backend for a device."""
    return _FACTORIES[resolve(device)](codec)


def warn_of_numpy_steps(backend: Backend, spec: IndexSpec) -> None:
    """Warn, once in a process for each kind of codec, that NumPy runs steps for which the backend has no kernel.

    For the reference backend, which is NumPy on purpose, it gives no warning.
    """
    if backend.numpy_steps and backend.name != "reference":
        _warn_once(backend.name, backend.numpy_steps, spec.codec, spec.sketch, spec.rotation)


@cache
def _warn_once(name: str, steps: tuple[str, ...], codec: str, sketch: str, rotation: str) -> None:
    kind = f"codec {codec!r}" + ("" if sketch == "none" else f", sketch {sketch!r}")
    warnings.warn(
        f"backend {name!r} has no kernel to {', '.join(steps)} for {kind}, rotation {rotation!r}; NumPy does it, with "
        "the same results but tens of times slower",
        SlowCodecWarning,
        stacklevel=outside_of_package(),
    )
