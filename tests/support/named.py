"""An index whose ids are strings, for tests that think in numbers: number 7 is the id "n7"."""

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
    """Ids, or what a filter may be, with names for numbers."""
    if isinstance(ids, exclude):
        return exclude(named(ids.ids))
    if ids is None or np.asarray(ids).dtype == bool:
        return ids
    return [name(id) for id in np.asarray(ids).tolist()]


class Named:
    """Stands before a VQIndex or a DurableIndex; whatever is not here is theirs."""

    def __init__(self, index):
        self.index = index
        self._ids = SimpleNamespace(next_id=None)

    def __getattr__(self, what):
        return getattr(self.index, what)

    def __len__(self):
        return len(self.index)

    def __contains__(self, id):
        assert id not in self.index or not len(self.index), "a number where ids are names"
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
            raise InvalidInputError("explicit ids: the index itself would number vectors from now on")
        self.index.add(vectors, ids=named(ids))

    def upsert(self, ids, vectors):
        self.index.upsert(named(ids), vectors)

    def remove(self, ids):
        return self.index.remove(named(ids))

    def merge(self, other):
        self.index.merge(other.index)

    def search(self, queries, k, filter=None, rerank=None, **how):
        if callable(rerank):
            given, rerank = rerank, lambda ids: given(numbers(ids))
        found = self.index.search(queries, k, filter=named(filter), rerank=rerank, **how)
        return SearchResult(found.scores, self._shown(found.ids))

    def range_search(self, *args, **how):
        lims, scores, ids = self.index.range_search(*args, **how)
        return RangeResult(lims, scores, self._shown(ids))

    def _shown(self, ids):
        return numbers(ids) if ids.dtype == object else ids  # an index without vectors has no names

    def estimate(self, queries, ids):
        try:
            return self.index.estimate(queries, named(ids))
        except UnknownIdError as error:
            raise UnknownIdError(re.sub(r"'n([0-9]+)'", r"\1", str(error))) from None
