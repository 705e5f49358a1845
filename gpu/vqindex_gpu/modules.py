"""Compile kernels: join the sources of a kernel, compile them with NVRTC, and cache the result on disk.

NVRTC is called through ctypes rather than CuPy. Tests on machines without a GPU can therefore compile exactly what runs
on a GPU.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from vqindex.errors import BackendError

__all__ = ["KERNELS", "Compiled", "Nvrtc", "compiled", "source", "to_flags"]

KERNELS = Path(__file__).parent / "kernels"
_USES = "// uses:"
# The options forbid contraction and flushing of subnormals, so that results equal the CPU's bit for bit.
OPTIONS = ("--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true", "--ptxas-options=-v")


def source(name: str) -> str:
    """Return the text of kernel `name`, after the text of the headers that its first line names.

    Kernels have no #include. One text is compiled, hashed for the cache, and run by the emulator.
    """
    text = (KERNELS / f"{name}.cu").read_text()
    first = text.partition("\n")[0]
    headers = first.removeprefix(_USES).split() if first.startswith(_USES) else []
    parts = [(KERNELS / header).read_text() for header in headers]
    return "\n".join([*parts, text])


def to_flags(macros: Mapping[str, int]) -> list[str]:
    """Return macros as compiler flags: SLOT=4 becomes -DVQ_SLOT=4."""
    return [f"-DVQ_{name}={value}" for name, value in sorted(macros.items())]


class Compiled(NamedTuple):
    """Output of the compiler.

    Attributes
    ----------
    binary : bytes
        A cubin (for ``sm_``) or PTX (for ``compute_``).
    log : str
        Messages of compiler and assembler: registers, spills, warnings.
    """

    binary: bytes
    log: str


def _library_paths() -> Iterator[str]:
    """Yield where libnvrtc may lie: in Python packages, on the loader's path, in the CUDA toolkit."""
    for version in ("13", "12"):
        spec = importlib.util.find_spec("nvidia")
        for root in (spec.submodule_search_locations or []) if spec else []:
            for package in ("cu13", "cuda_nvrtc"):
                path = Path(root) / package / "lib" / f"libnvrtc.so.{version}"
                if path.exists():
                    yield str(path)
    yield from ("libnvrtc.so.13", "libnvrtc.so.12")
    for folder in (os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if folder:
            yield str(Path(folder) / "lib64" / "libnvrtc.so")


class Nvrtc:
    """NVRTC, CUDA's runtime compiler.

    Raises
    ------
    BackendError
        If NVRTC is not installed.
    """

    def __init__(self) -> None:
        for path in _library_paths():
            try:
                self._lib = ctypes.CDLL(path)
                break
            except OSError:
                continue
        else:
            raise BackendError("NVRTC, CUDA's runtime compiler, was not found; pip install nvidia-cuda-nvrtc")
        self._lib.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)

    def _call(self, name: str, *args: object) -> None:
        status = getattr(self._lib, name)(*args)
        if status:
            raise BackendError(f"{name} failed: {self._lib.nvrtcGetErrorString(status).decode()}")

    def _fetch(self, what: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw

    def compile(self, name: str, macros: Mapping[str, int], arch: str) -> Compiled:
        """Compile a kernel to a cubin for an architecture such as ``sm_90a``, or to PTX for one such as ``compute_80``.

        Raises
        ------
        BackendError
            If the kernel does not compile, with the compiler's log.
        """
        program = ctypes.c_void_p()
        text, file = source(name).encode(), f"{name}.cu".encode()
        self._call("nvrtcCreateProgram", ctypes.byref(program), text, file, 0, None, None)
        try:
            flags = [f"--gpu-architecture={arch}", *OPTIONS, *to_flags(macros)]
            array = (ctypes.c_char_p * len(flags))(*[flag.encode() for flag in flags])
            status = self._lib.nvrtcCompileProgram(program, len(flags), array)
            log = self._fetch("ProgramLog", program).rstrip(b"\0").decode()
            if status:
                raise BackendError(f"{name}.cu does not compile for {arch}:\n{log}")
            return Compiled(self._fetch("CUBIN" if arch.startswith("sm_") else "PTX", program), log)
        finally:
            self._lib.nvrtcDestroyProgram(ctypes.byref(program))


@lru_cache(maxsize=1)
def _nvrtc() -> Nvrtc:
    return Nvrtc()


def _cache_folder() -> Path:
    root = os.environ.get("VQINDEX_CACHE") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "vqindex" / "cuda"


def compiled(name: str, macros: Mapping[str, int], arch: str) -> bytes:
    """Return a kernel's cubin from the cache on disk, compiling it first if the cache lacks it.

    The file name contains a hash of the joined source, the options, the compiler's version and the architecture.
    """
    nvrtc = _nvrtc()
    inputs = repr((source(name), OPTIONS, to_flags(macros), nvrtc.version, arch))
    path = _cache_folder() / f"{name}-{hashlib.sha256(inputs.encode()).hexdigest()[:32]}.cubin"
    try:
        return path.read_bytes()
    except OSError:
        binary = nvrtc.compile(name, macros, arch).binary
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(binary)
        temporary.replace(path)
    except OSError:
        pass  # without a writable cache, the kernel is compiled again next time
    return binary
