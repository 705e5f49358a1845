"""Plans: which codec, width and center reach a recall on so many vectors, from a sample of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arguments import DEFAULT_OVERSAMPLE, as_count, as_level
from .arrays import as_host, as_queries, float_rows, on_host
from .center import engine_spec
from .codes.codec import Codec
from .codes.trellis import MAX_BITS as TRELLIS_BITS
from .errors import InvalidInputError
from .search.sampled import TIMES, Depths, Sampled
from .spec import MAX_BITS, METRICS, IndexSpec

__all__ = ["Choice", "Plan", "plan"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

MOST_ROWS, MOST_QUERIES = 50_000, 1000  # of larger arrays so many are taken
_FEWEST, _FEWEST_OF = 1000, 20  # rows of a sample, at least, and in multiples of k
_FEWEST_QUERIES = 20
_MOST_N = 10**15
_READ_RECALL = 0.99  # that `Choice.reads` is for
_WIDTHS = {"turboquant-prod": MAX_BITS, "trellis": TRELLIS_BITS}  # the codecs of plans; others are to compare


@dataclass(frozen=True)
class Choice:
    """One line of a plan: parameters of an index, its size, and the recall to expect.

    Attributes
    ----------
    codec : str
        Codec.
    bits : int
        Bits per coordinate.
    center : str or None
        ``"mean"`` or None.
    rerank : bool
        Whether searches use ``rerank=`` with the default `oversample`. The vectors they read are not counted in
        `bytes_per_vector`.
    bytes_per_vector : int
        Bytes per vector, scalars included, without ids.
    recall : tuple of (float, float)
        Range of the recall at k to expect.
    reads : int or None
        How many vectors per query a search with ``rerank=`` has to read for a recall of 0.99: ``oversample=reads / k``.
        None for lines without rerank, and if more than 64 k are needed.
    """

    codec: str
    bits: int
    center: str | None
    rerank: bool
    bytes_per_vector: int
    recall: tuple[float, float]
    reads: int | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """Arguments of `VQIndex` besides `dim` and `metric`."""
        return {"bits": self.bits, "codec": self.codec, "center": self.center}


@dataclass(frozen=True)
class Plan:
    """What recall to expect of each codec, width and center.

    Attributes
    ----------
    n : int
        Number of vectors that the plan is for.
    dim : int
        Their dimension.
    k : int
        Number of results.
    metric : str
        Metric.
    target_recall : float
        Recall that is asked for.
    sample_rows, sample_queries : int
        How many vectors and queries were looked at.
    has_queries : bool
        Whether queries were given; otherwise vectors of the sample were the queries.
    table : tuple of Choice
        All choices, by bytes per vector and then by recall.
    """

    n: int
    dim: int
    k: int
    metric: str
    target_recall: float
    sample_rows: int
    sample_queries: int
    has_queries: bool
    table: tuple[Choice, ...]

    @property
    def best(self) -> Choice | None:
        """The smallest choice without rerank whose range lies at or above the target; None if there is none."""
        return self._best(rerank=False)

    @property
    def best_reranked(self) -> Choice | None:
        """The smallest choice with rerank whose range lies at or above the target; None if there is none."""
        return self._best(rerank=True)

    def _best(self, *, rerank: bool) -> Choice | None:
        enough = [one for one in self.table if one.rerank is rerank and one.recall[0] >= self.target_recall]
        return min(enough, key=lambda one: (one.bytes_per_vector, -one.recall[0]), default=None)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain Python values, with both best choices."""
        found = asdict(self)
        for name, one in (("best", self.best), ("best_reranked", self.best_reranked)):
            found[name] = None if one is None else asdict(one)
        return found

    def __str__(self) -> str:
        """Return the table as text, with a star at the best choices."""
        lines = ["  codec            bits  center  rerank  bytes  recall          reads"]
        chosen = (self.best, self.best_reranked)
        for one in self.table:
            star = "*" if any(one is other for other in chosen) else " "
            low, high = one.recall
            line = f"{star} {one.codec:<15}  {one.bits:>4}  {one.center or '-':<6}  {'yes' if one.rerank else 'no':<6}"
            reads = "" if one.reads is None else f"{one.reads}"
            lines.append(f"{line}  {one.bytes_per_vector:>5}  {low:.3f} to {high:.3f}  {reads:>5}".rstrip())
        if self.best is None:
            lines.append(f"none without rerank reaches a recall of {self.target_recall:g} for sure")
        return "\n".join(lines)


