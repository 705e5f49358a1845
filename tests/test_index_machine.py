"""A state machine: after any sequence of calls the index equals a plain list of vectors, saved and loaded or not."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from named import Named

from vqindex import InvalidInputError, UnknownIdError, VQIndex, exclude
from vqindex.backends.registry import available
from vqindex.search.rerank import exact_scores

DIM = 5
# Few distinct vectors, so that ties are common; zeros, huge and tiny ones among them.
POOL = np.random.default_rng(0).standard_normal((12, DIM)).astype(np.float32)
POOL[3], POOL[4], POOL[5] = 0, POOL[0] * np.float32(2.0**40), POOL[1] * np.float32(2.0**-40)
QUERIES = np.random.default_rng(1).standard_normal((3, DIM)).astype(np.float32)
CENTER = np.full(DIM, 0.25)
IDS = st.integers(0, 30)


PICKS = st.lists(st.tuples(IDS, st.integers(0, len(POOL) - 1)), max_size=4, unique_by=lambda pair: pair[0])


class IndexMachine(RuleBasedStateMachine):
    """The model: ids and pool numbers in row order, and the score of every pool vector from a second index."""

    named = False  # whether ids are strings

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
        keeps_vectors=st.booleans(),
        centered=st.booleans(),
        device=st.sampled_from(available()),
    )
    def start(self, metric, codec, bits, keeps_vectors, centered, device):
        parameters = {
            "codec": codec[0],
            "sketch": codec[1],
            "keep_vectors": "f32" if keeps_vectors else None,
            "center": CENTER if centered and metric != "ip" else None,
        }
        self.make = lambda: self.wrapped(VQIndex(DIM, bits, metric, device=device, **parameters))
        self.device, self.index = device, self.make()
        alone = self.make()
        alone.add(POOL, ids=np.arange(len(POOL)))
        self.pool_scores = alone.estimate(QUERIES, np.arange(len(POOL)))
        # These decide the order. With a center two of them may round to one score.
        self.pool_ranks = alone._backend.scores(
            alone._encoder.prepare(QUERIES), alone._rows.gather(np.arange(len(POOL)))
        )
        self.pool_ranks = self.pool_ranks * (1 if alone._codec.spec.metric == "l2" else -1)
        self.pool_exact = exact_scores(metric, QUERIES, np.broadcast_to(POOL, (len(QUERIES), *POOL.shape)))
        self.rows = []  # (id, pool number) of the rows that are not removed
        self.next_id = 0  # None once the user has passed an id that automatic numbering could reach

    def add_explicit(self, pairs):
        """Add rows with explicit ids to the model."""
        if self.next_id is None and not self.rows:
            self.next_id = 0
        if any(i >= self.next_id for i, _ in pairs) if self.next_id is not None else False:
            self.next_id = None
        self.rows += pairs

    def add_automatic(self, picks):
        """Add rows with automatic ids to the model."""
        if self.next_id is None and not self.rows:
            self.next_id = 0
        self.rows += [(self.next_id + i, v) for i, v in enumerate(picks)]
        self.next_id += len(picks)

    def wrapped(self, index):
        return Named(index) if self.named else index

    @property
    def automatic(self):
        return not self.named and (self.next_id is not None or not self.rows)

    def expected(self, query, k, is_selected=lambda row: True, exact=False):
        sign = 1 if self.index.spec.metric == "l2" else -1
        pool_ranks, pool_scores = (
            (sign * self.pool_exact, self.pool_exact) if exact else (self.pool_ranks, self.pool_scores)
        )
        ranked = sorted((float(pool_ranks[query, v]), row) for row, (_, v) in enumerate(self.rows) if is_selected(row))[
            :k
        ]
        missing = k - len(ranked)
        found = [self.rows[row] for _, row in ranked]
        scores = [pool_scores[query, v] for _, v in found] + [sign * np.inf] * missing
        return np.array(scores, np.float32), [i for i, _ in found] + [-1] * missing

    def check(self, result, k, **kwargs):
        for query in range(len(QUERIES)):
            scores, ids = self.expected(query, k, **kwargs)
            np.testing.assert_array_equal(result.scores[query], scores)
            assert result.ids[query].tolist() == ids

    @rule(picks=st.lists(st.integers(0, len(POOL) - 1), max_size=6))
    def add(self, picks):
        if not self.automatic and picks:
            with pytest.raises(InvalidInputError, match="explicit ids"):
                self.index.add(POOL[picks])
            return
        self.index.add(POOL[picks])
        if picks:
            self.add_automatic(picks)

    @rule(pairs=st.lists(st.tuples(IDS, st.integers(0, len(POOL) - 1)), max_size=4))
    def add_with_ids(self, pairs):
        ids, picks = [i for i, _ in pairs], [v for _, v in pairs]
        known = {i for i, _ in self.rows}
        if len(set(ids)) < len(ids) or known & set(ids):
            with pytest.raises(InvalidInputError, match=r"given twice|already in the index"):
                self.index.add(POOL[picks], ids=ids)
            return
        self.index.add(POOL[picks], ids=ids)
        if picks:
            self.add_explicit(pairs)

    @rule(pairs=PICKS)
    def upsert(self, pairs):
        self.index.upsert([i for i, _ in pairs], POOL[[v for _, v in pairs]])
        replaced = {i for i, _ in pairs}
        if pairs:
            old = self.rows
            self.add_explicit(pairs)
            self.rows = [pair for pair in old[: len(old) - len(pairs)] if pair[0] not in replaced] + pairs

    @rule(ids=st.lists(IDS, max_size=6))
    def remove(self, ids):
        known = {i for i, _ in self.rows}
        assert self.index.remove(ids) == len(known & set(ids))
        self.rows = [pair for pair in self.rows if pair[0] not in ids]

    @rule()
    def compact(self):
        self.index.compact()
        assert self.index.stats()["removed"] == 0

    @rule(pairs=PICKS, with_ids=st.booleans(), without=st.lists(IDS, max_size=3))
    def merge(self, pairs, with_ids, without):
        other = self.make()
        if pairs:
            other.add(POOL[[v for _, v in pairs]], ids=[i for i, _ in pairs] if with_ids or self.named else None)
        theirs = list(zip(other.ids.tolist(), [v for _, v in pairs], strict=True))
        other.remove(without)
        theirs = [pair for pair in theirs if pair[0] not in without]
        numbered = self.automatic and other._ids.next_id is not None
        if not numbered and {i for i, _ in theirs} & {i for i, _ in self.rows}:
            with pytest.raises(InvalidInputError, match="already in the index"):
                self.index.merge(other)
            return
        self.index.merge(other)
        if numbered and theirs:
            self.add_automatic([v for _, v in theirs])
        elif theirs:
            self.add_explicit(theirs)

    @rule(row=st.integers(0, 2), column=st.integers(0, DIM - 1))
    def add_not_finite(self, row, column):
        x = POOL[:3].copy()
        x[row, column] = np.nan
        with pytest.raises(InvalidInputError, match=rf"\[{row}, {column}\] is nan"):
            self.index.add(x, ids=None if self.automatic else [100, 101, 102])
        with pytest.raises(InvalidInputError, match=rf"\[{row}, {column}\] is nan"):
            self.index.upsert([1, 2, 100], x)

    @rule(mmap=st.booleans())
    def save_and_load(self, mmap):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.vqi"
            self.index.save(path)
            self.index = self.wrapped(VQIndex.load(path, mmap=mmap, device=self.device))
            self.index.save(path)

    @rule(k=st.integers(1, 40))
    def search(self, k):
        self.check(self.index.search(QUERIES, k), k)

    @rule(k=st.integers(1, 40), picks=st.sets(IDS), form=st.sampled_from(["mask", "ids", "exclude"]))
    def search_some(self, k, picks, form):
        def is_selected(row):
            return (self.rows[row][0] in picks) != (form == "exclude")

        if form == "mask":
            selection = np.array([is_selected(row) for row in range(len(self.rows))], bool)
        else:
            selection = exclude(list(picks)) if form == "exclude" else list(picks)
        self.check(self.index.search(QUERIES, k, filter=selection), k, is_selected=is_selected)

    @rule(k=st.integers(1, 40))
    def rerank(self, k):
        """A shortlist of all rows gives the results of exact search."""
        if self.index.keep_vectors is None:
            by_id = {i: POOL[v] for i, v in self.rows}
            source = lambda ids: np.array([by_id[i] for i in ids.tolist()], np.float32).reshape(-1, DIM)  # noqa: E731
        else:
            source = True
        self.check(self.index.search(QUERIES, k, rerank=source, oversample=1000), k, exact=True)

    @rule(pick=st.integers(0, len(POOL) - 1))
    def range_search(self, pick):
        thresholds = self.pool_scores[:, pick]
        lims, scores, ids = self.index.range_search(QUERIES, thresholds, confidence=1)
        for query, threshold in enumerate(thresholds):
            all_scores, all_ids = self.expected(query, len(self.rows))
            better = all_scores < threshold if self.index.spec.metric == "l2" else all_scores > threshold
            at = slice(lims[query], lims[query + 1])
            np.testing.assert_array_equal(scores[at], all_scores[better])
            assert ids[at].tolist() == [i for i, is_better in zip(all_ids, better, strict=True) if is_better]

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


class NamedIndexMachine(IndexMachine):
    """The same machine with string ids."""

    named = True


TestIndexMachine = IndexMachine.TestCase
TestNamedIndexMachine = NamedIndexMachine.TestCase
TestNamedIndexMachine.settings = settings(max_examples=30, stateful_step_count=20, deadline=None, derandomize=True)
# No deadline, because saving waits for the disk. Derandomized, so that all runs are alike.
TestIndexMachine.settings = settings(max_examples=50, stateful_step_count=20, deadline=None, derandomize=True)
