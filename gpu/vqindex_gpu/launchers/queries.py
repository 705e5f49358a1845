"""Launcher of ``queries.cu``: queries as the B fragments that ``scan.cu`` multiplies codes by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..device import Device
from ..layout import QUERY_GROUP, Layout
from .parameters import Int32, KernelArgs, Pointer

__all__ = ["Args", "fragments", "groups", "launch", "phases"]

_THREADS = 128
_LANES = 32


@dataclass(frozen=True)
class Args(KernelArgs):
    """Parameters of the fragments' preparation.

    Attributes
    ----------
    code_query : device array of int16, shape (nq, dim)
        Rotated queries.
    sign_query : device array of int8, shape (nq, dim), or None
        Queries of the sign bound.
    count : int32
        Number of queries nq.
    groups : int32
        Query groups to write.
    dim : int32
        Coordinates of a query.
    chunks : int32
        Chunks of a row that hold coordinates.
    phases : int32
        Slots of a nibble, each a step of its own; 1 for the trellis.
    code_fragments : device array of uint32, shape (fragments, 4)
        Output: fragments of the int16 queries.
    sign_fragments : device array of uint32, shape (fragments, 2), or None
        Output: fragments of the sign queries.
    """

    kernel: ClassVar[str] = "queries"

    code_query: Pointer
    sign_query: Pointer
    count: Int32
    groups: Int32
    dim: Int32
    chunks: Int32
    phases: Int32
    code_fragments: Pointer
    sign_fragments: Pointer


def groups(count: int) -> int:
    """Return the groups of `count` queries: an even number, because a warp of the batch scan takes two."""
    return -(-count // (2 * QUERY_GROUP)) * 2


def fragments(count: int, layout: Layout) -> int:
    """Return how many lanes' fragments `count` queries have."""
    return groups(count) * layout.coordinate_chunks * layout.steps * _LANES


def phases(layout: Layout) -> int:
    """Return the steps that a nibble of a code is spread over."""
    return 1 if layout.window else 4 // layout.slot


def launch(device: Device, args: Args, layout: Layout) -> None:
    """Write the fragments, one thread for each lane's."""
    blocks = -(-args.code_fragments.shape[0] // _THREADS)
    args.launch(device, (blocks, 1), _THREADS, {"SLOT": layout.slot, "THREADS": _THREADS})
