"""A sample of the vectors of a file: it chooses a metric, and tells whether an index holds these vectors."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import vqindex
from vqindex_bench.data_files import are_normalized
from vqindex_datasets import DISTANCES, VectorSource, is_annbench, load_annbench
from vqindex_datasets.annbench import stated_distance

__all__ = [
    "DIGEST",
    "Sample",
    "choose_metric",
    "differs_from_origin",
    "holds_others",
    "note_change",
    "note_origin",
    "origin_of",
    "sample_of",
]

_PLACES, _ROWS = 16, 64  # rows of a sample: 16 runs of 64, at equal distances
_SHIFTS = 16  # other rows that every sampled row is compared with
_UNKNOWN_LOSS = 0.5  # instead of the expected error of a codec for which the paper gives none
_LEAST_DIM = 8  # below it, the error of one direction may be far from the expected one
_LEAST = 8  # comparisons below this number tell nothing

FROM, COUNT, DIGEST = "built_from", "built_rows", "built_sample"  # keys in the notes of an index


class Sample(NamedTuple):
    """Some rows of a file.

    Attributes
    ----------
    rows : ndarray of int64, shape (m,)
        Row numbers, ascending.
    vectors : ndarray of float32, shape (m, d)
        The rows.
    """

    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]

    @property
    def digest(self) -> str:
        """A hash of the rows as float32, the same for every format of a file."""
        content = hashlib.sha256(self.rows.astype("<i8").tobytes())
        content.update(self.vectors.astype("<f4").tobytes())
        return content.hexdigest()[:16]


def sample_of(source: VectorSource) -> Sample:
    """Read up to 1,024 rows at equal distances, or all rows of a short file."""
    count = source.shape[0]
    if count <= _PLACES * _ROWS:
        parts = [(0, count)]
    else:
        parts = [(int(at), int(at) + _ROWS) for at in np.linspace(0, count - _ROWS, _PLACES)]
    with np.errstate(over="ignore"):
        vectors = np.concatenate([np.asarray(source.read(*part), np.float32) for part in parts])
    return Sample(np.concatenate([np.arange(*part, dtype=np.int64) for part in parts]), vectors)


def choose_metric(data: Path, dataset: str | None, sample: Sample) -> tuple[str, str]:
    """Return the metric for the vectors of a file, and why it was chosen."""
    if dataset in (None, "train") and is_annbench(data):
        load_annbench(data)  # refuses unknown distances and a damaged layout
    distance = stated_distance(data)
    if distance is not None:
        return DISTANCES[distance], f"the distance in {data.name} is {distance!r}"
    norms = np.linalg.norm(sample.vectors.astype(np.float64), axis=1)
    if not len(norms):
        return "cosine", f"{data.name} has no vectors to look at; --metric ip or l2 chooses another"
    if are_normalized(norms):
        return "ip", "vectors are normalized, so inner product and cosine rank alike"
    return "cosine", f"norms range from {norms.min():.3g} to {norms.max():.3g}; --metric ip or l2 chooses another"


def note_origin(meta: dict[str, Any], data: Path, source: VectorSource, sample: Sample) -> None:
    """Note in an index from which vectors it is built."""
    meta.update({FROM: data.name, COUNT: source.shape[0], DIGEST: sample.digest})


def note_change(meta: dict[str, Any]) -> None:
    """Note that an index has other vectors than those it was built from."""
    meta.pop(DIGEST, None)


def origin_of(index: vqindex.VQIndex) -> str:
    """Return what is known about the data of an index, for messages; "" if nothing is."""
    meta = index.meta
    if FROM not in meta:
        return ""
    changed = "" if DIGEST in meta and meta.get(COUNT) == index.ntotal else ", and changed since"
    return f"built from {meta[FROM]} ({meta.get(COUNT)} rows){changed}"


def differs_from_origin(index: vqindex.VQIndex, sample: Sample) -> bool:
    """Whether an index notes that it was built from other vectors."""
    meta = index.meta
    return DIGEST in meta and meta.get(COUNT) == index.ntotal and meta[DIGEST] != sample.digest


def holds_others(index: vqindex.VQIndex, ids: NDArray[Any], vectors: NDArray[np.float32]) -> bool:
    """Whether the codes of some ids are those of other vectors.

    It takes two signs. The codes are as near to the vectors of other ids as to their own; and they are further from
    their own than the codec explains. Neither is enough: codes of vectors with a large common offset look alike, and
    few bits in few dimensions are inexact.

    Parameters
    ----------
    index : VQIndex
        The index.
    ids : ndarray of int64 or str, shape (m,)
        Ids in the index.
    vectors : ndarray of float32, shape (m, dim)
        What they should be.
    """
    wide = vectors.astype(np.float64)
    decoded = index.reconstruct(ids).astype(np.float64) if len(ids) else wide
    usable = np.isfinite(wide).all(axis=1) & (np.linalg.norm(decoded, axis=1) > 0) & (np.linalg.norm(wide, axis=1) > 0)
    given, decoded = _unit(wide[usable]), _unit(decoded[usable])
    loss = index.stats()["expected_mse"]
    if loss is None:
        loss = _UNKNOWN_LOSS if index.dim >= _LEAST_DIM else 1.0
    error = 1 - (given * decoded).sum(axis=1) ** 2
    if len(given) < _LEAST or error.mean() <= min(3 * loss + 0.001, 0.4 * loss + 0.6, 1.0):
        return False
    given, decoded = given - given.mean(axis=0), decoded - decoded.mean(axis=0)
    own, wins = (given * decoded).sum(axis=1), []
    for shift in range(1, min(_SHIFTS, len(given) - 1) + 1):
        other = np.roll(given, shift, axis=0)
        differ = (other != given).any(axis=1)
        wins.append((own > (other * decoded).sum(axis=1))[differ])
    compared = np.concatenate(wins)
    return len(compared) >= _LEAST and float(compared.mean()) < 0.7


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
