"""scikit-learn estimators: nearest neighbors by a vqindex, and a transformer to their graph.

`VQNearestNeighbors` has the methods of ``sklearn.neighbors.NearestNeighbors``. `VQKNeighborsTransformer` replaces
``sklearn.neighbors.KNeighborsTransformer`` before estimators that take a sparse graph with ``metric="precomputed"``
(KNeighborsClassifier, TSNE, DBSCAN, SpectralEmbedding, UMAP ...).
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError
from ..index import VQIndex
from ._extras import missing

try:
    from joblib import effective_n_jobs
    from scipy.sparse import csr_matrix
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_array, check_is_fitted, check_random_state, validate_data
except ImportError as error:
    raise missing("scikit-learn", "sklearn", error) from error

__all__ = ["VQKNeighborsTransformer", "VQNearestNeighbors"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_METRIC = {"euclidean": "l2", "l2": "l2", "sqeuclidean": "l2", "cosine": "cosine"}
_FEWEST = 50  # rows of a shortlist: of clusters far apart, codes tell near rows apart badly, and 50 cost nothing
_MODES = ("distance", "connectivity")


class _Fitted(NamedTuple):
    """What one `fit` made. A search reads it once, so that a `fit` in another thread changes nothing in between."""

    vectors: VQIndex
    rows: Any  # float32 (n, dim), or None
    metric: str
    offset: F64 | None


class VQNearestNeighbors(BaseEstimator):  # type: ignore[misc]
    """Approximate nearest neighbors among the rows of a training matrix.

    Parameters
    ----------
    n_neighbors : int, default 5
        Default number of neighbors per query.
    metric : {"euclidean", "l2", "sqeuclidean", "cosine"}, default "euclidean"
        Distance by its scikit-learn name; "l2" is another name of "euclidean", cosine is 1 - cos.
    bits : int, default 4
        Bits per coordinate of the index, 1 to 8.
    codec : str, default "turboquant-prod"
        See `vqindex.VQIndex`.
    oversample : float or None, default 2.0
        The best ``oversample * n_neighbors`` rows by their codes, and at least 50, get exact distances, in float32,
        from a copy of the training rows, which the estimator keeps. With None it keeps only codes, and distances are
        the index's estimates: the distance of a row to itself is about 0, not 0.
    random_state : int, RandomState or None, default 0
        Seed of the index's rotation, or what draws it in `fit`.
    n_jobs : int, optional
        Threads of a search, by scikit-learn's convention (-1: all processors). None: all processors. Results do not
        depend on it.

    Attributes
    ----------
    index_ : vqindex.VQIndex
        The index over the training rows, less `offset_`; ids are row numbers.
    offset_ : ndarray of float64, shape (n_features,), or None
        The mean of the training rows, subtracted from rows and queries before they become float32. None for cosine.
    effective_metric_ : str
        The metric at the time of `fit`, which all results have, also after ``set_params(metric=...)``.
    n_samples_fit_ : int
        Number of training rows.
    n_features_in_ : int
        Their dimension.

    Examples
    --------
    >>> import numpy as np
    >>> from vqindex.integrations.sklearn import VQNearestNeighbors
    >>> rows = np.random.default_rng(0).standard_normal((100, 16))
    >>> distances, found = VQNearestNeighbors(n_neighbors=3).fit(rows).kneighbors(rows[:2])
    >>> found[:, 0].tolist(), distances[:, 0].tolist()
    ([0, 1], [0.0, 0.0])
    """

    index_: VQIndex
    n_samples_fit_: int
    effective_metric_: str
    offset_: F64 | None
    _fitted: _Fitted

    def __init__(
        self,
        n_neighbors: int = 5,
        *,
        metric: str = "euclidean",
        bits: int = 4,
        codec: str = "turboquant-prod",
        oversample: float | None = 2.0,
        random_state: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.bits = bits
        self.codec = codec
        self.oversample = oversample
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any = None) -> VQNearestNeighbors:
        """Encode the training rows.

        Parameters
        ----------
        X : array-like, shape (n_samples, n_features)
            Dense and finite.
        y : ignored
            Exists for pipelines.

        Returns
        -------
        self
        """
        metric, seed = self._check_parameters()
        given = check_array(X, dtype=_dtypes(metric), estimator=self, input_name="X")
        # Features of a table have offsets of their own, which would drown the differences between rows: times, for
        # example, are equal in float32.
        with np.errstate(over="ignore"):
            offset = None if metric == "cosine" else given.mean(axis=0, dtype=np.float64)
        rows = _float32(given, offset)
        index = VQIndex(rows.shape[1], self.bits, _METRIC[metric], codec=self.codec, seed=seed, center="mean")
        index.add(rows)
        validate_data(self, X, skip_check_array=True)  # sets the names and the number of features
        kept = None if self.oversample is None else rows
        fitted = _Fitted(index, kept, "euclidean" if metric == "l2" else metric, offset)
        # At once, so that a fit that fails or is interrupted leaves the estimator as it was.
        self.__dict__.update(
            _fitted=fitted, index_=index, n_samples_fit_=len(rows), effective_metric_=fitted.metric, offset_=offset
        )
        return self

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> tuple[F64, I64] | I64:
        """Find the nearest training rows of each query.

        Parameters
        ----------
        X : array-like, shape (n_queries, n_features), optional
            Queries. Without them the training rows are the queries, and no row is its own neighbor; this needs
            `oversample`, because codes alone do not determine the rows.
        n_neighbors : int, optional
            By default the constructor's.
        return_distance : bool, default True
            Also return distances.

        Returns
        -------
        distances : ndarray of float64, shape (n_queries, n_neighbors)
            Nearest first; only with `return_distance`.
        indices : ndarray of int64, shape (n_queries, n_neighbors)
            Row numbers in the training matrix.

        Raises
        ------
        ValueError
            If `n_neighbors` is greater than the number of training rows.
        """
        distances, found, _ = self._neighbors(X, n_neighbors)
        return (distances, found) if return_distance else found

    def _neighbors(self, X: Any, n_neighbors: object) -> tuple[F64, I64, int]:
        """Return distances and neighbors, as `kneighbors`, and the number of training rows."""
        check_is_fitted(self, "index_")
        k, fitted = self._neighbor_count(n_neighbors), self._fitted
        others = X is not None
        if others:
            queries = _float32(validate_data(self, X, dtype=_dtypes(fitted.metric), reset=False), fitted.offset)
        elif fitted.rows is None:
            raise InvalidInputError("X is None; with oversample=None training rows are not kept, so expected queries")
        else:
            queries = fitted.rows
        n = len(fitted.vectors)
        most = n - (not others)
        if k > most:
            raise InvalidInputError(
                f"Expected n_neighbors <= {'n_samples_fit' if others else 'n_samples_fit - 1'}, but n_neighbors = {k}, "
                f"n_samples_fit = {n}, n_samples = {len(queries)}"
            )
        distances, found = self._nearest(fitted, queries, k if others else k + 1)
        if not others:
            distances, found = _without_self(distances, found)
        return distances, found, n

    def kneighbors_graph(self, X: Any = None, n_neighbors: int | None = None, mode: str = "connectivity") -> csr_matrix:
        """Return the k-neighbors graph as a sparse matrix, each row sorted by distance.

        Parameters
        ----------
        X, n_neighbors
            As in `kneighbors`.
        mode : {"connectivity", "distance"}, default "connectivity"
            Entries are ones or distances; a distance of 0 is stored.

        Returns
        -------
        csr_matrix of float64, shape (n_queries, n_samples_fit)
        """
        if mode not in _MODES:
            raise InvalidInputError(f"mode is {mode!r}; expected one of {', '.join(_MODES)}")
        distances, found, n = self._neighbors(X, n_neighbors)
        rows, k = found.shape
        values = distances.ravel() if mode == "distance" else np.ones(rows * k)
        starts = np.arange(0, rows * k + 1, k)
        return csr_matrix((values, found.ravel(), starts), shape=(rows, n))

    def _check_parameters(self) -> tuple[str, int]:
        """Check parameters that the index does not, and return the metric and the seed of the index.

        Scikit-learn requires this in `fit`, not in the constructor.
        """
        self._neighbor_count(None)
        if not isinstance(self.metric, str) or self.metric not in _METRIC:
            raise InvalidInputError(f"metric is {self.metric!r}; expected one of {', '.join(_METRIC)}")
        if self.oversample is not None and not (isinstance(self.oversample, Real) and self.oversample >= 1):
            raise InvalidInputError(f"oversample is {self.oversample!r}; expected a number of at least 1, or None")
        state = self.random_state
        return self.metric, int(state if isinstance(state, Integral) else check_random_state(state).randint(2**31 - 1))

    def _neighbor_count(self, n_neighbors: object) -> int:
        count = self.n_neighbors if n_neighbors is None else n_neighbors
        if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
            raise InvalidInputError(f"n_neighbors is {count!r}; expected an integer of at least 1")
        return int(count)

    def _nearest(self, fitted: _Fitted, queries: NDArray[np.float32], k: int) -> tuple[F64, I64]:
        """Return the distances and rows of the k nearest rows, (nq, k); at least k rows exist."""
        threads = effective_n_jobs(-1 if self.n_jobs is None else self.n_jobs)
        rerank: dict[str, Any] = {}
        if fitted.rows is not None and self.oversample is not None:
            rerank = {"rerank": fitted.rows, "oversample": max(self.oversample, _FEWEST / k)}
        scores, found = fitted.vectors.search(queries, k, threads=threads, **rerank)
        return _distances(scores.astype(np.float64), fitted.metric), found


class VQKNeighborsTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, VQNearestNeighbors):  # type: ignore[misc]
    """Transform rows into the (sparse, weighted) graph of their nearest training rows.

    Parameters
    ----------
    mode : {"distance", "connectivity"}, default "distance"
        Entries of the graph. As in ``KNeighborsTransformer``, a row of the distance graph has `n_neighbors` + 1
        neighbors, because the first neighbor of a training row is itself.
    n_neighbors, metric, bits, codec, oversample, random_state, n_jobs
        As in `VQNearestNeighbors`.

    Examples
    --------
    >>> import numpy as np
    >>> from vqindex.integrations.sklearn import VQKNeighborsTransformer
    >>> rows = np.random.default_rng(0).standard_normal((100, 16))
    >>> VQKNeighborsTransformer(n_neighbors=3).fit_transform(rows).shape
    (100, 100)
    """

    def __init__(
        self,
        *,
        mode: str = "distance",
        n_neighbors: int = 5,
        metric: str = "euclidean",
        bits: int = 4,
        codec: str = "turboquant-prod",
        oversample: float | None = 2.0,
        random_state: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        super().__init__(
            n_neighbors,
            metric=metric,
            bits=bits,
            codec=codec,
            oversample=oversample,
            random_state=random_state,
            n_jobs=n_jobs,
        )
        self.mode = mode

    def transform(self, X: Any) -> csr_matrix:
        """Return the graph from rows to their nearest training rows.

        Parameters
        ----------
        X : array-like, shape (n_queries, n_features)
            Rows.

        Returns
        -------
        csr_matrix of float64, shape (n_queries, n_samples_fit)
        """
        check_is_fitted(self, "index_")
        return self.kneighbors_graph(X, self.n_neighbors + (self.mode == "distance"), self.mode)

    @property
    def _n_features_out(self) -> int:
        return self.n_samples_fit_


def _dtypes(metric: str) -> list[type]:
    """Return the types that data are checked as; distances of a difference need all digits of its terms."""
    return [np.float32] if metric == "cosine" else [np.float64, np.float32]


def _float32(rows: NDArray[Any], offset: F64 | None) -> NDArray[np.float32]:
    """Return a C-contiguous copy of rows, less an offset, which no later change of `rows` affects."""
    out = np.empty(rows.shape, np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # the index names what is not finite
        np.subtract(rows, 0 if offset is None else offset, out=out, casting="same_kind")
    return out


def _distances(scores: F64, metric: str) -> F64:
    """Return distances for the index's scores; negative estimates become 0."""
    positive: F64 = np.maximum(1 - scores if metric == "cosine" else scores, 0)
    return np.sqrt(positive) if metric == "euclidean" else positive


def _without_self(distances: F64, found: I64) -> tuple[F64, I64]:
    """Remove neighbor i from row i, or the last neighbor of a row without neighbor i."""
    keep = found != np.arange(len(found))[:, None]
    keep[keep.all(axis=1), -1] = False
    shape = (len(found), found.shape[1] - 1)
    return distances[keep].reshape(shape), found[keep].reshape(shape)
