"""Launcher of ``score.cu``: the plain scorer, one thread for each row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from vqindex.codes.codec import Codec

from ..device import Device
from ..layout import TILE_ROWS, Layout
from .parameters import DeviceSelection, Int32, Int64, KernelArgs, Parameters, Pointer

__all__ = ["Kind", "MaximaArgs", "RowArgs", "Rows", "launch"]


class Kind(IntEnum):
    """What a field of a row is (VQ_KIND)."""

    LEVEL = 0
    TRELLIS = 1
    LEVEL_AND_SIGN = 2
    SIGN = 3

    @classmethod
    def of(cls, codec: Codec) -> Kind:
        """Return the kind of a codec's fields."""
        if codec.trellis is not None:
            return cls.TRELLIS
        if codec.has_sketch:
            return cls.SIGN if codec.spec.codec == "qjl" else cls.LEVEL_AND_SIGN
        return cls.LEVEL


@dataclass(frozen=True)
class Rows(Parameters):
    """Parameters that both forms of the scorer begin with.

    Attributes
    ----------
    segments : device array of uint64, shape (segments, 6)
        Table of `vq_segment`.
    segment_count : int32
        Number of segments.
    coordinates : int32
        Coordinates of a query.
    chunks : int32
        Chunks of a row.
    levels : device array of int16
        Level of each field, window or cell.
    code_query : device array of int16, shape (nq, coordinates)
        Queries for the codes.
    sketch_query : device array of int16, shape (nq, coordinates), or None
        Queries for the sketch.
    sign_query : device array of int8, shape (nq, coordinates), or None
        Queries of the sign bound; None if there is no bound.
    queries : device array of float32, shape (nq, 5)
        The queries' `vq_query`.
    l2 : int32
        Whether the metric is l2.
    selection : DeviceSelection
        The rows that may be found.
    tile_count : int64
        Tiles of all segments.
    """

    segments: Pointer
    segment_count: Int32
    coordinates: Int32
    chunks: Int32
    levels: Pointer
    code_query: Pointer
    sketch_query: Pointer
    sign_query: Pointer
    queries: Pointer
    l2: Int32
    selection: DeviceSelection
    tile_count: Int64


@dataclass(frozen=True)
class MaximaArgs(KernelArgs):
    """Parameters of the form that writes the best rank score of every tile.

    Attributes
    ----------
    rows : Rows
        Rows and queries.
    maxima : device array of float32, shape (nq, tiles)
        Output.
    """

    kernel: ClassVar[str] = "score"
    variant: ClassVar[Mapping[str, int]] = {"MAXIMA": 1}

    rows: Rows
    maxima: Pointer


@dataclass(frozen=True)
class RowArgs(KernelArgs):
    """Parameters of the form that scores all rows of some tiles.

    Attributes
    ----------
    rows : Rows
        Rows and queries.
    tiles : device array of int32, shape (nq, t)
        The tiles of each query; -1 for none.
    rank_scores : device array of float32, shape (nq, t * TILE_ROWS)
        Output; -inf where there is no row.
    scores : device array of float32, shape (nq, t * TILE_ROWS)
        Output; larger is better.
    """

    kernel: ClassVar[str] = "score"
    variant: ClassVar[Mapping[str, int]] = {"MAXIMA": 0}

    rows: Rows
    tiles: Pointer
    rank_scores: Pointer
    scores: Pointer


def launch(device: Device, args: MaximaArgs | RowArgs, layout: Layout, kind: Kind) -> None:
    """Score tiles, one block for each tile and query."""
    tiles = args.maxima if isinstance(args, MaximaArgs) else args.tiles
    sign_bound = args.rows.sign_query is not None
    macros = {**layout.macros(sign_bound), "KIND": int(kind)}
    if not sign_bound and kind is not Kind.TRELLIS:
        del macros["BITS"]  # the kernel reads whole slots, so one variant serves every width in a slot
    count, width = tiles.shape
    args.launch(device, (width, count), TILE_ROWS, macros)
