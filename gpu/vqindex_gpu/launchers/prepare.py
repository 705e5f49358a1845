"""Launcher of ``prepare.cu``: rotate queries and round them to int16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..device import Device
from .parameters import Int32, KernelArgs, Pointer
from .rotation import THREADS, Rotation, shared_bytes

__all__ = ["Args", "launch"]


@dataclass(frozen=True)
class Args(KernelArgs):
    """Parameters of query preparation.

    Attributes
    ----------
    queries : device array of float32, shape (nq, dim)
        Finite queries.
    rotation : Rotation
        The rotation.
    cosine : int32
        Whether the metric is cosine.
    code_query : device array of int16, shape (nq, dim)
        Output: rotated queries.
    code_scale : device array of float32, shape (nq,)
        Output: value of a step of `code_query`.
    norm : device array of float32, shape (nq,)
        Output: |q|; for cosine 1, or 0 for a zero query.
    """

    kernel: ClassVar[str] = "prepare"

    queries: Pointer
    rotation: Rotation
    cosine: Int32
    code_query: Pointer
    code_scale: Pointer
    norm: Pointer


def launch(device: Device, args: Args) -> None:
    """Prepare queries, one block for each."""
    queries = args.queries.shape[0]
    args.launch(device, (queries, 1), THREADS, {"THREADS": THREADS}, shared_bytes(args.rotation.dim))
