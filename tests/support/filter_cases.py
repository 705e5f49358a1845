"""Keys, values, metadata and filters for tests of `vqindex.documents`, with everything that databases stumble over."""

import json
import sqlite3
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from vqindex.documents.filters import (
    And,
    Between,
    Compare,
    Contains,
    Custom,
    Empty,
    Exists,
    Ids,
    In,
    Like,
    Not,
    Or,
    TextMatch,
    matches,
)

KEYS = (
    "a",
    "b",
    "",
    "a.b",
    "a b",
    'quo"te',
    "it's",
    "back\\slash",
    "nul\0",
    "\x1f",
    "é",
    "\ud800",
    "$a",
    "[0]",
    "0",
    "\U0001f600",
)
STRINGS = (
    "", "a", "A", "ab", "b", "a\0", "a\0b", "\0", "\x7f", "é", "É", "e\u0301", "\ud800", "\udfff", "\ue000", "\uffff",
    "\U0001f600", "1", "1.0", "true", "null", "NaN", "!", "!a", "%", "_", "\\", '"', "'", "2024-01-31",
    "2024-02-01T00:00:00",
)  # fmt: skip
NUMBERS = (
    0, 1, 2, -1, 0.0, -0.0, 1.0, 1.5, 0.1, 2**53, 2**53 + 1, 2.0**53, -(2**53) - 1, 2**63 - 1, 2**63, 2.0**63, -(2**63),
    -(2**63) - 1, 10**30, 10**30 + 1, 1e30, 10**400, -(10**400), 1e308, 5e-324, float("inf"),
    float("-inf"), float("nan"),
)  # fmt: skip

keys = st.sampled_from(KEYS) | st.text(st.characters(), max_size=3)
strings = st.sampled_from(STRINGS) | st.text(st.characters(), max_size=4)
scalars = st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.integers() | st.floats() | strings
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=2), max_leaves=5
)
metadata = st.dictionaries(keys, values, max_size=4)
paths = st.lists(st.sampled_from(KEYS), min_size=1, max_size=2).map(tuple)
sources = st.sampled_from(["metadata", "more"])
patterns = st.text(st.sampled_from("ab%_é.*\\\n\0"), max_size=6)

conditions = st.one_of(
    st.builds(Compare, paths, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), scalars, sources),
    st.builds(In, paths, st.lists(scalars, max_size=4).map(tuple), sources),
    st.builds(Exists, paths, sources),
    st.builds(Empty, paths, sources),
    st.builds(Between, paths, scalars, scalars, sources),
    st.builds(Contains, paths, scalars, st.booleans(), sources),
    st.builds(Like, paths, patterns, st.booleans(), sources),
    st.builds(TextMatch, st.sampled_from(["", "red", "Red fox", "fox, red!", "blue"])),
    st.builds(Ids, st.lists(st.sampled_from(["0", "1", "2", "\ud800", "none"]), max_size=3).map(tuple)),
    st.sampled_from([Custom(lambda document: len(document.metadata) > 1), Custom(lambda document: document.id < "3")]),
)
filters = st.recursive(
    conditions,
    lambda inner: st.one_of(
        st.builds(And, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Not, inner),
    ),
    max_leaves=6,
)
texts = st.none() | st.sampled_from(["", "The red fox", "a RED, red fox!", "blue"])


@dataclass
class Item:
    """A document of these tests."""

    id: str
    text: str | None = None
    metadata: dict = field(default_factory=dict)
    more: dict = field(default_factory=dict)


items = st.builds(Item, st.sampled_from(["0", "1", "2", "3", "\ud800"]), texts, metadata, metadata)


class Library:
    """A table ``docs`` and the same documents in Python, which are the `Lookups` of columns too."""

    def __init__(self):
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.execute(
            "CREATE TABLE docs (row INTEGER PRIMARY KEY AUTOINCREMENT, namespace INTEGER NOT NULL, "
            "metadata TEXT NOT NULL, more TEXT NOT NULL)"
        )
        self.db.execute("CREATE INDEX docs_namespace ON docs (namespace)")
        self.items = {}  # by namespace and row

    def insert(self, item, namespace=0, row=None):
        values = (row, namespace, json.dumps(item.metadata), json.dumps(item.more))
        row = self.db.execute("INSERT INTO docs VALUES (?, ?, ?, ?)", values).lastrowid
        self.items[namespace, row] = item
        return row

    def update(self, row, item, namespace=0):
        values = (json.dumps(item.metadata), json.dumps(item.more), row)
        self.db.execute("UPDATE docs SET metadata = ?, more = ? WHERE row = ?", values)
        self.items[namespace, row] = item

    def delete(self, row, namespace=0):
        self.db.execute("DELETE FROM docs WHERE row = ?", (row,))
        del self.items[namespace, row]

    def rows(self, namespace=0, test=lambda item: True):
        """Return the rows, ascending, whose documents pass a test."""
        found = sorted(row for (of, row), item in self.items.items() if of == namespace and test(item))
        return np.array(found, np.int64)

    def matching(self, filter, namespace=0):
        """Return the rows that satisfy a filter by its definition."""
        return self.rows(namespace, lambda item: matches(filter, item)).tolist()

    def rows_of_ids(self, namespace, ids):
        return self.rows(namespace, lambda item: item.id in ids)

    def rows_of_text(self, namespace, words):
        return self.rows(namespace, lambda item: matches(TextMatch(" ".join(words)), item))

    def documents(self, namespace, rows):
        return [self.items[namespace, row] for row in rows.tolist()]
