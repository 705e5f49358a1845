"""A state machine: any sequence of changes, commits, rollbacks and reopenings leaves documents equal to a dict.

Two objects that write and one that reads have one folder open. The model is {(namespace, id): (text, y, vector or
None)}, in the order of first writing, now and at the last commit.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vqindex import InvalidInputError, StoreBusyError, documents

DIM = 4
POOL = np.random.default_rng(0).standard_normal((40, DIM)).astype(np.float32)
WORDS = ["red", "green", "blue"]
NAMES = st.integers(0, 15).map(str)
NAMESPACES = st.sampled_from(["", "other"])
ROWS = st.dictionaries(NAMES, st.tuples(st.sampled_from(WORDS), st.integers(0, 5), st.integers(-1, 39)), max_size=12)


class DocumentsMachine(RuleBasedStateMachine):
    """See above. `now` is what the writer with the lock sees, `last` what all others see."""

    @initialize(pending=st.sampled_from([1, 5, 512]), autocommit=st.booleans())
    def start(self, pending, autocommit):
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("vqindex.documents.vectors.MAX_PENDING", pending)
        self.patch.setattr("os.fsync", lambda descriptor: None)
        self.autocommit, self.folder = autocommit, Path(tempfile.mkdtemp()) / "store"
        self.writers = [self.opened(), self.opened()]
        self.now, self.last, self.owner = {}, {}, None  # the owner has begun to write
        self.reader, self.seen = documents.open(self.folder, "r"), {}

    def opened(self):
        how = {"keep_vectors": "f32", "metric": "l2", "dim": DIM}
        return documents.open(self.folder, autocommit=self.autocommit, timeout=0, **how)

    def teardown(self):
        if hasattr(self, "writers"):
            if self.owner is not None:
                self.writers[self.owner].rollback()
            for store in (*self.writers, self.reader):
                store.close()
            self.patch.undo()
            shutil.rmtree(self.folder.parent)

    def change(self, which, call, model):
        """Call something with a writer; the model follows, or the writer is refused."""
        if self.owner not in (None, which):
            with pytest.raises(StoreBusyError):
                call(self.writers[which])
            return
        call(self.writers[which])
        self.now = model(dict(self.now))
        if self.autocommit:
            self.last = dict(self.now)
        else:
            self.owner = which

    @rule(which=st.integers(0, 1), rows=ROWS, namespace=NAMESPACES)
    def upsert(self, which, rows, namespace):
        if not rows:
            return
        texts, ys, picks = zip(*rows.values(), strict=True)
        arguments = {
            "vectors": [None if pick < 0 else POOL[pick] for pick in picks],
            "metadata": [{"y": y} for y in ys],
            "ids": list(rows),
            "namespace": namespace,
        }
        new = {(namespace, name): row for name, row in rows.items()}
        self.change(which, lambda store: store.upsert(texts, **arguments), lambda model: {**model, **new})

    @rule(which=st.integers(0, 1), name=NAMES, namespace=NAMESPACES)
    def add(self, which, name, namespace):
        def call(store):
            if (namespace, name) in self.now:
                with pytest.raises(InvalidInputError, match="is there already"):
                    store.add(["red"], POOL[:1], ids=[name], namespace=namespace)
            else:
                store.add(["red"], POOL[:1], ids=[name], namespace=namespace, metadata=[{"y": 0}])

        self.change(
            which, call, lambda model: {**model, (namespace, name): model.get((namespace, name), ("red", 0, 0))}
        )

    @rule(which=st.integers(0, 1), names=st.lists(NAMES, max_size=8), namespace=NAMESPACES)
    def delete(self, which, names, namespace):
        gone = {(namespace, name) for name in names}
        self.change(
            which,
            lambda store: store.delete(names, namespace=namespace),
            lambda model: {key: row for key, row in model.items() if key not in gone},
        )

    @rule(which=st.integers(0, 1), least=st.integers(0, 5), namespace=NAMESPACES)
    def delete_where(self, which, least, namespace):
        self.change(
            which,
            lambda store: store.delete(where={"y": {"$gte": least}}, namespace=namespace),
            lambda model: {key: row for key, row in model.items() if key[0] != namespace or row[1] < least},
        )

    @rule(which=st.integers(0, 1), name=NAMES, y=st.integers(0, 5))
    def update_metadata(self, which, name, y):
        def model(now):
            if ("", name) in now:
                text, _, pick = now["", name]
                now["", name] = (text, y, pick)
            return now

        self.change(which, lambda store: store.update_metadata({name: {"y": y}}), model)

    @rule(which=st.integers(0, 1))
    def drop_namespace(self, which):
        self.change(
            which,
            lambda store: store.drop_namespace("other"),
            lambda model: {key: row for key, row in model.items() if key[0] != "other"},
        )

    @rule(which=st.integers(0, 1))
    def clear(self, which):
        self.change(which, lambda store: store.clear(), lambda model: {})

    @precondition(lambda self: self.owner is not None)
    @rule()
    def commit(self):
        self.writers[self.owner].commit()
        self.last, self.owner = dict(self.now), None

    @precondition(lambda self: self.owner is not None)
    @rule()
    def rollback(self):
        self.writers[self.owner].rollback()
        self.now, self.owner = dict(self.last), None

    @rule(which=st.integers(0, 1))
    def reopen(self, which):
        if self.owner != which:
            self.writers[which].close()
            self.writers[which] = self.opened()

    @rule()
    def refresh(self):
        self.reader.refresh()
        self.seen = dict(self.last)

    @rule()
    def reopen_reader(self):
        self.reader.close()
        self.reader, self.seen = documents.open(self.folder, "r"), dict(self.last)

    @invariant()
    def all_show_what_the_model_says(self):
        if not hasattr(self, "writers"):
            return
        for which, store in enumerate(self.writers):
            self.check(store, self.now if self.owner == which else self.last)
        self.check(self.reader, self.seen)

    def check(self, store, model):
        assert len(store) == len(model)
        for namespace in ("", "other"):
            rows = {name: row for (space, name), row in model.items() if space == namespace}
            found = store.list(namespace=namespace, vectors=True)
            assert [each.id for each in found] == list(rows)
            for each in found:
                text, y, pick = rows[each.id]
                assert (each.text, each.metadata) == (text, {"y": y})
                assert each.vector is None if pick < 0 else np.array_equal(each.vector, POOL[pick])
            embedded = {name for name, row in rows.items() if row[2] >= 0}
            hits = store.search(POOL[0], 50, namespace=namespace, rerank=True)
            assert {hit.id for hit in hits} == embedded
            exact = sorted(float(((POOL[rows[name][2]] - POOL[0]) ** 2).sum()) for name in embedded)
            np.testing.assert_allclose([hit.score for hit in hits], exact, rtol=1e-4, atol=1e-5)  # float32 sums
            some = {name for name in embedded if rows[name][1] > 2}
            where = {"y": {"$gt": 2}}
            assert {hit.id for hit in store.search(POOL[1], 50, where=where, namespace=namespace)} == some
            red = {name for name, row in rows.items() if row[0] == "red"}
            assert {hit.id for hit in store.search(text="red", k=50, namespace=namespace)} == red


TestDocumentsMachine = DocumentsMachine.TestCase
TestDocumentsMachine.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
