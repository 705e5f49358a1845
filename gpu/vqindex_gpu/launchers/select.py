"""Launcher of ``select.cu``: the k best of many rank scores for each query, in order of their places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..device import Device
from .parameters import Int32, Int64, KernelArgs, Pointer

__all__ = ["PlaceArgs", "RowArgs", "launch"]

_THREADS = 256


@dataclass(frozen=True)
class PlaceArgs(KernelArgs):
    """Parameters of the form that writes places.

    Attributes
    ----------
    rank_scores : device array of float32, shape (nq, count)
        Rank scores; -inf where there is none.
    count : int64
        Rank scores of a query.
    k : int32
        How many to select.
    places : device array of int32, shape (nq, k)
        Output: places of the k best, rising; -1 where there are fewer.
    """

    kernel: ClassVar[str] = "select"
    variant: ClassVar[Mapping[str, int]] = {"COLLECT": 0}

    rank_scores: Pointer
    count: Int64
    k: Int32
    places: Pointer


@dataclass(frozen=True)
class RowArgs(KernelArgs):
    """Parameters of the form that writes rows of tiles.

    Attributes
    ----------
    rank_scores : device array of float32, shape (nq, count)
        Rank scores of the rows of the tiles; -inf where there is none.
    count : int64
        Rows of a query's tiles.
    k : int32
        How many to select.
    scores : device array of float32, shape (nq, count)
        Scores of the same rows.
    tiles : device array of int32, shape (nq, count / TILE_ROWS)
        The tiles.
    best_rank_scores, best_scores : device array of float32, shape (nq, k)
        Output; -inf where there are fewer rows.
    best_rows : device array of int64, shape (nq, k)
        Output: rows, rising; -1 where there are fewer.
    """

    kernel: ClassVar[str] = "select"
    variant: ClassVar[Mapping[str, int]] = {"COLLECT": 1}

    rank_scores: Pointer
    count: Int64
    k: Int32
    scores: Pointer
    tiles: Pointer
    best_rank_scores: Pointer
    best_scores: Pointer
    best_rows: Pointer


def launch(device: Device, args: PlaceArgs | RowArgs) -> None:
    """Select, one block for each query."""
    args.launch(device, (args.rank_scores.shape[0], 1), _THREADS, {"THREADS": _THREADS})
