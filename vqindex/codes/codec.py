"""Codec: the frozen tables of one IndexSpec. Every backend is built from them.

A code row holds one field of `bits` bits per coordinate of the rotated vector y = P x:

=================  ====================================================  ====================================
codec              field j                                               estimate of <q, x>
=================  ====================================================  ====================================
turboquant-mse     Lloyd-Max cell of y_j                                 rescale <Pq, L>
prod, shared       cell with one bit fewer, then the side of its         rescale <Pq, L>
                   centroid: a cell of ``codebook.embedded``
prod, orthogonal   cell with one bit fewer, then the sign of (S r)_j     rescale (<Pq, L> + beta <SPq, z>)
prod, gaussian     cell with one bit fewer, then the sign of (S r)_j     norm c <Pq, L> + rescale <SPq, z>
trellis            bits of a path; the window that ends with field j     rescale <Pq, L>
                   determines the level of coordinate j
qjl                signs of rows j*bits .. j*bits + bits - 1 of SPx      rescale <SPq, z>
=================  ====================================================  ====================================

L are integer levels and z = +-1 signs. The residual r is y minus the level of its cell, at the scale of x. A field of a
cell and a sign is 2 * cell + sign bit. ``rescale`` and ``norm`` (unless the metric is cosine) are the float32 scalars
stored per vector; ``estimator.py`` defines them. The file's block of ``rescale`` is called ``factor``.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..spec import IndexSpec
from . import codebook as books
from .codebook import Codebook
from .rotation import Rotation, gaussian_matrix, make_rotation
from .trellis import Trellis

__all__ = ["Codec"]


class GaussianSketch:
    """The paper's sketch S: i.i.d. N(0, 1), shape (m, d), m = d for prod and d * bits for qjl."""

    def __init__(self, rows: int, dim: int, seed: int) -> None:
        self.rows, self.dim, self.seed = rows, dim, seed

    @cached_property
    def matrix(self) -> NDArray[np.float32]:
        """S as float32, shape (m, d)."""
        return gaussian_matrix(self.rows, self.dim, self.seed).astype(np.float32)

    def forward(self, columns: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return S r for every column, shape (m, rows)."""
        return self.matrix @ columns

    def inverse(self, columns: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return S^T z for every column, shape (d, rows)."""
        return self.matrix.T @ columns


@dataclass(frozen=True)
class Codec:
    """Rotation, codebook and sketch of a spec. Build one with ``Codec(spec)``; equal specs give equal tables."""

    spec: IndexSpec

    @property
    def index_bits(self) -> int:
        """Bits of the scalar cell in a field: the whole field for mse and the same-rotation sketch."""
        if self.spec.codec == "qjl":
            return 0
        return self.spec.bits - 1 if self.has_sketch else self.spec.bits

    @property
    def has_sketch(self) -> bool:
        """Whether the code stores signs of a second projection and scores them apart from the levels."""
        return self.spec.sketch in ("orthogonal", "gaussian")

    @property
    def renormalized(self) -> bool:
        """Whether ``rescale`` is |x|^2 / <y, yhat>, which makes the estimate unbiased."""
        return self.trellis is not None or (self.spec.codec == "turboquant-prod" and self.spec.sketch != "gaussian")

    @property
    def signs(self) -> int:
        """Number m of stored signs of the second projection per vector."""
        if self.spec.codec == "qjl":
            return self.spec.dim * self.spec.bits
        return self.spec.dim if self.has_sketch else 0

    @cached_property
    def rotation(self) -> Rotation:
        """The rotation P."""
        rotation: Rotation = make_rotation(self.spec.rotation, self.spec.dim, self.spec.seed)
        return rotation

    @cached_property
    def sketch(self) -> Any:
        """The sketch S, with ``forward`` and ``inverse`` on columns; only for codecs that have one."""
        if self.spec.sketch == "gaussian":
            return GaussianSketch(self.signs, self.spec.dim, self.spec.seed)
        return make_rotation(self.spec.rotation, self.spec.dim, self.spec.seed, sketch=True)

    @cached_property
    def trellis(self) -> Trellis | None:
        """Constants of the trellis codec, None for all others."""
        return Trellis.of(self.spec.bits) if self.spec.codec == "trellis" else None

    @property
    def sign_correlation(self) -> float | None:
        """Correlation of sign bits and coordinates (``sign_bound.py``); None stands for that of a Gaussian's sign."""
        return None if self.trellis is None else self.trellis.correlation

    @cached_property
    def codebook(self) -> Codebook:
        """Scalar codebook of a field's cell; for the trellis its table of levels, without thresholds."""
        if self.trellis is not None:
            none = np.zeros(0, np.float32)
            return Codebook(none, self.trellis.table, self.trellis.step, self.trellis.mse, none.astype(np.float64))
        if self.spec.sketch == "shared":
            return books.embedded(self.spec.dim, self.spec.bits)
        if self.index_bits == 0:
            nothing = np.zeros(1)
            return Codebook(nothing[:0].astype(np.float32), nothing.astype(np.int8), 1.0, 1.0, nothing + 1.0)
        return books.lloyd_max(self.spec.dim, self.index_bits)

    @cached_property
    def beta(self) -> np.float32:
        """Value of a sign of the orthogonal sketch in grid steps: least squares for a residual of expected energy."""
        return np.float32(math.sqrt(2.0 / math.pi * self.codebook.mse) / self.codebook.step)

    @cached_property
    def cell_scale(self) -> np.float32:
        """The constant c: size of a grid step in coordinates of a unit vector, step / sqrt(d)."""
        return np.float32(self.codebook.step / math.sqrt(self.spec.dim))

    @property
    def expected_mse(self) -> float:
        """E|x - xhat|^2 of a unit vector x and its best-scaled reconstruction; nan where the paper gives no value."""
        if self.spec.codec == "qjl" or self.spec.sketch == "gaussian":
            return math.nan
        if self.spec.sketch == "orthogonal":
            return self.codebook.mse * (1.0 - 2.0 / math.pi)
        return self.codebook.mse

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the rotation and the codebook; this version can't read a file with another one."""
        digest = hashlib.sha256(self.rotation.fingerprint.encode())
        digest.update(self.codebook.thresholds.astype("<f4").tobytes())
        digest.update(self.codebook.levels.astype("<i2").tobytes())
        digest.update(np.float32(self.codebook.step).astype("<f4").tobytes())
        return digest.hexdigest()
