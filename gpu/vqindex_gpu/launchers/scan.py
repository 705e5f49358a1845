"""Launcher of ``scan.cu``: the fused scan of one segment on the tensor cores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vqindex.errors import BackendError

from ..device import Device
from ..layout import QUERY_GROUP, Layout
from .parameters import DeviceSelection, Int32, Int64, KernelArgs, Pointer

__all__ = ["Args", "launch"]

_THREADS = 128
_WARPS = _THREADS // 32
_SMALL_BATCH = QUERY_GROUP  # up to this many queries, each warp takes a tile of its own
_QUERIES_PER_BLOCK = 64  # of the batch scan
_MAX_BLOCKS = 2**31 - 1  # of a launch


@dataclass(frozen=True)
class Args(KernelArgs):
    """Parameters of the fused scan.

    Attributes
    ----------
    segments : device array of uint64, shape (segments, 6)
        Table of `vq_segment`.
    number : int32
        The segment to scan.
    coordinate_chunks : int32
        Chunks of a row that hold coordinates.
    chunks : int32
        Chunks of a row.
    levels : device array of uint8
        Level of each field or window, sixteen bytes at least.
    code_fragments : device array of uint32, shape (fragments, 4)
        Fragments of the int16 queries.
    sign_fragments : device array of uint32, shape (fragments, 2), or None
        Fragments of the sign queries.
    queries : device array of float32, shape (nq, 5)
        The queries' `vq_query`.
    count : int32
        Number of queries nq.
    l2 : int32
        Whether the metric is l2.
    selection : DeviceSelection
        The rows that may be found.
    maxima : device array of float32, shape (nq, tiles)
        Output: the best rank score of every tile.
    maxima_stride : int64
        Tiles of all segments.
    """

    kernel: ClassVar[str] = "scan"

    segments: Pointer
    number: Int32
    coordinate_chunks: Int32
    chunks: Int32
    levels: Pointer
    code_fragments: Pointer
    sign_fragments: Pointer
    queries: Pointer
    count: Int32
    l2: Int32
    selection: DeviceSelection
    maxima: Pointer
    maxima_stride: Int64


def launch(device: Device, args: Args, layout: Layout, rows: int, tiles: int) -> None:
    """Scan one segment of `rows` rows in `tiles` tiles.

    Raises
    ------
    BackendError
        If the segment and the queries need more blocks than a launch has.
    """
    shared = args.count > _SMALL_BATCH
    blocks = tiles * -(-args.count // _QUERIES_PER_BLOCK) if shared else -(-tiles // _WARPS)
    if blocks > _MAX_BLOCKS:
        raise BackendError(f"{args.count} queries of {rows} rows are too many blocks for one launch")
    macros = {
        **layout.macros(args.sign_fragments is not None),
        "SHARED": int(shared),
        "TRELLIS": int(layout.window > 0),
    }
    args.launch(device, (blocks, 1), _THREADS, macros)
