"""What an index must hold and answer: states, the vectors of their rows, and the comparison of an index with one."""

import hashlib
from dataclasses import dataclass

import numpy as np

from vqindex import VQIndex

__all__ = ["DIM", "Loss", "Setup", "State", "check_index", "holds"]

DIM = 32
_QUERIES, _K = 6, 5
_OFFSET = 3.0  # of all coordinates in indexes with a center; vectors have norm 1 around it


class Loss(Exception):  # noqa: N818 - it is what the soak looks for
    """Something was lost, mixed or made up, or a call failed in a way it must not."""


@dataclass(frozen=True)
class State:
    """Contents with a number.

    Attributes
    ----------
    number : int
        Unique in a round; the index keeps it in its notes (`meta`). The empty index that a round begins with has 0.
    rows : tuple of (id, version)
        In the order of `VQIndex.ids`. The version is the number of the change that wrote the row.
    next_id : int
        The next automatic id.
    """

    number: int = 0
    rows: tuple = ()
    next_id: int = 0

    def as_json(self):
        return {"number": self.number, "rows": self.rows, "next_id": self.next_id}

    @classmethod
    def from_json(cls, content):
        return cls(content["number"], tuple((id, version) for id, version in content["rows"]), content["next_id"])


@dataclass(frozen=True)
class Setup:
    """The kind of index of a round. `ids` is "numbers", "automatic" or "strings"."""

    codec: str = "turboquant-prod"
    bits: int = 4
    metric: str = "l2"
    ids: str = "numbers"
    keep_vectors: str | None = None
    center: str | None = None
    graph: int | None = None

    @classmethod
    def draw(cls, random):
        """Draw one."""
        codec, bits = random.choice([("turboquant-prod", 4), ("turboquant-mse", 3), ("trellis", 3)])
        metric = random.choice(["ip", "cosine", "l2"])
        return cls(
            codec,
            bits,
            metric,
            random.choice(["numbers", "automatic", "strings"]),
            random.choice([None, None, "f32", "f16", "int8"]),
            None if metric == "ip" else random.choice([None, "mean"]),
            random.choice([None, None, 8]),
        )

    @property
    def most_rows(self):
        """Most rows that a change adds; with a graph so many that they are linked after some changes."""
        return 40 if self.graph is None else 800

    @property
    def parameters(self):
        """Parameters of `VQIndex` and `vqindex.open`."""
        names = ("codec", "bits", "metric", "keep_vectors", "center", "graph")
        return {"dim": DIM, **{name: getattr(self, name) for name in names}}

    def id_of(self, number):
        """Return an id of the index's kind."""
        return f"item {number}" if self.ids == "strings" else number

    def vectors(self, rows):
        """Return the vector of each (id, version)."""
        digests = b"".join(hashlib.blake2b(f"{id}/{version}".encode(), digest_size=8).digest() for id, version in rows)
        with np.errstate(over="ignore"):
            mixed = np.frombuffer(digests, "<u8")[:, None] + np.arange(1, DIM + 1, dtype=np.uint64) * np.uint64(
                0x9E3779B97F4A7C15
            )
            for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # SplitMix64
                mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        values = (mixed >> np.uint64(40)).astype(np.float32) / 2**23 - 1
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        return values + np.float32(_OFFSET if self.center else 0)

    def reference(self, rows, center):
        """Return a new index of these rows, which has never seen a file and has no graph."""
        index = VQIndex(**{**self.parameters, "center": center, "graph": None})
        index.add(self.vectors(rows), [id for id, _ in rows])
        return index


def _differences(found, wanted):
    missing, surplus = [id for id in wanted if id not in set(found)], [id for id in found if id not in set(wanted)]
    if not missing and not surplus:
        return "the order of ids differs" if len(found) == len(wanted) else "an id is there twice"
    return f"{len(missing)} missing ids {missing[:5]}, {len(surplus)} ids too many {surplus[:5]}"


def _same(found, wanted):
    return all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def check_index(index, state, setup, random, queries=_QUERIES):
    """Raise Loss unless an index holds exactly the rows of a state, and answers as an index of those rows does.

    Queries are vectors of rows: each must find its own id, with scores equal bit for bit to those of a new index.
    """
    ids = index.ids.tolist()
    wanted = [id for id, _ in state.rows]
    if ids != wanted or len(index) != len(wanted):
        raise Loss(f"state {state.number}: {len(index)} vectors; expected {len(wanted)}; {_differences(ids, wanted)}")
    if not wanted:
        return
    rows = random.sample(state.rows, min(queries, len(state.rows)))
    vectors = setup.vectors(rows)
    reference = setup.reference(state.rows, index.center)
    rerank = {"rerank": True} if setup.keep_vectors else {}
    ways = [({}, {}), ({"confidence": 1}, {"confidence": 1}), *([(rerank, rerank)] if rerank else [])]
    if setup.graph is not None:
        # A walk that keeps all rows finds what a scan of all rows finds, if it can reach them.
        ways = [({"exact": True, **way}, expected) for way, expected in ways]
        ways.append(({"effort": len(wanted), "confidence": 1}, {"confidence": 1}))
    for way, how in ways:
        found, expected = index.search(vectors, _K, threads=1, **way), reference.search(vectors, _K, threads=1, **how)
        if not _same(found, expected):
            wrong = [row for row, a, b in zip(rows, found.scores, expected.scores, strict=True) if (a != b).any()]
            raise Loss(f"state {state.number}: search({way}) answers otherwise than a new index, for {wrong[:5]}")
        if found.ids[:, 0].tolist() != [id for id, _ in rows]:
            raise Loss(f"state {state.number}: search({way}) for {rows} found {found.ids[:, 0].tolist()} first")


def holds(index, state, setup, random):
    """Return whether an index holds exactly a state, by queries for all its rows."""
    try:
        check_index(index, state, setup, random, len(state.rows))
    except Loss:
        return False
    return True
