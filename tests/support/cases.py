"""What tests over all codecs and metrics share."""

import numpy as np
import pytest

from vqindex import VQIndex

# Every (codec, sketch) pair that a user can choose. None is the only sketch of a codec.
CODECS = (
    ("turboquant-prod", "shared"),
    ("turboquant-prod", "orthogonal"),
    ("turboquant-prod", "gaussian"),
    ("turboquant-mse", None),
    ("qjl", None),
    ("trellis", None),
)
METRICS = ("ip", "cosine", "l2")
DIM = 24

every_codec = pytest.mark.parametrize(("codec", "sketch"), CODECS)
every_metric = pytest.mark.parametrize("metric", METRICS)


def vectors(n, dim=DIM, seed=0):
    """Return float32 Gaussian rows."""
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def built(x, metric="ip", codec="turboquant-prod", sketch=None, ids=None, **kwargs):
    """Return an index of the rows."""
    index = VQIndex(x.shape[1], metric=metric, codec=codec, sketch=sketch, **kwargs)
    index.add(x, ids=ids)
    return index
