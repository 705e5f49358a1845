"""Which backend a device name means."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from functools import cache

from ..codes.codec import Codec
from ..errors import BackendError, SlowCodecWarning
from ..spec import IndexSpec
from .protocol import Backend

__all__ = ["available", "make_backend", "resolve", "warn_of_numpy_steps"]


# Factories import what they build: importing vqindex stays quick, and CuPy is needed only for a GPU.


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


# A new backend is one line here: a name and a factory that may raise BackendError with the reason.
_FACTORIES: dict[str, Callable[[Codec], Backend]] = {"native": _native, "reference": _reference, "cuda": _cuda}
_NEED_DEVICES = ("cuda",)


def available() -> tuple[str, ...]:
    """Return the names of the backends that run wherever this build does."""
    return tuple(name for name in _FACTORIES if name not in _NEED_DEVICES)


def resolve(device: str = "auto") -> str:
    """Return the backend's name for a device: ``auto``, ``cpu``, ``cuda`` or a backend's own name.

    The environment variable VQINDEX_BACKEND decides what ``auto`` and ``cpu`` mean; without it both are ``native``. So
    a GPU is used where it is asked for, never because it is there.

    Raises
    ------
    BackendError
        If this build has no such backend.
    """
    wanted = device
    if device in ("auto", "cpu"):
        wanted = os.environ.get("VQINDEX_BACKEND") or "native"
        if device == "cpu" and wanted in _NEED_DEVICES:
            wanted = "native"
    if wanted not in _FACTORIES:
        origin = f"VQINDEX_BACKEND is {wanted!r}" if wanted != device else f"device is {device!r}"
        raise BackendError(f"{origin}; this build has: auto, cpu, {', '.join(_FACTORIES)}")
    return wanted


def make_backend(codec: Codec, device: str = "auto") -> Backend:
    """Build the backend for a device."""
    return _FACTORIES[resolve(device)](codec)


def warn_of_numpy_steps(backend: Backend, spec: IndexSpec) -> None:
    """Warn, once in a process for each kind of codec, that NumPy runs steps for which the backend has no kernel.

    The reference backend is NumPy by intention: it is not warned of.
    """
    if backend.numpy_steps and backend.name != "reference":
        _warn_once(backend.name, backend.numpy_steps, spec.codec, spec.sketch, spec.rotation)


def _outside() -> int:
    """Return the stacklevel, for the calling function, of the first frame outside the package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "vqindex":
        frame, level = frame.f_back, level + 1
    return level


@cache
def _warn_once(name: str, steps: tuple[str, ...], codec: str, sketch: str, rotation: str) -> None:
    kind = f"codec {codec!r}" + ("" if sketch == "none" else f", sketch {sketch!r}")
    warnings.warn(
        f"backend {name!r} has no kernel to {', '.join(steps)} for {kind}, rotation {rotation!r}; NumPy does it, with "
        "the same results but tens of times slower",
        SlowCodecWarning,
        stacklevel=_outside(),
    )
