"""Results of searches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from .arrays import OnDevice

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "Canaries",
    "Delivery",
    "Explanation",
    "ModelCheck",
    "NeighborsGraph",
    "Pairs",
    "RangeResult",
    "SearchResult",
]


class Explanation(NamedTuple):
    """How a search found its results.

    Attributes
    ----------
    effort : int or None
        Effort of the walks of the graph; None if no query was to walk.
    scored : ndarray of int64, shape (nq,)
        How many rows the walk of each query scored; 0 for queries that were scanned, such as those whose filter leaves
        few rows.
    """

    effort: int | None
    scored: NDArray[np.int64]


class Canaries(NamedTuple):
    """The inputs that tell whether a model still is the one that built an index (`VQIndex.set_canaries`).

    Attributes
    ----------
    ids : ndarray of int64, or of objects (str), shape (n,)
        Ids of their vectors.
    texts : list of str, or None
        Their texts, if they were given.
    model : str or None
        Name of the model that built the index, if it was given.
    """

    ids: NDArray[Any]
    texts: list[str] | None
    model: str | None


class ModelCheck(NamedTuple):
    """Whether vectors come from the model that built an index. It is True in a condition if they do.

    Attributes
    ----------
    same : bool
        Whether the model is the same.
    reason : str
        Why, in a sentence.
    similarity : float
        Mean estimated cosine of the new vectors with the stored ones; exact with kept vectors.
    expected_low : float
        The mean of the same model is not below this, but for the false-alarm rate.
    detectable : float
        A model whose vectors have this mean cosine with the stored ones is noticed with a probability of 99 %.
    scale : float
        Median length of the new vectors over that of the stored ones. NaN where the index does not know lengths:
        without kept vectors, for metric cosine or with a center.
    ids : ndarray of int64, or of objects (str), shape (m,)
        Ids of the canaries that were compared.
    cosines, expected_lows : ndarray of float64, shape (m,)
        The estimated cosine of each, and the lowest that is expected.
    """

    same: bool
    reason: str
    similarity: float
    expected_low: float
    detectable: float
    scale: float
    ids: NDArray[Any]
    cosines: NDArray[np.float64]
    expected_lows: NDArray[np.float64]

    def __bool__(self) -> bool:
        """Whether the model is the same."""
        return self.same


class Pairs(NamedTuple):
    """Pairs of vectors with scores better than a threshold, each pair once.

    Attributes
    ----------
    first, second : ndarray of int64, or of objects (str), shape (m,)
        Ids; the first of a pair was added before the second.
    scores : ndarray of float32, shape (m,)
        Scores of the pairs, in the index's metric: exact with kept vectors, otherwise estimates that are corrected for
        selection.
    bounds : ndarray of float32, shape (m,)
        The exact score is at least as good as this, with the confidence that was asked for. With kept vectors it is
        the exact score.
    """

    first: NDArray[Any]
    second: NDArray[Any]
    scores: NDArray[np.float32]
    bounds: NDArray[np.float32]

    @classmethod
    def joined(cls, blocks: Iterable[Pairs]) -> Pairs:
        """Return all pairs of several blocks as one.

        Parameters
        ----------
        blocks : iterable of Pairs
            Such as what `VQIndex.near_pairs` returns.

        Returns
        -------
        Pairs
            Empty for no blocks.

        Raises
        ------
        ValueError
            If `blocks` are not of one index, so that their ids have different types.
        """
        found = list(blocks)
        if not found:
            nothing = np.zeros(0, np.float32)
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), nothing, nothing)
        if len({block.first.dtype for block in found}) > 1:
            raise ValueError("blocks have ids of different types; expected blocks of one index")
        return cls(*map(np.concatenate, zip(*found, strict=True)))


class NeighborsGraph(NamedTuple):
    """The nearest neighbors of all vectors, as a sparse matrix by rows (CSR).

    ``scipy.sparse.csr_array((graph.data, graph.indices, graph.indptr))`` is the matrix.

    Attributes
    ----------
    indptr : ndarray of int64, shape (n + 1,)
        The neighbors of vector i are ``[indptr[i]:indptr[i + 1]]``, best first.
    indices : ndarray of int64, shape (indptr[-1],)
        Positions of neighbors in `ids`.
    data : ndarray of float32, shape (indptr[-1],)
        Their scores, in the index's metric.
    ids : ndarray of int64, or of objects (str), shape (n,)
        Ids of the vectors, in the order in which they were added.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int64]
    data: NDArray[np.float32]
    ids: NDArray[Any]


