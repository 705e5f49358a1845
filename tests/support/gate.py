"""The hash gate: fixed corpora, whose codes and results must be equal on every backend, bit for bit.

The frozen counter generator produces the corpora, so that they do not depend on NumPy's random streams.
"""

import hashlib

import numpy as np
from backend_search import top_k

from vqindex.codes.bitplanes import split
from vqindex.codes.codec import Codec
from vqindex.codes.rotation import counter_words
from vqindex.spec import IndexSpec

DIMS = (1, 3, 17, 64, 100, 384, 768, 1536, 3072)
# The codecs that promise equal bits everywhere: no dense matrix products.
PORTABLE = {
    "prod-shared": {"codec": "turboquant-prod", "sketch": "shared"},
    "prod-orthogonal": {"codec": "turboquant-prod", "sketch": "orthogonal"},
    "mse": {"codec": "turboquant-mse"},
}
# Later definitions have separate golden files, because frozen files are never rewritten.
LATER = {"trellis": {"codec": "trellis"}}
K = 12
# Codes whose records are frozen.
RECORD_SPECS = {
    f"{codec} {bits} {metric} {dim}": IndexSpec(dim, bits, metric, codec=codec)
    for codec, bits, metric, dim in (
        ("turboquant-prod", 4, "cosine", 384),
        ("turboquant-prod", 4, "l2", 100),
        ("turboquant-prod", 4, "ip", 1),
        ("turboquant-mse", 8, "cosine", 100),
        ("turboquant-mse", 3, "l2", 17),
        ("trellis", 1, "cosine", 384),
        ("trellis", 1, "l2", 1),
        ("trellis", 2, "cosine", 384),
        ("trellis", 2, "l2", 100),
        ("trellis", 3, "cosine", 17),
        ("trellis", 4, "ip", 1),
    )
}


def widths(name, all_widths):
    """Return those of `all_widths` that a codec has."""
    return [bits for bits in all_widths if name != "trellis" or bits <= 4]


def corpus(dim, rows=96, seed=7):
    """Return float32 rows with ties, zeros, subnormals, extremes, one-hot rows, constants and negative zeros."""
    words = counter_words(seed, 1000 + dim, rows * dim)
    x = ((words >> np.uint64(40)).astype(np.int64) - 2**23).astype(np.float32) * np.float32(2.0**-21)
    x = x.reshape(rows, dim).copy()
    x[1] = 0
    x[2] = -0.0
    x[3] = x[0]
    x[4] = -x[0]
    x[5] = 0
    x[5, dim // 2] = 1
    x[6] = 1
    x[7] = x[8] * np.float32(2.0**40)
    x[9] = x[8] * np.float32(2.0**-80)
    x[10] = np.float32(1e-42)
    x[11, 0] = np.float32(1e-42)
    x[12, 0] = np.float32(2.0**30)
    x[13] = 0
    x[13, dim - 1] = np.float32(-3.5)
    x[14] = np.arange(dim)
    x[15] = x[16]
    return x


def queries(dim):
    """Return ten queries; one is zero and one is a row of the corpus."""
    q = corpus(dim, rows=20, seed=11)[[0, 1, 5, 6, 7, 9, 14, 17, 18, 19]]
    q[3] = corpus(dim)[3]
    return q


def digest(*arrays):
    """Return a short SHA-256 over dtype, shape and bytes."""
    h = hashlib.sha256()
    for a in arrays:
        if a is not None:
            a = np.ascontiguousarray(a)
            h.update(f"{a.dtype.str}{a.shape}".encode() + a.tobytes())
    return h.hexdigest()[:24]


def encode_digests(make_backend, dim, name):
    """Return digests of codes and scalars for all widths, by width and metric."""
    out = {}
    for bits in widths(name, range(1, 9)):
        for metric in ("ip", "cosine"):
            backend = make_backend(Codec(IndexSpec(dim, bits, metric, seed=3, **{**PORTABLE, **LATER}[name])))
            out[f"{bits} {metric}"] = digest(*backend.encode(corpus(dim)))
    return out


def search_digests(make_backend, dim, name, confidence=1.0):
    """Return digests of scores and rows over two segments, by width and metric."""
    out = {}
    for bits in widths(name, (1, 2, 4, 5)):
        for metric in ("ip", "cosine", "l2"):
            spec = IndexSpec(dim, bits, metric, seed=3, **{**PORTABLE, **LATER}[name])
            backend = make_backend(Codec(spec))
            whole = backend.encode(corpus(dim))
            segments = [split(spec, whole.select(at)) for at in (slice(0, 41), slice(41, None))]
            out[f"{bits} {metric}"] = digest(
                *top_k(backend, backend.prepare(queries(dim)), segments, K, confidence)[:2]
            )
    return out
