"""The Backend protocol, what passes through it, and which backend ``auto`` means.

Arrays go down, results come up: a backend sees float32 vectors, packed codes and row numbers, never ids or files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .arrays import OnDevice
from .bitmap import Allowed
from .codec import Codec
from .errors import BackendError

if TYPE_CHECKING:
    from .planes import Block

__all__ = ["Backend", "Encoded", "Queries", "available", "make_backend", "resolve"]

F32 = NDArray[np.float32]


class Encoded(NamedTuple):
    """Rows of an index: what is stored per vector.

    Attributes
    ----------
    codes : ndarray of uint8, shape (n, code_bytes)
        Packed fields (``packing.py``).
    factor : ndarray of float32, shape (n,)
        Scale of the estimate (``estimator.py``).
    norm : ndarray of float32, shape (n,), or None
        |x|; None for cosine.
    """

    codes: NDArray[np.uint8]
    factor: F32
    norm: F32 | None

    def take(self, at: slice | NDArray[np.int64]) -> Encoded:
        """Return some of the rows."""
        return Encoded(self.codes[at], self.factor[at], None if self.norm is None else self.norm[at])

    @property
    def rows(self) -> int:
        """Number of rows n (len() of a tuple is its number of fields)."""
        return len(self.codes)


@dataclass(frozen=True)
class Queries:
    """Prepared queries.

    Attributes
    ----------
    lead : ndarray of int16, shape (nq, d)
        P q on the int16 grid; for queries on a backend's device, an array there.
    lead_scale : ndarray of float32, shape (nq,)
        Value of a step of `lead`.
    tail : ndarray of int16, shape (nq, m), or None
        S P q, for codecs with a sketch of their own.
    tail_scale : ndarray of float32, shape (nq,), or None
        Value of a step of `tail`.
    norm : ndarray of float32, shape (nq,)
        |q|; for cosine 1, or 0 for a zero query.
    """

    lead: NDArray[np.int16]
    lead_scale: F32
    tail: NDArray[np.int16] | None
    tail_scale: F32 | None
    norm: F32

    def take(self, at: slice) -> Queries:
        """Return some of the queries."""
        tail = None if self.tail is None else self.tail[at]
        tail_scale = None if self.tail_scale is None else self.tail_scale[at]
        return Queries(self.lead[at], self.lead_scale[at], tail, tail_scale, self.norm[at])


class Backend(Protocol):
    """Encodes and scans for one codec. Every implementation gives the reference's bytes, scores and order."""

    name: str

    def adopt(self, array: Any) -> OnDevice | None:
        """Return a caller's array in the memory of the backend's own device, as it lies there; None for any other."""

    def encode(self, vectors: Any) -> Encoded:
        """Encode finite float32 vectors of shape (n, d): an array on the host, or what `adopt` returned."""

    def put(self, rows: Encoded, block: Block, start: int) -> None:
        """Write code rows into the stored layout (``planes.py``), from row `start` of a block on."""

    def prepare(self, queries: Any) -> Queries:
        """Rotate and quantise finite float32 queries of shape (nq, d): an array on the host, or an adopted one."""

    def search(
        self,
        queries: Queries,
        blocks: Sequence[Block],
        k: int,
        confidence: float = 1.0,
        threads: int | None = None,
        allowed: Allowed | None = None,
    ) -> tuple[F32, NDArray[np.int64]]:
        """Return the k best scores and rows, (nq, k), best first; rows count on from block to block.

        Missing places hold row -1 and score -inf (+inf for l2). Ties go to the lower row. With confidence 1 all rows
        are compared by their scores, below it by the keys of ``coarse.py``, for codes that have a sign plane.

        `allowed` has an entry for each block: None, or which of its rows may be returned (``bitmap.py``), for all
        queries or a line for each. The result is that of an index of these rows alone; bits behind the last row mean
        nothing.
        """

    def range_search(
        self,
        queries: Queries,
        blocks: Sequence[Block],
        thresholds: F32,
        confidence: float = 1.0,
        threads: int | None = None,
        allowed: Allowed | None = None,
    ) -> tuple[NDArray[np.int64], F32, NDArray[np.int64]]:
        """Return all rows whose scores are better than a threshold, of shape (nq,), strictly.

        Returns `lims` (nq + 1,), scores and rows: those of query i are ``[lims[i]:lims[i + 1]]``, best first, ties by
        row. Below confidence 1 a row's key must be better than the threshold too, as in `search`.
        """

    def scores(self, queries: Queries, block: Encoded) -> F32:
        """Return all scores, shape (nq, n)."""

    def stderr(self, queries: Queries, block: Encoded) -> F32:
        """Return the standard error of all scores, shape (nq, n)."""

    def decode(self, block: Encoded) -> F32:
        """Return the vectors xhat with <q, xhat> = estimate, shape (n, d)."""


def _reference(codec: Codec) -> Backend:
    from .reference import ReferenceBackend

    return ReferenceBackend(codec)


def _native(codec: Codec) -> Backend:
    from .cpu import NativeBackend

    return NativeBackend(codec)


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
