"""Repeating the changes of a writer on top of a commit that another writer published first.

The changes are those since the writer's last commit: rows that were added, ids that were removed, notes, and whether
there is a graph. They are applied again to the newer commit by the methods that users call. So all their checks hold.

* Added vectors are added again, without encoding them. Automatic ids continue from those of the newer commit.
* A removed id must still have the vector that it had. Otherwise the other writer removed or replaced it, too.
* Ids that a caller gave must be new there, too.
* Notes are merged key by key.

What both writers changed in different ways is a conflict: `StoreConflictError`, and nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError, StoreConflictError
from ..index import IndexState, VQIndex
from ..rows.bitmap import bits_of
from ..rows.contents import Contents
from ..rows.ids import IdMap
from .manifest import Manifest

__all__ = ["merged_notes", "replay"]

I64 = NDArray[np.int64]
_MISSING = object()


def merged_notes(
    where: str, ours: Mapping[str, Any], base: Mapping[str, Any], theirs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the notes of the newer commit with our changes of those of our last commit."""
    merged = dict(theirs)
    for key in {**ours, **base}:
        our, old, their = (notes.get(key, _MISSING) for notes in (ours, base, theirs))
        if our == old:
            continue
        if their not in (old, our):
            raise StoreConflictError(
                f"{where}: another writer changed the note {key!r} in another way; nothing was published"
            )
        if our is _MISSING:
            merged.pop(key, None)
        else:
            merged[key] = our
    return merged


def replay(where: str, ours: IndexState, base: Manifest, known: IdMap, theirs: VQIndex, newer: Manifest) -> None:
    """Apply the changes that led from our last commit to our state to the index of a newer commit.

    Parameters
    ----------
    where : str
        The store, for errors.
    ours : IndexState
        Our state. Its first rows are those of our last commit.
    base, known : Manifest, IdMap
        Our last commit, and its ids.
    theirs : VQIndex
        The index of the newer commit; it is changed.
    newer : Manifest
        That commit.

    Raises
    ------
    StoreConflictError
        If the other writer's changes exclude ours.
    """
    graph = ours.contents.graph
    if (graph is None) != (base.graph is None):
        raise StoreConflictError(f"{where}: another writer committed while the graph was built or dropped here")
    count = known.rows_ever
    live, was_live = _live(ours.contents.ids), _live(known)
    removed, added = np.flatnonzero(was_live & ~live[:count]), np.flatnonzero(live[count:]) + count
    if removed.size:
        _check_same(where, ours, known, removed, theirs)
        theirs.remove(known.ids(removed))
    if added.size:
        _add(where, ours, known, added, theirs)
    tuned, linked = base.graph, theirs._contents.graph
    if graph is not None and linked is not None and tuned is not None and graph.curve != tuned.curve:
        theirs._contents = theirs._contents.with_graph(linked._replace(curve=graph.curve))


def _live(ids: IdMap) -> NDArray[np.bool_]:
    return np.ones(ids.rows_ever, np.bool_) if ids.live is None else bits_of(ids.live, ids.rows_ever)


def _check_same(where: str, ours: IndexState, known: IdMap, removed: I64, theirs: VQIndex) -> None:
    """Raise unless the ids that we removed have the vectors there that they had here."""
    ids = known.ids_of_rows(removed)
    rows = theirs._ids.find(ids)
    changed = rows < 0
    present = np.flatnonzero(~changed)
    for our, their in zip(ours.contents.rows.gather(removed[present]), theirs._rows.gather(rows[present]), strict=True):
        if our is not None and their is not None:
            changed[present] |= (our != their).reshape(present.size, -1).any(axis=1)
    if changed.any():
        at = int(np.argmax(changed))
        what = "removed" if rows[at] < 0 else "replaced"
        raise StoreConflictError(
            f"{where}: another writer {what} id {ids.describe(at)} ({int(changed.sum())} of the {removed.size} ids "
            "removed or replaced here); nothing was published; open the index again"
        )


def _add(where: str, ours: IndexState, known: IdMap, added: I64, theirs: VQIndex) -> None:
    """Add our new rows."""
    ids, first = ours.contents.ids, known.next_id
    if first is None or ids.next_id is None or ids.string_ids is not None:
        automatic = np.zeros(added.size, np.bool_)
    else:
        automatic = ids.numbers(added) >= first  # the others replace vectors that we removed
    if automatic.any() and theirs._ids.next_id is None:
        raise StoreConflictError(f"{where}: another writer added vectors with ids; those of here have none")
    try:
        for rows, explicit in ((added[~automatic], True), (added[automatic], False)):
            if rows.size:
                theirs.merge(_index_of(ours, rows, explicit, theirs))
    except InvalidInputError as error:
        raise StoreConflictError(
            f"{where}: another writer committed first, and {error}; nothing was published"
        ) from None


def _index_of(ours: IndexState, rows: I64, explicit: bool, theirs: VQIndex) -> VQIndex:
    """Return an index of some of our rows."""
    index = VQIndex._empty(ours.encoder.centering, theirs._backend.name)
    contents, strings = ours.contents, ours.contents.ids.string_ids
    ids = IdMap(
        rows.size,
        contents.ids.numbers(rows) if explicit else None,
        None,
        strings.select(rows) if explicit and strings is not None else None,
    )
    originals = None if contents.originals is None else contents.originals.select(rows)
    index._contents = Contents(contents.rows.select(rows), ids, originals)
    return index
