"""What the trellis experiments share: codes, a Viterbi with constraints, data sets, recall. No command of its own."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from paper_recall import load
from trellis_tables import LENGTH, REACH

from vqindex._native import trellis_encode
from vqindex.codes.rotation import make_rotation
from vqindex.codes.trellis import FRACTION, PEAK, Trellis, cost_limits

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

CHUNK = 8192  # rows in a batch to encode
EDGE = 64  # values excluded at both ends of a sequence, where the free start and the open end reduce the error


class Code(NamedTuple):
    """A trellis with its table in standard deviations of the values; a table of two columns has levels of pairs."""

    bits: int
    window: int
    table: F64

    @property
    def states(self) -> int:
        """Number of states of the search."""
        return 1 << (self.window - self.bits)


def shipped(bits: int) -> Code:
    """Return the trellis of the library."""
    trellis = Trellis.of(bits)
    return Code(bits, trellis.window, trellis.table * trellis.step)


def native_windows(y: NDArray[Any], code: Code) -> I64:
    """Encode rows of unit variance with the compiled search (free start); return the window of every value, (n, d)."""
    grid = 127 / max(REACH, float(np.abs(code.table).max()))
    levels = np.rint(code.table * (grid * FRACTION)).astype(np.int16)
    out = np.empty(y.shape, np.int64)
    for start in range(0, len(y), CHUNK):
        values = np.clip(np.rint(y[start : start + CHUNK] * (grid * FRACTION)), -PEAK, PEAK).astype(np.int16)
        fields, first = trellis_encode(values, levels, code.bits, code.window, *cost_limits(code.bits, code.window))
        fresh = np.ascontiguousarray(fields.T).astype(np.int64) << (code.window - code.bits)
        state = first.astype(np.int64)
        for t in range(len(fresh)):
            fresh[t] |= state
            state = fresh[t] >> code.bits
        out[start : start + CHUNK] = fresh.T
    return out


def decoded(y: NDArray[Any], code: Code) -> F32:
    """Encode rows and decode them."""
    levels: F32 = code.table.astype(np.float32)[native_windows(y, code)]
    return levels


def viterbi(y: NDArray[Any], code: Code, first: I64 | None = None, last: I64 | None = None) -> I64:
    """Encode rows by Viterbi in float32; return windows (n, d), of pairs (n, d / 2).

    Parameters
    ----------
    y : ndarray, shape (n, d)
        Values of unit variance.
    code : Code
        Any window.
    first, last : ndarray of int64, shape (n,), optional
        The states before the first and after the last value; None is free.
    """
    states, branches, lanes = code.states, 1 << code.bits, np.arange(len(y))
    levels = code.table.astype(np.float32).reshape(1 << code.window, -1, 1)
    columns = np.ascontiguousarray(y.T, np.float32).reshape(-1, levels.shape[1], len(y))
    d, _, n = columns.shape
    path = np.zeros((states, n), np.float32)
    if first is not None:
        path[:] = np.inf
        path[first, lanes] = 0
    choice = np.empty((d, states, n), np.uint8)
    for t in range(d):
        cost = np.square(columns[t, 0] - levels[:, 0])
        for i in range(1, levels.shape[1]):
            cost += np.square(columns[t, i] - levels[:, i])
        cost = cost.reshape(branches, states, n)  # the predecessor is the window's low part
        cost += path
        cost = cost.reshape(states, branches, n)
        choice[t] = cost.argmin(axis=1)
        path = cost.min(axis=1)
    state = path.argmin(axis=0) if last is None else last
    out = np.empty((n, d), np.int64)
    for t in range(d - 1, -1, -1):
        out[:, t] = state << code.bits | choice[t, state, lanes]
        state = out[:, t] & (states - 1)
    return out


def tail_biting(y: NDArray[Any], code: Code) -> I64:
    """Return the windows of a closed path; a free search over the rotated row gives the state of its seam."""
    half = y.shape[1] // 2
    seam = viterbi(np.roll(y, half, axis=1), code)[:, half] & (code.states - 1)
    return viterbi(y, code, seam, seam)


def sequences(rows: int, seed: int, length: int = LENGTH) -> F64:
    """Return Gaussian sequences, (rows, length)."""
    return np.random.default_rng(seed).standard_normal((rows, length))


def sphere(rows: int, dim: int, seed: int) -> F32:
    """Return uniform directions scaled to unit variance: |y|^2 = d."""
    y = np.random.default_rng(seed).standard_normal((rows, dim))
    return (y * (math.sqrt(dim) / np.linalg.norm(y, axis=1, keepdims=True))).astype(np.float32)


def squared_error(y: NDArray[Any], yhat: NDArray[Any], edge: int = 0) -> float:
    """Return the mean squared error over the mean energy, without `edge` values at both ends."""
    y, yhat = (rows[:, edge : rows.shape[1] - edge].astype(np.float64) for rows in (y, yhat))
    return float(((y - yhat) ** 2).mean() / (y**2).mean())


def angle_losses(y: NDArray[Any], yhat: NDArray[Any]) -> F64:
    """Return 1 - cos^2(y, yhat) of every row: its error at its best scale, over its energy."""
    dot = np.einsum("ij,ij->i", y, yhat, dtype=np.float64)
    energy = np.einsum("ij,ij->i", y, y, dtype=np.float64) * np.einsum("ij,ij->i", yhat, yhat, dtype=np.float64)
    return 1 - dot * dot / energy


class Data(NamedTuple):
    """A data set under one rotation: rows and queries of |y|^2 = d, and the true neighbors."""

    name: str
    y: F32
    queries: F32
    truth: NDArray[Any]

    def recall(self, yhat: F32) -> float:
        """Return recall@10 of the unbiased scores <q, yhat> |y|^2 / <y, yhat>, without re-ranking."""
        rescale = 1 / np.einsum("ij,ij->i", self.y, yhat)
        hits = 0
        for start in range(0, len(self.queries), 64):
            scores = self.queries[start : start + 64] @ yhat.T
            scores *= rescale
            best = np.argpartition(scores, -10, axis=1)[:, -10:]
            hits += int((best[:, :, None] == self.truth[start : start + 64, None, :10]).any(axis=2).sum())
        return hits / (10 * len(self.queries))


def read(path: Path, queries: int, seed: int) -> Data:
    """Read an ann-benchmarks file with cosine similarity and rotate it."""
    train, test, truth, _ = load(path, None, queries)
    rotation = make_rotation("hadamard", train.shape[1], seed)

    def rotated(rows: F32) -> F32:
        scaled = rows * (math.sqrt(rows.shape[1]) / np.linalg.norm(rows, axis=1, keepdims=True))
        return np.ascontiguousarray(rotation.forward(np.ascontiguousarray(scaled.T, np.float32)).T)

    return Data(path.stem, rotated(train), rotated(test), truth)


def computed_table(window: int, seed: int) -> F64:
    """Return a table that a decoder can compute: the sum of the bytes of a linear congruence of the window, as 1MAD.

    QTIP, arXiv 2406.11235, section 3.1.1; multiplier and increment are random.
    """
    multiplier, increment = np.random.default_rng([window, seed]).integers(0, 2**32, 2, dtype=np.uint64)
    word = (np.arange(2**window, dtype=np.uint64) * (multiplier | np.uint64(1)) + increment) & np.uint64(2**32 - 1)
    total = sum((word >> np.uint64(8 * i) & np.uint64(255)).astype(np.float64) for i in range(4))
    return (total - 510) / math.sqrt(4 * (2**16 - 1) / 12)


# ---- E8


def nearest_e8(x: F64) -> F64:
    """Return the nearest point of E8 = D8 + {0, 1/2} to every row (Conway and Sloane, 1982)."""
    found = []
    for shift in (0.0, 0.5):
        point = np.rint(x - shift)
        gap = x - shift - point
        at = np.abs(gap).argmax(axis=1)
        odd = np.flatnonzero(point.sum(axis=1) % 2 != 0)
        away = np.where(gap[odd, at[odd]] < 0, -1.0, 1.0)
        point[odd, at[odd]] += away
        found.append(point + shift)
    nearer = ((x - found[0]) ** 2).sum(axis=1) <= ((x - found[1]) ** 2).sum(axis=1)
    return np.where(nearer[:, None], *found)


def e8_ball(size: int) -> F64:
    """Return the `size` points of E8 of least norm, with a random subset of the last shell."""
    whole = np.array(list(itertools.product(range(-3, 4), repeat=4)), np.float64)
    points = []
    for shift in (0.0, 0.5):
        half = whole + shift
        norm = (half**2).sum(axis=1)
        near = half[norm <= 12.5]
        norm = norm[norm <= 12.5]
        first, second = np.nonzero(norm[:, None] + norm <= 12.5)
        both = np.concatenate([near[first], near[second]], axis=1)
        points.append(both[both.sum(axis=1) % 2 == 0])
    every = np.concatenate(points)
    tie = np.random.default_rng(0).random(len(every))
    return every[np.lexsort((tie, (every**2).sum(axis=1)))[:size]]


def e8_ball_error(bits: int, scale: float, rows: int, seed: int) -> float:
    """Return the mean squared error of a Gaussian on scale * e8_ball(2^(8 bits)), by comparison with every point."""
    points = (e8_ball(2 ** (8 * bits)) * scale).astype(np.float32)
    energy = (points**2).sum(axis=1) / 2
    x = sequences(rows, seed, 8).astype(np.float32)
    near = np.concatenate(
        [(batch @ points.T - energy).argmax(axis=1) for batch in np.array_split(x, max(1, rows // 500))]
    )
    return squared_error(x, points[near])


def e8_nested_error(bits: int, scale: float, rows: int, seed: int) -> float:
    """Return the mean squared error of a Gaussian on scale * (E8 mod 2^bits E8), `bits` bits per coordinate.

    The points are those of E8 in the Voronoi cell of 2^bits E8. A vector outside is shrunk towards 0 until its nearest
    point is one of them.
    """
    x = sequences(rows, seed, 8) / scale
    cell_scale = 2.0**bits
    # A generic shift of the cell breaks the ties of points on its boundary; it is far smaller than their distances.
    shift = np.random.default_rng(1).random(8) * 1e-6

    def inside(points: F64) -> NDArray[np.bool_]:
        return (nearest_e8((points + shift) / cell_scale) == 0).all(axis=1)

    best = nearest_e8(x)
    low, high = np.zeros(rows), np.ones(rows)
    out = np.flatnonzero(~inside(best))
    for _ in range(20):
        middle = (low[out] + high[out]) / 2
        good = inside(nearest_e8(x[out] * middle[:, None]))
        low[out[good]], high[out[~good]] = middle[good], middle[~good]
    best[out] = nearest_e8(x[out] * low[out, None])
    return squared_error(x, best)
