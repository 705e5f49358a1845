"""FROZEN: the trellis code. DO NOT CHANGE: files depend on every bit (tests/golden/gate.json).

Trellis-coded quantization (Marcellin and Fischer, 1990) in its bit-shift form (QTIP, Tseng et al., NeurIPS 2024). A
window of the packed bits looks up the level of coordinate t, so decoding has no recursion, and any coordinate can be
decoded alone. The table is a constant for the Gaussian, computed once by benchmarks/trellis_tables.py. Nothing is
trained on data.

Stream. A path consists of window/bits - 1 + d fields of `bits` bits. Coordinate t is decoded from its own field and the
    window/bits - 1 fields before it:  w_t = sum_i field[t + i] << (i * bits),  level_t = table[w_t].  The first
    window/bits - 1 fields are warm-up fields. They let nearly every path start anywhere, and cost a byte or less.
Signs. From two bits on, the sign of a level (except for a few levels near 0) is the highest bit of the newest field of
    its window, xor the lowest bit of the oldest. The stored fields have this sign as their highest bit, so that a row
    has sign bits like those of scalar codes (bitplanes.py). The other bits are stored unchanged. The highest bits of
    warm-up fields are 0 and are not stored. With one bit per coordinate the fields are stored unchanged, and paths
    start anywhere.
Tables. Tables are symmetric: table[mirror(w)] = -table[w]. No level is -128, and half of a table determines the rest.
    mirror inverts all bits of each field but the highest (with one bit per coordinate: all). The tables are version 3
    (trellis_tables.py), and a file names their version. Versions 1 and 2 were never published.
Values. v_t = rint(fl(y_t * fl(float32(128 / step) / s))), clipped to +-127 * 128, with s of estimator.py; 0 for zero
    vectors.
Cost of level l at value v, in integers: x = clip(v - 128 l, -limit, limit) << gain;  x * x >> 16.
    limit keeps every sum in int16: (window / bits) * ((limit << gain)^2 >> 16) <= 32767.
Search. Viterbi over 2^(window - bits) states (the newest bits of the window). Every state that can be stored is a start
    of cost 0. A state keeps the cheapest of its 2^bits predecessors; a tie goes to the lowest dropped bits. After each
    coordinate the least cost of all states is subtracted. The path ends in the cheapest state; a tie goes to the
    lowest.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .trellis_tables import CORRELATIONS, MSE, STEPS, TABLES

__all__ = [
    "MAX_BITS",
    "TABLE_VERSION",
    "Trellis",
    "cost_limits",
    "mirror",
    "sign_of_window",
    "trellis_values",
    "viterbi",
]

MAX_BITS = 4
TABLE_VERSION = 3
WINDOWS = {1: 9, 2: 8, 3: 9, 4: 8}
FRACTION = 128
PEAK = 127 * FRACTION
_FORBIDDEN = 2**24  # a cost above that of any path
_GAINS = {1: 0, 2: 1, 3: 2, 4: 3}  # finer codes have smaller errors and need a finer cost


def cost_limits(bits: int, window: int) -> tuple[int, int]:
    """Return limit and gain of the cost: the largest limit whose sums over window / bits coordinates fit int16."""
    gain = _GAINS[bits]
    largest = 32767 // (window // bits)
    limit = math.isqrt((largest + 1 << 16) - 1) >> gain
    return min(limit, 32767 >> gain), gain


def mirror(windows: NDArray[np.int64], bits: int, window: int) -> NDArray[np.int64]:
    """Return the windows with the negated levels."""
    field = (1 << max(1, bits - 1)) - 1
    out: NDArray[np.int64] = windows ^ sum(field << at for at in range(0, window, bits))
    return out


def sign_of_window(windows: NDArray[Any], bits: int, window: int) -> NDArray[Any]:
    """Return the sign bit of windows, 1 for levels above 0; for two or more bits per coordinate."""
    signs: NDArray[Any] = (windows >> (window - 1) ^ windows) & 1
    return signs


class Trellis(NamedTuple):
    """The constants of one width.

    Attributes
    ----------
    bits, window : int
        Bits of a field, and bits of the window that determines a level.
    table : ndarray of int8, shape (2**window,)
        Levels in grid steps.
    step : float
        A grid step in units of u = sqrt(d) times a coordinate of a unit vector.
    mse : float
        Distortion on Gaussian sequences, measured when the table was made.
    limit, gain : int
        Limit and gain of the cost.
    correlation : float or None
        Mean of value times stored sign for Gaussian values of variance 1; None with one bit, which stores no signs.
    """

    bits: int
    window: int
    table: NDArray[np.int8]
    step: float
    mse: float
    limit: int
    gain: int
    correlation: float | None = None

    @classmethod
    def of(cls, bits: int) -> Trellis:
        """Return the trellis of a width, 1 to 4 bits per coordinate."""
        limit, gain = cost_limits(bits, WINDOWS[bits])
        return cls(bits, WINDOWS[bits], TABLES[bits], STEPS[bits], MSE[bits], limit, gain, CORRELATIONS.get(bits))

    @property
    def warmup_fields(self) -> int:
        """Number of fields before the first coordinate's field."""
        return self.window // self.bits - 1

    @property
    def has_signs(self) -> bool:
        """Whether stored fields have sign bits."""
        return self.correlation is not None

    @property
    def start_mask(self) -> int:
        """Bits of the first state that must be 0: the highest bits of warm-up fields, if signs are stored."""
        if not self.has_signs:
            return 0
        return sum(1 << (at + self.bits - 1) for at in range(0, self.window - self.bits, self.bits))

    def swapped(self, fields: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Convert the fields of paths to stored fields, or the reverse; (n, warmup_fields + d) uint8."""
        if not self.has_signs:
            return fields
        out = fields.copy()
        out[:, self.warmup_fields :] ^= (fields[:, : fields.shape[1] - self.warmup_fields] & 1) << np.uint8(
            self.bits - 1
        )
        return out

    def levels_by_bit_planes(self) -> NDArray[np.int8]:
        """Return the table in the order of stored bits: the lower bits of all fields, then their highest bits."""
        window, lower = np.arange(self.table.size), self.bits - 1
        at = np.zeros_like(window)
        for i in range(self.warmup_fields + 1):
            field = window >> i * self.bits
            at |= (field & (1 << lower) - 1) << i * lower | (field >> lower & 1) << (self.warmup_fields + 1) * lower + i
        table = np.empty_like(self.table)
        table[at] = self.table
        return table

    def windows(self, fields: NDArray[np.uint8]) -> NDArray[np.uint16]:
        """Return the windows w_t, (n, d) uint16, of the fields of paths, (n, warmup_fields + d) uint8."""
        d = fields.shape[1] - self.warmup_fields
        out = np.zeros((fields.shape[0], d), np.uint16)
        for i in range(self.warmup_fields + 1):
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
        v, one vector per column.
    trellis : Trellis
        Constants of the code.

    Returns
    -------
    ndarray of uint8, shape (n, warmup_fields + d)
        The path's fields, in stream order.
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
        cost = path[came_from] + (x * x >> 16)
        cost[window & trellis.start_mask >> t * bits != 0] = _FORBIDDEN
        cost = cost.reshape(states, -1, n)
        choice[t] = cost.argmin(axis=1)
        path = cost.min(axis=1)
        path -= path.min(axis=0)
    return _backtrack(choice, path.argmin(axis=0), trellis)


def _backtrack(choice: NDArray[np.uint8], state: NDArray[Any], trellis: Trellis) -> NDArray[np.uint8]:
    """Follow the choices from the last state of every vector to the first."""
    d, states, n = choice.shape
    fields = np.empty((n, trellis.warmup_fields + d), np.uint8)
    lanes = np.arange(n)
    for t in range(d - 1, -1, -1):
        window = state << trellis.bits | choice[t, state, lanes]
        fields[:, trellis.warmup_fields + t] = window >> (trellis.window - trellis.bits)
        state = window & (states - 1)
    for i in range(trellis.warmup_fields):
        fields[:, i] = state >> (i * trellis.bits) & (2**trellis.bits - 1)
    return fields
