"""Graphs whose links and walks must have the same hashes on every backend and machine (tests/golden/graph.json)."""

import hashlib

import numpy as np

import vqindex

CODES = {
    "prod-4-cosine": {"bits": 4, "metric": "cosine"},
    "trellis-2-l2": {"bits": 2, "metric": "l2", "codec": "trellis"},
    "mse-6-ip": {"bits": 6, "metric": "ip", "codec": "turboquant-mse"},
}
DIM, ROWS, LINKS = 17, 2 * 512 + 30, 12


def vectors(rows, offset):
    """Return vectors of small integers, which any machine computes alike."""
    numbers = np.arange(offset, offset + rows * DIM, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(2**32)
    return ((numbers >> np.uint64(20)).astype(np.int64) - 2048).reshape(rows, DIM).astype(np.float32) / 16


def hashes(code, device="auto"):
    """Return the hashes of an index's links, of them after a repair, and of what walks find."""
    index = vqindex.VQIndex(DIM, **code, device=device)
    rows = vectors(ROWS, 1)
    if code["metric"] == "ip":  # norms that differ
        rows = rows / 2.0 ** (np.arange(ROWS) % 3)[:, None].astype(np.float32)
    index.add(rows)
    index.build_graph(LINKS)
    found = index.search(vectors(20, 10**6), 7, effort=25, explain=True)
    links = index._contents.graph.rows()
    index.remove(np.arange(0, ROWS, 3))
    index.compact()
    walks = [found.ids.astype("<i8"), found.scores.astype("<f4"), found.explanation.scored.astype("<i8")]
    return {
        "links": _hash(links.astype("<u4")),
        "repaired": _hash(index._contents.graph.rows().astype("<u4")),
        "walks": _hash(*walks),
    }


def _hash(*arrays):
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
