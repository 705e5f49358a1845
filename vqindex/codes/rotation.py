"""FROZEN: the seeded random rotations. DO NOT CHANGE: files depend on every bit (tests/golden/rotation.json).

Counter generator
    mix(z) is the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), all arithmetic modulo 2**64:
        z ^= z >> 30;  z *= 0xBF58476D1CE4E5B9;  z ^= z >> 27;  z *= 0x94D049BB133111EB;  z ^= z >> 31
    key = mix(seed ^ mix(stream + G)) with G = 0x9E3779B97F4A7C15;  word i of the stream = mix(key + G * (i + 1)).

hadamard (float32; additions, subtractions and one multiplication, each rounded to nearest even, never fused)
    The d coordinates are cut into chunks of descending powers of two, the binary digits of d (100 = 64 + 32 + 4).
    Round r of 3:
        1. coordinate j changes sign if the top bit of word j of stream (first_stream + r) is set;
        2. each chunk goes through Walsh-Hadamard butterflies (a + b, a - b) of half-width 1, 2, 4, ...;
        3. every coordinate is multiplied by float32(1 / sqrt(its chunk's size));
        4. coordinate i of the result is coordinate (i * stride) mod d, stride the integer coprime to d that is nearest
           to d (sqrt(5) - 1) / 2, the larger one of two.
    The golden stride spreads every chunk evenly over all others and needs no seed. A one-hot vector has the
    quantization error of a Gaussian vector at every d, as with a random permutation; a reversal gives 5 % more error at
    d = 384. The data's rotation has first_stream 0, the orthogonal sketch's rotation 16.

gaussian (m x d, for the paper's sketch): Box-Muller in float64 on words 2e, 2e+1 of stream 32 for the row-major
    entry e, cast to float32: sqrt(-2 ln u) cos(2 pi v), u = ((w >> 11) + 1) / 2**53, v = (w' >> 11) / 2**53.

haar: Q of the QR decomposition of such a float64 matrix (stream 48, for the sketch 49), with column signs that make
    R's diagonal positive. For fidelity tests only; LAPACK does not promise equal bits on every machine.
"""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ROUNDS",
    "Haar",
    "Hadamard",
    "Rotation",
    "chunk_sizes",
    "counter_words",
    "gaussian_matrix",
    "golden_stride",
    "make_rotation",
]

ROUNDS = 3
DATA_STREAM, SKETCH_STREAM, GAUSSIAN_STREAM, HAAR_STREAM = 0, 16, 32, 48

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1

F32 = NDArray[np.float32]


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def counter_words(seed: int, stream: int, count: int) -> NDArray[np.uint64]:
    """Return the first `count` 64-bit words of a stream, shape (count,)."""
    inner = int(_mix(np.array([(stream + _GOLDEN) & _MASK], np.uint64))[0])
    key = _mix(np.array([(seed ^ inner) & _MASK], np.uint64))
    return _mix(key + np.uint64(_GOLDEN) * np.arange(1, count + 1, dtype=np.uint64))


def chunk_sizes(dim: int) -> tuple[int, ...]:
    """Return the powers of two that add up to `dim`, largest first."""
    return tuple(1 << bit for bit in range(dim.bit_length() - 1, -1, -1) if dim >> bit & 1)


def golden_stride(dim: int) -> int:
    """Return the stride of the permutation: coprime to `dim`, nearest to dim (sqrt(5) - 1) / 2."""
    near = round(dim * (math.sqrt(5) - 1) / 2)
    candidates = (near + sign * distance for distance in range(dim + 1) for sign in (1, -1))
    return next(step for step in candidates if step > 0 and math.gcd(step, dim) == 1)


def gaussian_matrix(rows: int, dim: int, seed: int, stream: int = GAUSSIAN_STREAM) -> NDArray[np.float64]:
    """Return i.i.d. N(0, 1) entries, shape (rows, dim), float64."""
    words = counter_words(seed, stream, 2 * rows * dim) >> np.uint64(11)
    u = (words[0::2].astype(np.float64) + 1.0) * 2.0**-53
    v = words[1::2].astype(np.float64) * 2.0**-53
    return (np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)).reshape(rows, dim)


