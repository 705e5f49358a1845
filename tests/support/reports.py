"""Vectors, indexes and processes for the tests of public reports."""

import os
import signal
import subprocess
import sys

import numpy as np

from vqindex import VQIndex

DIM = 16


def rows(n=60, seed=0, dim=DIM):
    """Return Gaussian float32 rows. Each is the nearest to itself, by far."""
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def index_of(vectors, ids=None, metric="l2", **settings):
    """Return an index of vectors."""
    index = VQIndex(vectors.shape[1], metric=metric, **settings)
    index.add(vectors, ids)
    return index


def same(got, want):
    """Assert that two results are equal, bit for bit."""
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)


def nearest(index, queries):
    """Return the id of the nearest vector of each query."""
    return index.search(queries, 1).ids[:, 0].tolist()


def run(code, *args, **environment):
    """Run Python code in a new process; return what it printed. It fails with what it wrote to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def in_fork(work):
    """Call work() in a forked child; return its exit status: 0 if it returned true, -SIGALRM if it hung."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(5)
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
