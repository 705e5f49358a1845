"""Swaps: how many of the j best rows stay near the top when noise is added to the scores, in an exponential tail.

Let the rows be a Poisson process whose density at a score s is exp(-s), and let their estimates be y = s + a z with
standard normal z. a is the noise in units of the tail's decay, and the only number that matters. Estimates are a
Poisson process, too, of density exp(a^2/2 - y), and the true score of a row with estimate y is normal with mean
y - a^2 and deviation a. So the r j best estimates can be drawn without the rest. Of the rest, the number with a true
score above s and an estimate below y is a Poisson variable of mean
    exp(-s) Phi((y - s) / a) - exp(a^2/2 - y) Phi(-(s - y + a^2) / a).
The share of the j best rows among the r j best estimates is the mean over draws of the probability that fewer than j
rows are better. For small a and r = 1, the share that is missing is proportional to a. For many rows j the share is
    Phi(log(r) / a - a/2) + r Phi(-log(r) / a - a/2),  and 2 Phi(-a/2) for r = 1.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .intervals import upper_tail

__all__ = ["noise_of", "share_of"]

F64 = NDArray[np.float64]

_NOISE = np.exp(np.linspace(math.log(0.03), math.log(6.0), 24))  # values of a; below them the loss is linear
_LEAST = math.log(1e-5)  # where no estimate changed its place
_MOST = 32  # rows from which on the formula for many rows holds: it is within .006
_DECIMALS = 6
_VALUES = 50_000  # drawn estimates for each value of a
_DRAWS = 60  # lists of estimates, at least


@lru_cache(maxsize=256)
def _shares(rows: int, times: int) -> F64:
    """Return the shares at `_NOISE` of the best `rows` rows among the best `times` as many estimates."""
    if rows > _MOST:
        shift = math.log(times) / _NOISE
        formula = upper_tail(_NOISE / 2 - shift) + times * upper_tail(_NOISE / 2 + shift)
        return np.asarray(np.round(formula, _DECIMALS))
    length = rows * times
    draws = max(_DRAWS, _VALUES // length)
    rng = np.random.default_rng([rows, times])
    arrivals = np.cumsum(rng.exponential(size=(draws, length)), axis=1)
    normals = rng.standard_normal((draws, length))
    shares = np.array([_share(rows, float(a), arrivals, normals) for a in _NOISE])
    return np.asarray(np.round(np.minimum.accumulate(shares), _DECIMALS))


def _share(rows: int, a: float, arrivals: F64, normals: F64) -> float:
    """Return the share for one value of a, from standard exponential arrivals and normals, (draws, length)."""
    y = a * a / 2 - np.log(arrivals)
    s = -np.sort(-(y - a * a + a * normals), axis=1)[:, :rows]
    last = y[:, -1:]
    with np.errstate(under="ignore", over="ignore"):
        others = np.exp(-s) * upper_tail((s - last) / a) - np.exp(a * a / 2 - last) * upper_tail((s - last) / a + a)
        others = np.maximum(others, 0.0)
        # The row in place c is one of the best if fewer than rows - c of the others are better.
        term, chance, total = np.exp(-others), np.zeros_like(s), 0.0
        for count in range(rows):
            chance += term
            total += float(chance[:, rows - 1 - count].mean())
            term = term * others / (count + 1)
    return total / rows


def share_of(rows: int, times: int, log_noise: F64) -> F64:
    """Return the share of the best `rows` rows among `times` as many estimates, for values of log a."""
    known, least = _shares(rows, times), math.log(_NOISE[0])
    small = 1.0 - (1.0 - known[0]) * np.exp(np.minimum(log_noise - least, 0.0))
    return np.asarray(np.where(log_noise < least, small, np.interp(log_noise, np.log(_NOISE), known)))


def noise_of(rows: int, times: int, shares: F64) -> F64:
    """Undo `share_of`: return log a for shares."""
    known, logs = _shares(rows, times), np.log(_NOISE)
    is_last = np.append(known[1:] < known[:-1], True)  # of equal shares, that of the largest noise is the safe one
    found = np.interp(-shares, -known[is_last], logs[is_last])
    with np.errstate(divide="ignore", invalid="ignore"):
        small = logs[0] + np.log(np.maximum(1.0 - shares, 0.0) / (1.0 - known[0]))
    return np.asarray(np.where(shares > known[0], np.maximum(small, _LEAST), found))