class Rotation(Protocol):
    """An orthogonal map of R^d. Both methods take and return float32 of shape (d, rows), one vector per column."""

    def forward(self, columns: F32) -> F32:
        """Return P x for every column x; the argument may be overwritten."""

    def inverse(self, columns: F32) -> F32:
        """Return P^T y for every column y; the argument may be overwritten."""

    @property
    def fingerprint(self) -> str:
        """Hex digest of the rotation's definition; a reader that would rotate differently refuses the file."""


class Hadamard:
    """Three rounds of {signs, Walsh-Hadamard in power-of-two chunks, scale, permutation}, in float32.

    Parameters
    ----------
    dim : int
        Number of coordinates; any value, no padding.
    seed : int
        Seed of the counter generator.
    first_stream : int
        Stream of the first round's signs.
    """

    def __init__(self, dim: int, seed: int, first_stream: int = DATA_STREAM) -> None:
        self.dim = dim
        self.chunks = chunk_sizes(dim)
        words = np.stack([counter_words(seed, first_stream + r, dim) for r in range(ROUNDS)])
        self.signs = np.where(words >> np.uint64(63), np.float32(-1), np.float32(1))
        self.source = np.arange(dim) * golden_stride(dim) % dim
        self.target = np.argsort(self.source)
        scales = [np.full(size, 1.0 / np.sqrt(size)) for size in self.chunks]
        self.scale: F32 = np.concatenate(scales).astype(np.float32)[:, None]

    def _butterflies(self, columns: F32) -> None:
        start = 0
        for size in self.chunks:
            half = 1
            while half < size:
                pairs = columns[start : start + size].reshape(size // (2 * half), 2, half, -1)
                upper, lower = pairs[:, 0], pairs[:, 1]
                difference = upper - lower
                upper += lower
                lower[...] = difference
                half *= 2
            start += size

    def forward(self, columns: F32) -> F32:
        """Return P x for every column of a C-contiguous (d, rows) float32 array."""
        for signs in self.signs:
            columns = np.multiply(columns, signs[:, None], order="C")
            self._butterflies(columns)
            columns *= self.scale
            columns = columns[self.source]
        return columns

    def inverse(self, columns: F32) -> F32:
        """Return P^T y for every column of a (d, rows) float32 array."""
        for signs in self.signs[::-1]:
            columns = columns[self.target]
            self._butterflies(columns)
            columns *= self.scale
            columns *= signs[:, None]
        return columns

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the method's name, the chunks and the sign bits."""
        chunks = ",".join(map(str, self.chunks))
        text = f"hadamard rounds={ROUNDS} chunks={chunks} stride={golden_stride(self.dim)};".encode()
        return hashlib.sha256(text + np.packbits(self.signs < 0).tobytes()).hexdigest()


class Haar:
    """A dense rotation from the Haar measure, shape (d, d); O(d^2) per vector, for fidelity tests."""

    def __init__(self, dim: int, seed: int, stream: int = HAAR_STREAM) -> None:
        self.dim, self.seed, self.stream = dim, seed, stream

    @cached_property
    def matrix(self) -> F32:
        """The rotation, float32, shape (d, d)."""
        q, r = np.linalg.qr(gaussian_matrix(self.dim, self.dim, self.seed, self.stream))
        matrix: F32 = (q * np.sign(np.diagonal(r))).astype(np.float32)
        return matrix

    def forward(self, columns: F32) -> F32:
        """Return P x for every column of a (d, rows) float32 array."""
        return self.matrix @ columns

    def inverse(self, columns: F32) -> F32:
        """Return P^T y for every column of a (d, rows) float32 array."""
        return self.matrix.T @ columns

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the method's name and of the integers that seed it (its floats are not portable)."""
        text = f"haar dim={self.dim} stream={self.stream};".encode()
        return hashlib.sha256(text + counter_words(self.seed, self.stream, 64).tobytes()).hexdigest()


def make_rotation(kind: str, dim: int, seed: int, *, sketch: bool = False) -> Any:
    """Return the data's rotation, or the orthogonal sketch's, of kind ``hadamard`` or ``haar``."""
    if kind == "hadamard":
        return Hadamard(dim, seed, SKETCH_STREAM if sketch else DATA_STREAM)
    return Haar(dim, seed, HAAR_STREAM + int(sketch))
