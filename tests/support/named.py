"""An index with string ids behind an interface of integers: 7 is the id "n7"."""

import re
from types import SimpleNamespace

import numpy as np

from vqindex import InvalidInputError, RangeResult, SearchResult, UnknownIdError, exclude


def name(number):
    return f"n{number}"


def number(id):
    return -1 if id is None else int(id[1:])


def numbers(ids):
    return np.array([number(id) for id in ids.ravel()], np.int64).reshape(ids.shape)


def named(ids):
    """Return integer ids, or a filter of them, as string ids."""
    if isinstance(ids, exclude):
        return exclude(named(ids.ids))
    if ids is None or np.asarray(ids).dtype == bool:
        return ids
    return [name(id) for id in np.asarray(ids).tolist()]


class Named:
    """Wraps a VQIndex or a DurableIndex. It forwards all other attributes."""

    def __init__(self, index):
        self.index = index
        self._ids = SimpleNamespace(next_id=None)

    def __getattr__(self, what):
        return getattr(self.index, what)

    def __vqindex__(self):
        """Return itself, where a test looks at the next id: an index of strings has none."""
        return self

    def __len__(self):
        return len(self.index)

    def __contains__(self, id):
        assert id not in self.index or not len(self.index), "an integer id in an index of string ids"
        return name(id) in self.index

    def __enter__(self):
        self.index.__enter__()
        return self

    def __exit__(self, *error):
        self.index.__exit__(*error)

    @property
    def ids(self):
        return numbers(self.index.ids) if len(self.index) else self.index.ids

    def add(self, vectors, ids=None):
        if ids is None and len(vectors) and not self.index.stats()["id_bytes"]:
            raise InvalidInputError("explicit ids: the index would number the vectors itself")
        self.index.add(vectors, ids=named(ids))

    def upsert(self, ids, vectors):
        self.index.upsert(named(ids), vectors)

    def remove(self, ids):
        return self.index.remove(named(ids))

    def merge(self, other):
        self.index.merge(other.index)

    def search(self, queries, k, filter=None, rerank=None, **options):
        if callable(rerank):
            source, rerank = rerank, lambda ids: source(numbers(ids))
        found = self.index.search(queries, k, filter=named(filter), rerank=rerank, **options)
        return SearchResult(found.scores, self._as_numbers(found.ids))

    def range_search(self, *args, **options):
        lims, scores, ids = self.index.range_search(*args, **options)
        return RangeResult(lims, scores, self._as_numbers(ids))

    def _as_numbers(self, ids):
        return numbers(ids) if ids.dtype == object else ids  # an index without vectors has no string ids

    def estimate(self, queries, ids):
        try:
            return self.index.estimate(queries, named(ids))
        except UnknownIdError as error:
            raise UnknownIdError(re.sub(r"'n([0-9]+)'", r"\1", str(error))) from None