class SearchResult(tuple[Any, ...]):
    """Scores and ids, best first; unpacks as ``scores, ids``, or ``scores, ids, stderr`` with standard errors.

    The arrays are NumPy arrays. For queries on the GPU of an index on device ``"cuda"`` they are arrays of the queries'
    library on that GPU.

    Attributes
    ----------
    scores : ndarray of float32, shape (nq, k) or (k,)
        Estimated inner product or cosine (higher is better), or squared distance (lower is better). Columns without a
        result hold -inf (ip, cosine) or +inf (l2).
    ids : ndarray of int64, or of objects (str), shape (nq, k) or (k,)
        Ids; -1, or None, in columns without a result.
    stderr : ndarray of float32, shape (nq, k) or (k,), or None
        Standard error of each score, with ``return_stderr=True``.
    low, high : ndarray of float32, shape (nq, k) or (k,), or None
        With ``return_interval=``: intervals that hold the exact scores, corrected for selection. NaN where the
        probability can't be promised, and in columns without a result.
    complete : ndarray of float64, shape (nq,), or float, or None
        With ``complete=``: the probability that each query's results are complete.
    reads : ndarray of int64, shape (nq,), or int, or None
        With ``complete=``: how many vectors each query read.
    explanation : Explanation or None
        How the search found the results, with ``explain=True``.
    """

    low: NDArray[np.float32] | None = None
    high: NDArray[np.float32] | None = None
    complete: Any = None
    reads: Any = None
    explanation: Explanation | None = None

    def __new__(  # noqa: D102 - the class says it
        cls, scores: NDArray[np.float32], ids: NDArray[Any], stderr: NDArray[np.float32] | None = None
    ) -> Self:
        return tuple.__new__(cls, (scores, ids) if stderr is None else (scores, ids, stderr))

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)

    @property
    def scores(self) -> NDArray[np.float32]:
        """Scores, best first."""
        return self[0]  # type: ignore[no-any-return]

    @property
    def ids(self) -> NDArray[Any]:
        """Ids, best first."""
        return self[1]  # type: ignore[no-any-return]

    @property
    def stderr(self) -> NDArray[np.float32] | None:
        """Standard errors of the scores, or None."""
        return self[2] if len(self) > 2 else None

    def __repr__(self) -> str:
        named = [*zip(("scores", "ids", "stderr"), self, strict=False)]
        named += [(name, vars(self)[name]) for name in ("low", "high", "complete", "reads") if name in vars(self)]
        return f"SearchResult({', '.join(f'{name}={array!r}' for name, array in named)})"


class RangeResult(NamedTuple):
    """All results of a range search; unpacks as ``lims, scores, ids``.

    Attributes
    ----------
    lims : ndarray of int64, shape (nq + 1,)
        Results of query i are ``scores[lims[i]:lims[i + 1]]`` and ``ids[lims[i]:lims[i + 1]]``, best first.
    scores : ndarray of float32, shape (lims[-1],)
        As in `SearchResult`.
    ids : ndarray of int64, or of objects (str), shape (lims[-1],)
        As in `SearchResult`.
    """

    lims: NDArray[np.int64]
    scores: NDArray[np.float32]
    ids: NDArray[Any]


Result = TypeVar("Result", SearchResult, RangeResult)


class Delivery(NamedTuple):
    """The form in which the caller gets results.

    Attributes
    ----------
    single : bool
        Whether the caller passed one query of shape (dim,).
    on_device : OnDevice or None
        The queries, if they are on the index's device: results become arrays of their library on it.
    """

    single: bool
    on_device: OnDevice | None

    def array(self, array: NDArray[Any]) -> Any:
        """Return an array (nq, ...) in this form."""
        array = array[0] if self.single else array
        # A device can't hold string ids.
        return array if self.on_device is None or array.dtype == object else self.on_device.back(array)

    def __call__(self, kind: Callable[..., Result], *arrays: NDArray[Any] | None) -> Result:
        """Return a result of a kind from its arrays, each (nq, ...), in this form."""
        if self.single and self.on_device is None:  # the usual case, in less time
            return kind(*[None if array is None else array[0] for array in arrays])
        return kind(*[None if array is None else self.array(array) for array in arrays])
