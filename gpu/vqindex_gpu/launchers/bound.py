"""Launcher of ``bound.cu``: what the sign bound needs of each query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..device import Device
from .parameters import Double, Int32, KernelArgs, Pointer

__all__ = ["Args", "launch"]

_THREADS = 128


@dataclass(frozen=True)
class Args(KernelArgs):
    """Parameters of the sign bound's preparation; the equations are those of ``sign_bound.py``.

    Attributes
    ----------
    code_query : device array of int16, shape (nq, dim)
        Rotated queries.
    dim : int32
        Coordinates of a query.
    sum_scale, sign_variance, rounding_variance : float64
        The constants of the dimension: A / scale and the two variances.
    z : float64
        Quantile of the confidence.
    sign_query : device array of int8, shape (nq, dim)
        Output: the query c that the sign bits are multiplied by.
    queries : device array of float32, shape (nq, 5)
        The queries' `vq_query`; A and B of the bound are written.
    """

    kernel: ClassVar[str] = "bound"

    code_query: Pointer
    dim: Int32
    sum_scale: Double
    sign_variance: Double
    rounding_variance: Double
    z: Double
    sign_query: Pointer
    queries: Pointer


def launch(device: Device, args: Args) -> None:
    """Prepare the sign bound, one block for each query."""
    args.launch(device, (args.code_query.shape[0], 1), _THREADS, {"THREADS": _THREADS})
