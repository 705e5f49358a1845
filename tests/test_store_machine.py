"""A state machine: any sequence of changes, commits and reopenings leaves a store equal to a dict of vectors."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from named import Named

import vqindex
from vqindex import VQIndex
from vqindex.store import commit, durable, verify_store

DIM = 5
# Few distinct vectors, so that ties are common; zeros, huge and tiny ones among them.
POOL = np.random.default_rng(0).standard_normal((12, DIM)).astype(np.float32)
POOL[3], POOL[4], POOL[5] = 0, POOL[0] * np.float32(2.0**10), POOL[1] * np.float32(2.0**-10)
QUERIES = np.random.default_rng(1).standard_normal((2, DIM)).astype(np.float32)
PICKS = st.lists(st.integers(0, len(POOL) - 1), max_size=70)
IDS = st.lists(st.integers(0, 150), max_size=30, unique=True)


class StoreMachine(RuleBasedStateMachine):
    """The model: {id: number in the pool} in the order in which vectors were added, now and at the last commit.

    Scores come from the reference backend; the store searches with the native one.
    """

    named = False  # whether every vector is given a name

    def opened(self, *args, **how):
        index = vqindex.open(self.folder, *args, **how)
        return Named(index) if self.named else index

    @initialize(
        metric=st.sampled_from(["ip", "cosine", "l2"]),
        codec=st.sampled_from(["turboquant-prod", "trellis"]),
        bits=st.integers(1, 4),
        keep=st.sampled_from([None, "f32", "int8"]),
    )
    def start(self, metric, codec, bits, keep):
        self.folder = Path(tempfile.mkdtemp()) / "store"
        self.index = self.opened(
            "a", dim=DIM, metric=metric, codec=codec, bits=bits, keep_vectors=keep, device="native"
        )
        oracle = VQIndex(DIM, bits, metric, codec=codec, device="reference")
        oracle.add(POOL)
        self.scores = oracle.estimate(QUERIES, np.arange(len(POOL)))
        self.sign = 1 if metric == "l2" else -1
        self.keep = keep
        self.now, self.last, self.next_id = {}, {}, None if self.named else 0
        self.reader, self.reader_model = None, None

    def teardown(self):
        if hasattr(self, "index"):
            self.index.close()
            shutil.rmtree(self.folder.parent)

    def expected(self, model, query, k):
        best = sorted((self.sign * float(self.scores[query, v]), row, i) for row, (i, v) in enumerate(model.items()))[
            :k
        ]
        missing = k - len(best)
        return [s for s, _, _ in best] + [np.inf] * missing, [i for _, _, i in best] + [-1] * missing

    def check(self, index, model, k=7, **how):
        scores, ids = index.search(QUERIES, k, confidence=1, **how)
        for query in range(len(QUERIES)):
            best, named = self.expected(model, query, k)
            np.testing.assert_array_equal(scores[query] * self.sign, np.float32(best))
            assert ids[query].tolist() == named

    @rule(picks=PICKS)
    def add(self, picks):
        if self.next_id is None:
            ids = [i for i in range(1000, 1000 + len(picks)) if i not in self.now][: len(picks)]
            picks = picks[: len(ids)]
            self.index.add(POOL[picks], ids)
        else:
            ids = range(self.next_id, self.next_id + len(picks))
            self.index.add(POOL[picks])
            self.next_id += len(picks)
        self.now.update(zip(ids, picks, strict=True))

    @rule(ids=IDS, pick=st.integers(0, len(POOL) - 1))
    def upsert(self, ids, pick):
        picks = [(pick + i) % len(POOL) for i in range(len(ids))]
        self.index.upsert(ids, POOL[picks])
        for i, v in zip(ids, picks, strict=True):
            self.now.pop(i, None)
            self.now[i] = v
        self.next_id = self.index.__vqindex__()._ids.next_id  # what upsert makes of it is tested with VQIndex

    @rule(ids=IDS)
    def remove(self, ids):
        assert self.index.remove(ids) == len([self.now.pop(i) for i in ids if i in self.now])
        self.next_id = self.index.__vqindex__()._ids.next_id

    @rule(first=st.integers(0, 150), count=st.integers(1, 60))
    def remove_many(self, first, count):
        self.remove(list(range(first, first + count)))

    @rule(merge=st.booleans())
    def commit(self, merge):
        self.index.commit(merge=merge)
        self.last = dict(self.now)
        self.check(self.opened(), self.last)

    @rule()
    def compact(self):
        self.index.compact()
        self.last = dict(self.now)
        assert self.index.stats()["removed"] == 0
        verify_store(self.folder)

    @rule(mmap=st.booleans(), by=st.sampled_from(["commit", "close", "exit"]))
    def reopen(self, mmap, by):
        if by == "commit":
            self.index.commit()
        if by == "exit":
            with self.index:
                pass
        self.index.close()
        if by == "close":
            self.now = dict(self.last)
        self.last = dict(self.now)
        self.index = self.opened("a", mmap=mmap, device="native")
        self.next_id = self.index.__vqindex__()._ids.next_id
        verify_store(self.folder)

    @rule()
    def read(self):
        self.reader, self.reader_model = self.opened(), dict(self.last)

    @rule(k=st.integers(1, 90))
    def search(self, k):
        self.check(self.index, self.now, k)

    @rule(allowed=IDS)
    def search_some(self, allowed):
        self.check(self.index, {i: v for i, v in self.now.items() if i in allowed}, filter=np.array(allowed, np.int64))
        mask = np.array([i in allowed for i in self.now], bool)
        self.check(self.index, {i: v for i, v in self.now.items() if i in allowed}, filter=mask)

    @rule(ids=IDS)
    def estimate(self, ids):
        there = [i for i in ids if i in self.now]
        found = self.index.estimate(QUERIES, there)
        np.testing.assert_array_equal(found, self.scores[:, [self.now[i] for i in there]])
        if self.keep == "f32" and there and self.index.spec.metric == "ip":
            exact = self.index.search(QUERIES, 3, rerank=True, oversample=1000)
            best = np.sort(QUERIES @ POOL[list(self.now.values())].T, axis=1)[:, ::-1][:, :3]
            np.testing.assert_allclose(exact.scores[:, : best.shape[1]], best, rtol=1e-5)  # float32 sums of 5 terms

    @invariant()
    def the_same_ids(self):
        if hasattr(self, "index"):
            assert len(self.index) == len(self.now)
            assert self.index.ids.tolist() == list(self.now)

    @invariant()
    def a_reader_sees_what_it_saw(self):
        if getattr(self, "reader", None) is not None:
            self.check(self.reader, self.reader_model)


class NamedStoreMachine(StoreMachine):
    """The same with ids that are strings."""

    named = True


class SmallStoreMachine(StoreMachine):
    """The same, with segments and memory that are full at once."""

    def __init__(self):
        super().__init__()
        self.limits = durable.REMAP_ROWS, commit.MERGE_BYTES
        durable.REMAP_ROWS, commit.MERGE_BYTES = 50, 800

    def teardown(self):
        durable.REMAP_ROWS, commit.MERGE_BYTES = self.limits
        super().teardown()


TestStoreMachine = StoreMachine.TestCase
TestSmallStoreMachine = SmallStoreMachine.TestCase
TestNamedStoreMachine = NamedStoreMachine.TestCase
# No deadline: commits wait for the disk. Derandomized, so that a run says the same everywhere.
TestStoreMachine.settings = settings(max_examples=40, stateful_step_count=20, deadline=None, derandomize=True)
TestSmallStoreMachine.settings = TestStoreMachine.settings
TestNamedStoreMachine.settings = settings(TestStoreMachine.settings, max_examples=20)