def plan(
    sample: Any,
    *,
    n: int,
    target_recall: float,
    k: int = 10,
    queries: Any = None,
    metric: str = "ip",
) -> Plan:
    """Say which recall each codec, width and center will have on `n` vectors, from a sample, and which is the smallest.

    Nothing is encoded. The recall comes from exact scores inside the sample and the size of the codecs' errors, and is
    carried on to `n` (``search/sampled.py`` has the method). It is that of searches that scan all vectors.

    Parameters
    ----------
    sample : array-like of shape (m, dim)
        A random sample of the vectors: at least 1,000 and at least 20 k of them. 10,000 to 50,000 are a good number;
        of more, 50,000 are taken.
    n : int
        Number of vectors of the index, at least m.
    target_recall : float
        Recall at k to reach, above 0 and below 1.
    k : int
        Number of results.
    queries : array-like of shape (nq, dim), optional
        Real queries, at least 20. Some hundred make the ranges narrow; of more than 1,000, 1,000 are taken. Without
        queries, vectors of the sample serve as queries. Their recall may differ from that of real queries by several
        hundredths.
    metric : one of {"ip", "cosine", "l2"}
        Metric of the index.

    Returns
    -------
    Plan
        ``plan.best`` is the smallest choice that reaches the target, or None; ``plan.table`` has all choices. Results
        are the same each time.

    Raises
    ------
    InvalidInputError
        For arguments out of range and arrays that don't fit; the message names the value.
    """
    if metric not in METRICS:
        raise InvalidInputError(f"metric is {metric!r}; expected one of {', '.join(METRICS)}")
    k, n = as_count("k", k, _MOST_N), _as_rows(n)
    target = as_level("target_recall", target_recall)
    rows = _as_sample(sample, k, n)
    asked = None if queries is None else _as_asked(queries, rows.shape[1])
    picked = _some(len(rows if asked is None else asked), MOST_QUERIES)
    depths = Depths.of(len(rows), n, k)
    choices: list[Choice] = []
    for center in (None,) if metric == "ip" else (None, "mean"):
        sampled = Sampled.of(rows, asked, picked, metric, centered=center is not None, best=depths.best)
        for codec, widest in _WIDTHS.items():
            specs = (IndexSpec(rows.shape[1], bits, metric, codec) for bits in range(1, widest + 1))
            plain, reranked = zip(*(_choices(sampled, depths, spec, center) for spec in specs), strict=True)
            choices += _rising(plain, reranked)
    table = tuple(sorted(choices, key=lambda one: (one.bytes_per_vector, one.recall)))
    return Plan(n, rows.shape[1], k, metric, target, len(rows), len(picked), asked is not None, table)


def _choices(sampled: Sampled, depths: Depths, spec: IndexSpec, center: str | None) -> Iterator[Choice]:
    """Yield the lines of one codec, width and center, without and with rerank."""
    shares = sampled.shares(Codec(spec).expected_mse, spec.dim, depths.levels)
    ends = depths.bounds(shares)
    size = engine_spec(spec, center is not None).bytes_per_vector
    for rerank, times in ((False, 1), (True, DEFAULT_OVERSAMPLE)):
        low, high = ends[TIMES.index(times)].tolist()
        reads = _reads(ends[:, 0], depths.k) if rerank else None
        yield Choice(spec.codec, spec.bits, center, rerank, size, (round(low, 4), round(high, 4)), reads)


def _rising(plain: Sequence[Choice], reranked: Sequence[Choice]) -> Iterator[Choice]:
    """Yield the lines of one codec and center, ascending by bits, with what they say of each other.

    More bits have no lower recall, nor has a longer shortlist. So the recall of a line is at least the lower end of any
    line before it, and at most the upper end of any line after it.
    """
    lows = np.maximum.accumulate([[one.recall[0] for one in line] for line in (plain, reranked)], axis=1)
    highs = np.array([[one.recall[1] for one in line] for line in (plain, reranked)])
    lows[1], highs = np.maximum(*lows), np.minimum.accumulate(highs[:, ::-1], axis=1)[:, ::-1]
    highs[0] = np.minimum(*highs)
    highs = np.maximum(lows, highs)  # where lines contradict each other
    reads: int | None = None
    for at, (one, other) in enumerate(zip(plain, reranked, strict=True)):
        yield replace(one, recall=(float(lows[0, at]), float(highs[0, at])))
        reads = min((each for each in (reads, other.reads) if each is not None), default=None)
        yield replace(other, recall=(float(lows[1, at]), float(highs[1, at])), reads=reads)


def _reads(lows: F64, k: int) -> int | None:
    """Return the length of a shortlist with a recall of `_READ_RECALL`, from the lower ends at `TIMES`."""
    first = int(np.argmax(lows >= _READ_RECALL))
    if lows[first] < _READ_RECALL:
        return None
    if first == 0:
        return k
    quantile = NormalDist().inv_cdf
    below, above = (quantile(min(max(float(low), 1e-9), 1 - 1e-6)) for low in lows[first - 1 : first + 1])
    share = (quantile(_READ_RECALL) - below) / (above - below)
    return math.ceil(k * TIMES[first - 1] * math.pow(TIMES[first] / TIMES[first - 1], share))


def _as_rows(n: object) -> int:
    """Return the number of vectors; a float such as 1e7 will do."""
    if isinstance(n, float | np.floating) and math.isfinite(n) and n == int(n):
        n = int(n)
    return as_count("n", n, _MOST_N)


def _as_sample(sample: Any, k: int, n: int) -> F32:
    """Return the rows of a sample to look at."""
    matrix = as_host(sample)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu" or not matrix.shape[1]:
        raise InvalidInputError(
            f"sample has dtype {matrix.dtype} and shape {matrix.shape}; expected numbers of shape (m, dim)"
        )
    fewest = max(_FEWEST, _FEWEST_OF * k)
    if len(matrix) < fewest:
        raise InvalidInputError(f"sample has {len(matrix)} rows; expected at least {fewest} for k={k}")
    if n < len(matrix):
        raise InvalidInputError(f"n is {n}; expected at least {len(matrix)}, the number of rows of the sample")
    IndexSpec(matrix.shape[1])  # refuses a dimension that no index has
    return float_rows(matrix, _some(len(matrix), max(MOST_ROWS, fewest)), "sample")


def _as_asked(queries: Any, dim: int) -> F32:
    matrix = on_host(as_queries(as_host(queries), dim)[0])
    if len(matrix) < _FEWEST_QUERIES:
        raise InvalidInputError(
            f"queries has {len(matrix)} rows, too few to tell how queries differ; expected at least {_FEWEST_QUERIES}, "
            "or None"
        )
    return matrix


def _some(count: int, most: int) -> I64:
    """Return which of `count` rows to take: all, or a random `most` of them, ascending."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, most, replace=False))
