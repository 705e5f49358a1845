"""vqindex for ann-benchmarks: a scan of quantized vectors without training, and exact scores of a shortlist."""

import numpy as np

import vqindex

from ..base.module import BaseANN


class VQIndex(BaseANN):
    """Codes of `bits` bits per coordinate; a shortlist of `oversample` times the results gets exact scores."""

    METRICS = {"angular": "cosine", "euclidean": "l2"}  # noqa: RUF012 - for old Python versions too

    def __init__(self, metric, method_param):
        if metric not in self.METRICS:
            raise NotImplementedError(f"vqindex has no metric {metric}")
        self.metric = self.METRICS[metric]
        self.codec, self.bits = method_param["codec"], method_param["bits"]
        self.set_query_arguments(0.995, 0)

    def fit(self, X):
        self.rows = np.array(X, np.float32)  # a copy: fit must not change X
        if self.metric == "cosine":
            self.rows /= np.maximum(np.linalg.norm(self.rows, axis=1, keepdims=True), 1e-30)
        else:
            self.squares = np.einsum("ij,ij->i", self.rows, self.rows)
        center = "mean" if self.metric == "l2" else None  # an offset of all vectors would drown their differences
        self.index = vqindex.VQIndex(X.shape[1], self.bits, self.metric, codec=self.codec, center=center)
        self.index.add(X)

    def set_query_arguments(self, confidence, oversample):
        """Set the confidence of the sign bound, and the length of the shortlist in multiples of n (0: none)."""
        self.confidence, self.oversample = confidence, oversample
        self.name = f"vqindex({self.codec}, bits={self.bits}, confidence={confidence}, oversample={oversample})"

    def query(self, v, n):
        shortlist = n * max(1, self.oversample)
        ids = self.index.search(v, shortlist, threads=1, confidence=self.confidence).ids
        return self._best(v, ids[ids >= 0], n)

    def batch_query(self, X, n):
        shortlist = n * max(1, self.oversample)
        found = self.index.search(X, shortlist, confidence=self.confidence).ids
        self.res = [self._best(v, ids[ids >= 0], n) for v, ids in zip(X, found)]  # noqa: B905 - old Python too

    def _best(self, v, ids, n):
        """Return the n best of the candidates by their exact scores."""
        if self.oversample == 0 or len(ids) == 0:
            return ids[:n]
        scores = self.rows[ids] @ np.asarray(v, np.float32)
        if self.metric == "l2":
            scores -= self.squares[ids] / 2  # larger if |v - x|^2 is smaller
        n = min(n, len(ids))
        best = np.argpartition(-scores, n - 1)[:n]
        return ids[best[np.argsort(-scores[best])]]

    def get_additional(self):
        return {"bytes_per_vector": self.index.stats()["bytes_per_vector"]}

    def done(self):
        self.index = self.rows = None
