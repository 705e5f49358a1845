"""A state machine: any sequence of calls leaves the index equal to a plain dict of vectors, saved and loaded or not."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vqindex import InvalidInputError, UnknownIdError, VQIndex

DIM = 5
# Few distinct vectors, so that ties are common; zeros, huge and tiny ones among them.
POOL = np.random.default_rng(0).standard_normal((12, DIM)).astype(np.float32)
POOL[3], POOL[4], POOL[5] = 0, POOL[0] * np.float32(2.0**40), POOL[1] * np.float32(2.0**-40)
QUERIES = np.random.default_rng(1).standard_normal((3, DIM)).astype(np.float32)
IDS = st.integers(0, 30)


class IndexMachine(RuleBasedStateMachine):
    """The model: ids and pool numbers in row order, and the score of every pool vector from an index of its own."""

    @initialize(
        metric=st.sampled_from(["ip", "cosine", "l2"]),
        codec=st.sampled_from(
            [
                ("turboquant-prod", "shared"),
                ("turboquant-prod", "orthogonal"),
                ("turboquant-mse", None),
                ("trellis", None),
            ]
        ),
        bits=st.integers(1, 4),
    )
    def start(self, metric, codec, bits):
        self.make = lambda: VQIndex(DIM, bits, metric, codec=codec[0], sketch=codec[1])
        self.index = self.make()
        alone = self.make()
        alone.add(POOL)
        self.pool_scores = alone.estimate(QUERIES, np.arange(len(POOL)))
        self.rows = []  # (id, pool number)
        self.explicit = False

    def expected(self, query, k):
        sign = 1 if self.index.spec.metric == "l2" else -1
        scored = sorted((sign * float(self.pool_scores[query, v]), row) for row, (_, v) in enumerate(self.rows))[:k]
        missing = k - len(scored)
        scores = [sign * key for key, _ in scored] + [sign * np.inf] * missing
        return np.array(scores, np.float32), [self.rows[row][0] for _, row in scored] + [-1] * missing

    @rule(picks=st.lists(st.integers(0, len(POOL) - 1), max_size=6))
    def add(self, picks):
        if self.explicit and self.rows and picks:
            with pytest.raises(InvalidInputError, match="explicit ids"):
                self.index.add(POOL[picks])
            return
        self.index.add(POOL[picks])
        start = len(self.rows)
        self.rows += [(start + i, v) for i, v in enumerate(picks)]

    @rule(given_ids=st.lists(st.tuples(IDS, st.integers(0, len(POOL) - 1)), max_size=4))
    def add_with_ids(self, given_ids):
        ids, picks = [i for i, _ in given_ids], [v for _, v in given_ids]
        known = {i for i, _ in self.rows}
        if len(set(ids)) < len(ids) or known & set(ids):
            with pytest.raises(InvalidInputError, match=r"given twice|already in the index"):
                self.index.add(POOL[picks], ids=ids)
            return
        self.index.add(POOL[picks], ids=ids)
        if picks:
            self.explicit = True
            self.rows += given_ids

    @rule(row=st.integers(0, 2), column=st.integers(0, DIM - 1))
    def add_not_finite(self, row, column):
        x = POOL[:3].copy()
        x[row, column] = np.nan
        ids = [100, 101, 102] if self.explicit else None
        with pytest.raises(InvalidInputError, match=rf"\[{row}, {column}\] is nan"):
            self.index.add(x, ids=ids)

    @rule(mmap=st.booleans())
    def save_and_load(self, mmap):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.vqi"
            self.index.save(path)
            self.index = VQIndex.load(path, mmap=mmap)
            self.index.save(path)

    @rule(k=st.integers(1, 40))
    def search(self, k):
        scores, ids = self.index.search(QUERIES, k)
        for query in range(len(QUERIES)):
            expected_scores, expected_ids = self.expected(query, k)
            np.testing.assert_array_equal(scores[query], expected_scores)
            assert ids[query].tolist() == expected_ids

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def estimate(self, data):
        rows = data.draw(st.lists(st.sampled_from(range(len(self.rows))), max_size=5))
        found = self.index.estimate(QUERIES, [self.rows[row][0] for row in rows])
        np.testing.assert_array_equal(found, self.pool_scores[:, [self.rows[row][1] for row in rows]])

    @rule(id=IDS)
    def contains(self, id):
        known = id in {i for i, _ in self.rows}
        assert (id in self.index) == known
        if not known:
            with pytest.raises(UnknownIdError, match=f"id {id} is not"):
                self.index.estimate(QUERIES, [id])

    @invariant()
    def ids_in_row_order(self):
        if hasattr(self, "index"):
            assert len(self.index) == self.index.ntotal == len(self.rows)
            assert self.index.ids.tolist() == [i for i, _ in self.rows]


TestIndexMachine = IndexMachine.TestCase
# No deadline: saving waits for the disk. Derandomised, so that a run says the same everywhere.
TestIndexMachine.settings = settings(max_examples=40, stateful_step_count=20, deadline=None, derandomize=True)
