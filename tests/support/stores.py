"""What the tests of stores share: small stores and their contents."""

import numpy as np

from vqindex.directory.local import LocalDirectory
from vqindex.store.opening import _open

DIM = 6
QUERIES = np.random.default_rng(99).standard_normal((3, DIM)).astype(np.float32)


def vectors(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


def open_with(folder, mode="a", directory=None, **parameters):
    """Open or create a store, in `directory` if the test passes one."""
    return _open(directory or LocalDirectory(folder), mode, parameters, "auto", True, False)


def content(index, queries=QUERIES, **how):
    """Return everything that a user can see, in a form that can be compared."""
    scores, ids = index.search(queries, len(index) + 1, confidence=1, **how)
    return index.ids.tolist(), ids.tolist(), scores.tolist(), dict(index.meta)


def committed(folder, mode="r"):
    with open_with(folder, mode) as index:
        return content(index)


def make_store(folder, graph=None):
    """Create a store of three commits: segments with automatic and explicit ids, and with removed rows.

    With `graph` links a row it has more rows, which are linked.
    """
    parameters = {} if graph is None else {"graph": graph}
    with open_with(folder, dim=DIM, metric="l2", **parameters) as index:
        index.add(vectors(20))
        index.commit()
        index.add(vectors(20, 1))
        index.remove([1, 2, 30])
        index.commit(merge=False)
        index.upsert([5, 7], vectors(2, 7))
        index.meta["note"] = 1
        index.commit(merge=False)
        if graph is not None:
            index.add(vectors(1100, 3))
            index.commit(merge=False)
    return folder


def change(index):
    """Change a little of everything: the commit writes segments, bitmaps and a manifest, merges, and removes files."""
    index.add(vectors(5, 11))
    index.remove([0, 3, 21, 22])
    index.upsert([40, 6], vectors(2, 12))
    index.meta["note"] = 2
