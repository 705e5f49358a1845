"""vqindex for VIBE: a scan of quantized vectors without training, and exact scores of a shortlist."""

import numpy as np

import vqindex

from ..base.module import BaseANN

METRICS = {"euclidean": "l2", "cosine": "cosine", "normalized": "cosine", "ip": "ip"}


class VQIndex(BaseANN):
    """Codes of `bits` bits per coordinate; a shortlist of `oversample` times the results gets exact scores."""

    def __init__(self, metric, codec, bits):
        if metric not in METRICS:
            raise NotImplementedError(f"vqindex has no metric {metric}")
        self.metric, self.codec, self.bits = METRICS[metric], codec, bits
        self.set_query_arguments(0.995, 0)

    def fit(self, X):
        center = "mean" if self.metric == "l2" else None  # an offset of all vectors would drown their differences
        self.index = vqindex.VQIndex(X.shape[1], self.bits, self.metric, codec=self.codec, center=center)
        self.index.add(X)
        self.rows = np.array(X, np.float32)  # a copy: fit must not change X
        self.half_squares = None
        if self.metric == "cosine":
            self.rows /= np.maximum(np.linalg.norm(self.rows, axis=1, keepdims=True), 1e-30)
        elif self.metric == "l2":
            self.half_squares = np.einsum("ij,ij->i", self.rows, self.rows) / 2

    def set_query_arguments(self, confidence, oversample):
        """Set the confidence of the sign bound, and the length of the shortlist in multiples of n (0: none)."""
        self.confidence, self.oversample = confidence, oversample

    def query(self, v, n):
        ids = self.index.search(v, n * max(1, self.oversample), threads=1, confidence=self.confidence).ids
        return self._best(v, ids[ids >= 0], n)

    def _best(self, v, ids, n):
        """Return the n best of the candidates by their exact scores."""
        if self.oversample == 0 or len(ids) == 0:
            return ids[:n]
        scores = self.rows[ids] @ np.asarray(v, np.float32)
        if self.half_squares is not None:
            scores -= self.half_squares[ids]  # larger if |v - x|^2 is smaller
        n = min(n, len(ids))
        best = np.argpartition(-scores, n - 1)[:n]
        return ids[best[np.argsort(-scores[best])]]

    def get_additional(self):
        return {"bytes_per_vector": self.index.stats()["bytes_per_vector"]}

    def __str__(self):
        return (
            f"VQIndex(codec={self.codec}, bits={self.bits}, confidence={self.confidence}, oversample={self.oversample})"
        )
