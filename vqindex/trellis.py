"""FROZEN: the trellis code. DO NOT CHANGE: files depend on every bit (tests/golden/gate.json).

Trellis-coded quantization (Marcellin and Fischer, 1990) in its bit-shift form (QTIP, Tseng et al., NeurIPS 2024): the
level of coordinate t is looked up by a window over the packed bits, so decoding has no recursion and any coordinate
can be decoded alone. Nothing is trained on data: the table is a constant for the Gaussian, found once by
benchmarks/trellis_tables.py.

Stream. A row is window/bits - 1 + d fields of `bits` bits, packed as packing.py says. Coordinate t is decoded from
    its own field and the window/bits - 1 before it:  w_t = sum_i field[t + i] << (i * bits)  (`window` bits of the
    stream, starting at bit t * bits),  level_t = table[w_t].  The fields before the first coordinate's own make every
    start free; they cost a byte or less.
Tables. Symmetric: table[~w] = -table[w] with ~w the window of all bits inverted, so no level is -128 and half of a
    table says everything. Version 2 (trellis_tables.py); a file names the version. Version 1, which was not symmetric,
    never left the development tree.
Values. v_t = rint(fl(y_t * fl(float32(128 / step) / s))), clipped to +-127 * 128, with s of estimator.py; 0 for zero
    vectors.
Cost of level l at value v, in integers: x = clip(v - 128 l, -limit, limit) << gain;  x * x >> 16.
    limit keeps every sum in int16: (window / bits) * ((limit << gain)^2 >> 16) <= 32767.
Search. Viterbi over 2^(window - bits) states (the newest bits of the window). All starts cost 0. A state keeps the
    cheapest of its 2^bits predecessors, of several the one with the lowest dropped bits; after each coordinate the
    least cost of all states is subtracted. The path ends in the cheapest state, of several the lowest.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .trellis_tables import MSE, STEPS, TABLES

__all__ = ["MAX_BITS", "TABLE_VERSION", "Trellis", "cost_limits", "trellis_values", "viterbi"]

MAX_BITS = 4
TABLE_VERSION = 2
WINDOWS = {1: 9, 2: 8, 3: 9, 4: 8}
FRACTION = 128
PEAK = 127 * FRACTION
_GAINS = {1: 0, 2: 1, 3: 2, 4: 3}  # finer codes have smaller errors, so a finer cost


def cost_limits(bits: int, window: int) -> tuple[int, int]:
    """Return limit and gain of the cost: the largest limit whose sums over window / bits coordinates fit int16."""
    gain = _GAINS[bits]
    largest = 32767 // (window // bits)
    limit = math.isqrt((largest + 1 << 16) - 1) >> gain
    return min(limit, 32767 >> gain), gain


class Trellis(NamedTuple):
    """The constants of one width.

    Attributes
    ----------
    bits, window : int
        New bits per coordinate, and bits that decide a level.
    table : ndarray of int8, shape (2**window,)
        Levels in grid steps.
    step : float
        A grid step in units of u = sqrt(d) times a coordinate of a unit vector.
    mse : float
        Distortion on Gaussian sequences, measured when the table was made.
    limit, gain : int
        Of the cost.
    """

    bits: int
    window: int
    table: NDArray[np.int8]
    step: float
    mse: float
    limit: int
    gain: int

    @classmethod
    def of(cls, bits: int) -> Trellis:
        """Return the trellis of a width, 1 to 4."""
        return cls(bits, WINDOWS[bits], TABLES[bits], STEPS[bits], MSE[bits], *cost_limits(bits, WINDOWS[bits]))

    @property
    def lead(self) -> int:
        """Fields before the first coordinate's own."""
        return self.window // self.bits - 1

    def windows(self, fields: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Return w_t from unpacked fields: (n, lead + d) uint8 to (n, d) uint16."""
        d = fields.shape[1] - self.lead
        out = np.zeros((fields.shape[0], d), np.uint16)
        for i in range(self.lead + 1):
            out |= fields[:, i : i + d].astype(np.uint16) << np.uint16(i * self.bits)
        return out


def trellis_values(columns: NDArray[np.float32], scale: NDArray[np.float32], step: float) -> NDArray[np.int16]:
    """Return v for rotated columns y of shape (d, n) and s of shape (n,)."""
    grid = np.float32(FRACTION / step)
    inverse = np.divide(grid, scale, out=np.zeros_like(scale), where=scale > 0)
    return np.clip(np.rint(columns * inverse), -PEAK, PEAK).astype(np.int16)


def viterbi(values: NDArray[np.int16], trellis: Trellis) -> NDArray[np.uint8]:
    """Find the fields of the cheapest path.

    Parameters
    ----------
    values : ndarray of int16, shape (d, n)
        v, a vector per column.
    trellis : Trellis
        The code.

    Returns
    -------
    ndarray of uint8, shape (n, lead + d)
        Fields in stream order.
    """
    d, n = values.shape
    bits, states = trellis.bits, 1 << (trellis.window - trellis.bits)
    window = np.arange(states << bits)  # state << bits | dropped bits of the predecessor
    came_from = window & (states - 1)
    levels = trellis.table.astype(np.int32)[:, None] * FRACTION
    path = np.zeros((states, n), np.int32)
    choice = np.empty((d, states, n), np.uint8)
    for t in range(d):
        x = np.clip(values[t] - levels, -trellis.limit, trellis.limit) << trellis.gain
        cost = (path[came_from] + (x * x >> 16)).reshape(states, -1, n)
        choice[t] = cost.argmin(axis=1)
        path = cost.min(axis=1)
        path -= path.min(axis=0)
    return _way_back(choice, path.argmin(axis=0), trellis)


def _way_back(choice: NDArray[np.uint8], state: NDArray[Any], trellis: Trellis) -> NDArray[np.uint8]:
    """Follow the choices from the last state of every vector to the first."""
    d, states, n = choice.shape
    fields = np.empty((n, trellis.lead + d), np.uint8)
    lanes = np.arange(n)
    for t in range(d - 1, -1, -1):
        window = state << trellis.bits | choice[t, state, lanes]
        fields[:, trellis.lead + t] = window >> (trellis.window - trellis.bits)
        state = window & (states - 1)
    for i in range(trellis.lead):
        fields[:, i] = state >> (i * trellis.bits) & (2**trellis.bits - 1)
    return fields
