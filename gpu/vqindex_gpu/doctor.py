"""Checks of the CUDA set-up: what device 'cuda' needs, what was found, and how to repair what is missing."""

from __future__ import annotations

import ctypes
import importlib.metadata
from collections.abc import Iterator
from typing import NamedTuple

from vqindex.errors import BackendError

from .cupy_device import INSTALL, import_cupy
from .modules import Nvrtc

__all__ = ["Check", "checks"]

_DRIVER = "install NVIDIA's driver from your distribution, e.g. apt install nvidia-driver-580, and restart"
_NO_GPU = "this machine has no NVIDIA GPU that the driver sees; nvidia-smi lists them"


class Check(NamedTuple):
    """The check of one thing that device 'cuda' needs.

    Attributes
    ----------
    name : str
        Name of the thing.
    ok : bool
        Whether it works.
    found : str
        Its version or description, or what went wrong.
    repair : str
        How to repair it; empty if it works.
    """

    name: str
    ok: bool
    found: str
    repair: str = ""


def _driver() -> tuple[Check, int | None]:
    """Return the check of the driver, and the major version of CUDA that it supports."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return Check("driver", False, str(error), _DRIVER), None
    version = ctypes.c_int()
    status = library.cuDriverGetVersion(ctypes.byref(version))  # does not initialize CUDA
    if status:
        return Check("driver", False, f"cuDriverGetVersion gives {status}", _DRIVER), None
    major, minor = version.value // 1000, version.value % 1000 // 10
    return Check("driver", True, f"CUDA {major}.{minor}"), major


def _cupy() -> Check:
    try:
        cupy = import_cupy()
    except BackendError as error:
        return Check("CuPy", False, str(error.__cause__ or error), INSTALL)
    named = [dist for dist in ("cupy-cuda13x", "cupy-cuda12x", "cupy") if _installed(dist)]
    return Check("CuPy", True, f"{cupy.__version__} ({', '.join(named) or 'own build'})")


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _nvrtc(driver: int | None) -> Check:
    try:
        major, minor = Nvrtc().version
    except BackendError as error:
        return Check("NVRTC", False, str(error), INSTALL)
    if driver is not None and major > driver:
        found = f"{major}.{minor}, which needs newer drivers than this one of CUDA {driver}"
        return Check("NVRTC", False, found, f"pip uninstall nvidia-cuda-nvrtc; pip install 'vqindex[gpu-cuda{driver}]'")
    return Check("NVRTC", True, f"{major}.{minor}")


def _devices() -> Iterator[Check]:
    from .cupy_device import find_devices

    try:
        devices = find_devices()
    except BackendError as error:
        yield Check("device", False, str(error), _NO_GPU)
        return
    for device in devices:
        free = device.free_bytes() / 2**30
        yield Check("device", True, f"{device.name}, {device.arch}, {free:.1f} GiB free")


def checks() -> list[Check]:
    """Check the driver, CuPy and the compiler, and if all work, the devices."""
    driver, major = _driver()
    found = [driver, _cupy(), _nvrtc(major)]
    if all(check.ok for check in found):
        found.extend(_devices())
    return found
