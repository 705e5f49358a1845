"""Documents: texts, metadata and vectors of one moment."""

from __future__ import annotations

import copy
import errno
import os
import warnings
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..arguments import as_path
from ..errors import InvalidInputError, StoreError, outside_of_package
from ..index import VQIndex
from . import copying, table
from .batch import Batch, Embed, as_ids, parse_batch
from .encoding import decode_json, decode_text, encode_json, encode_text
from .filters import And, Filter, parse
from .folder import DATABASE
from .graphs import Graphs
from .making import copy_into
from .opening import open_session, session_of
from .queries import Queries, as_namespace
from .session import Session

__all__ = ["Documents"]

# The class has a method `list`.
IdList = list[str]
ItemList = list[tuple[str, int]]
Rows = list[int]


class Documents(Graphs, Queries):
    """Documents in a folder or in memory, made by `vqindex.documents.open`.

    Every call that changes something is durable when it returns, unless it is in a ``with`` block, which commits once
    at its end, or ``autocommit=False``, where `commit` does. A call that raises has changed nothing.

    Examples
    --------
    >>> import numpy as np, vqindex.documents
    >>> store = vqindex.documents.open(":memory:")
    >>> _ = store.add(["a cat", "a dog"], np.eye(2), metadata=[{"legs": 4}, {"legs": 4}], ids=["cat", "dog"])
    >>> [hit.id for hit in store.search(np.array([0, 1]), k=1, where={"legs": {"$gt": 3}})]
    ['dog']
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._finish = weakref.finalize(self, _close, session)

    # ---- what it is

    @property
    def path(self) -> Path | None:
        """The folder; None in memory."""
        home = self._session.home
        return None if home is None else home.folder

    @property
    def mode(self) -> str:
        """How it was opened, "r" or "a"."""
        return self._session.mode

    @property
    def autocommit(self) -> bool:
        """Whether each call that changes something commits, outside of ``with`` blocks."""
        return self._session.autocommit

    @property
    def generation(self) -> int:
        """Number of commits so far, as this object sees them."""
        with self._session.reading():
            return self._session.generation

    @property
    def metric(self) -> str:
        """The metric of the vectors: "cosine", "ip" or "l2"."""
        return str(self._session.vectors.parameters["metric"])

    @property
    def dim(self) -> int | None:
        """Number of coordinates of the vectors; None before the first one, unless it was given."""
        with self._session.reading():
            return self._session.vectors.dim

    @property
    def index(self) -> VQIndex | None:
        """A copy of the index of the vectors; its ids number the documents. None before the first vector."""
        with self._session.reading():
            return copy.copy(self._session.vectors.index)

    def __repr__(self) -> str:
        if self._session.closed:
            return f"<Documents of {self._session.where!r}, closed>"
        return f"Documents({self._session.where!r}, mode={self.mode!r}, documents={len(self)})"

    # ---- changes

    def add(
        self,
        texts: Iterable[str | None],
        vectors: Any = None,
        *,
        embed: Embed | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        ids: Sequence[str | None] | None = None,
        more: Sequence[Mapping[str, Any] | None] | None = None,
        namespace: str | None = None,
    ) -> IdList:
        """Add documents.

        Parameters
        ----------
        texts : iterable of str or None
            Their texts, n of them.
        vectors : array-like of shape (n, dim), or sequence of n arrays or None, optional
            Their vectors. A document without one is found by its text and metadata only.
        embed : callable, optional
            A function of a list of texts that returns their vectors, instead of `vectors`.
        metadata : sequence of mapping, optional
            Values in JSON types, which filters read.
        ids : sequence of str, optional
            Ids, new to the namespace; a random one for None.
        more : sequence of mapping, optional
            Other values in JSON types.
        namespace : str, optional
            The namespace; by default the one without a name.

        Returns
        -------
        list of str
            The ids.

        Raises
        ------
        InvalidInputError
            If lengths differ, an id is there already or twice, a vector does not fit, or a value is not JSON.
        StoreError
            If it is open for reading. StoreBusyError: if another process still writes after `timeout` seconds.
        """
        batch = parse_batch(texts, vectors, embed, metadata, ids, more)
        if len(set(batch.ids)) < len(batch.ids):
            twice = next(each for at, each in enumerate(batch.ids) if each in batch.ids[:at])
            raise InvalidInputError(f"ids are given twice: {twice!r}")
        return self._write(batch, namespace, replace=False, are_new=ids is None)

    def upsert(
        self,
        texts: Iterable[str | None],
        vectors: Any = None,
        *,
        embed: Embed | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        ids: Sequence[str | None] | None = None,
        more: Sequence[Mapping[str, Any] | None] | None = None,
        namespace: str | None = None,
    ) -> IdList:
        """Add documents, and replace those whose ids are there; of equal ids in one call the last one is written.

        A replaced document keeps its place in `list`.

        Parameters
        ----------
        texts : iterable of str or None
            As for `add`, and so are the others.
        vectors : array-like of shape (n, dim), or sequence of n arrays or None, optional
            Their vectors.
        embed : callable, optional
            A function of a list of texts that returns their vectors.
        metadata : sequence of mapping, optional
            Values in JSON types, which filters read.
        ids : sequence of str, optional
            Ids, of documents that are there or new.
        more : sequence of mapping, optional
            Other values in JSON types.
        namespace : str, optional
            The namespace.

        Returns
        -------
        list of str
            The ids, as they were given.

        Raises
        ------
        InvalidInputError, StoreError
            As for `add`.
        """
        batch = parse_batch(texts, vectors, embed, metadata, ids, more)
        self._write(batch.last_of_each(), namespace, replace=True, are_new=ids is None)
        return batch.ids

    def _write(self, batch: Batch, namespace: str | None, *, replace: bool, are_new: bool) -> IdList:
        name = as_namespace(namespace)
        self._session.check_writable()
        if not batch.ids:
            return []
        with self._session.changing() as database:
            number = table.namespace_number(database, name, make=True)
            assert number is not None
            known = {} if are_new else table.rows_of_ids(database, number, batch.ids)
            if known and not replace:
                raise InvalidInputError(f"id {decode_text(next(iter(known)))!r} is there already; upsert replaces it")
            ids = [encode_text(each) for each in batch.ids]
            following, rows = table.next_row(database), []
            for each in ids:
                row = known.get(each)
                if row is None:
                    row, following = following, following + 1
                rows.append(row)
            self._session.note(rows)
            texts = [None if text is None else encode_text(text) for text in batch.texts]
            new = [table.NewRow(*values) for values in zip(
                rows, ids, batch.metadata, batch.more, batch.embedded, texts, strict=True)]  # fmt: skip
            table.write_rows(database, number, new, list(known.values()))
            is_in, numbers = np.array(batch.embedded, np.bool_), np.array(rows, np.int64)
            is_known = np.isin(numbers, np.array(list(known.values()), np.int64))
            self._session.vectors.remove(database, numbers[is_known & ~is_in])
            if batch.vectors is not None:
                self._session.vectors.write(database, numbers[is_in], batch.vectors, numbers[is_known & is_in])
        return batch.ids

    def delete(self, ids: Iterable[str] | None = None, *, where: Any = None, namespace: str | None = None) -> int:
        """Delete documents by their ids, or those that match a filter.

        Parameters
        ----------
        ids : iterable of str, optional
            Ids; unknown ones are ignored.
        where : a mapping, a Filter or a callable, optional
            A filter, as for `search`. With `ids` both must hold.
        namespace : str, optional
            The namespace.

        Returns
        -------
        int
            How many documents were deleted.

        Raises
        ------
        InvalidInputError
            If neither is given: `clear` deletes everything.
        """
        if ids is None and where is None:
            raise InvalidInputError("neither ids nor where is given; expected one of them (clear() deletes everything)")
        given, condition, name = None if ids is None else as_ids(ids), parse(where), as_namespace(namespace)
        self._session.check_writable()
        with self._session.changing() as database:
            number = table.namespace_number(database, name)
            if number is None:
                return 0
            rows = self._rows_of(number, given, condition)
            self._delete_rows(number, rows)
            return len(rows)

    def _rows_of(self, number: int, ids: IdList | None, condition: Filter | None) -> Rows:
        """Return the rows of a namespace that have one of the ids, or match a filter, or both if both are given."""
        database = self._session.database
        found = None
        if ids is None or condition is not None:
            found = self._session.columns.find(database, number, And(()) if condition is None else condition).rows
        if ids is not None:
            by_id = np.array(list(table.rows_of_ids(database, number, ids).values()), np.int64)
            found = by_id if found is None else np.intersect1d(by_id, found)
        return [] if found is None else found.tolist()

    def _delete_rows(self, number: int, rows: Rows) -> None:
        self._session.note(rows)
        table.delete_rows(self._session.database, number, rows)
        self._session.vectors.remove(self._session.database, np.array(rows, np.int64))

    def update_metadata(self, changes: Mapping[str, Mapping[str, Any]], *, namespace: str | None = None) -> int:
        """Replace the metadata of documents; texts and vectors stay.

        Parameters
        ----------
        changes : mapping of str to mapping
            Metadata by id; unknown ids are ignored.
        namespace : str, optional
            The namespace.

        Returns
        -------
        int
            How many documents have got new metadata.

        Raises
        ------
        InvalidInputError
            If it is no mapping, or a value is not JSON.
        """
        if not isinstance(changes, Mapping):
            raise InvalidInputError(f"changes is {changes!r}; expected a mapping of ids to metadata")
        name = as_namespace(namespace)
        new = {encode_text(id_): encode_json(data, f"metadata of {id_!r}") for id_, data in
               zip(as_ids(changes), changes.values(), strict=True)}  # fmt: skip
        self._session.check_writable()
        with self._session.changing() as database:
            number = table.namespace_number(database, name)
            rows = {} if number is None else table.rows_of_ids(database, number, changes)
            self._session.note(list(rows.values()))
            if number is not None:
                table.replace_metadata(database, number, {row: new[id_] for id_, row in rows.items()})
            return len(rows)

    def set_metadata(
        self,
        fields: Mapping[str, Any],
        ids: Iterable[str] | None = None,
        *,
        where: Any = None,
        namespace: str | None = None,
    ) -> int:
        """Set fields of the metadata of documents; their other fields, texts and vectors stay.

        Parameters
        ----------
        fields : mapping
            Fields and values in JSON types.
        ids : iterable of str, optional
            Ids; unknown ones are ignored. By default all documents that match.
        where : a mapping, a Filter or a callable, optional
            A filter, as for `search`. With `ids` both must hold.
        namespace : str, optional
            The namespace.

        Returns
        -------
        int
            How many documents have got the fields.

        Raises
        ------
        InvalidInputError
            If a value is not JSON, or the filter can't be understood.
        """
        encode_json(fields, "fields")  # refuses what it can't hold, before anything is looked for
        given, condition, name = None if ids is None else as_ids(ids), parse(where), as_namespace(namespace)
        self._session.check_writable()
        with self._session.changing() as database:
            number = table.namespace_number(database, name)
            rows = [] if number is None else self._rows_of(number, given, condition)
            self._session.note(rows)
            if number is not None:
                before = table.metadata_of_rows(database, rows)
                new = {row: encode_json({**decode_json(text), **fields}, "metadata") for row, text in before.items()}
                table.replace_metadata(database, number, new)
            return len(rows)

    def clear(self) -> None:
        """Delete all documents of all namespaces. The next vectors may have another dimension."""
        self._session.check_writable()
        with self._session.changing() as database:
            rows = [row for (row,) in database.execute("SELECT row FROM docs")]
            self._session.note(rows)
            for (number,) in database.execute("SELECT number FROM namespaces WHERE documents > 0").fetchall():
                mine = [row for (row,) in database.execute("SELECT row FROM docs WHERE namespace = ?", (number,))]
                table.delete_rows(database, number, mine)
            database.execute("DELETE FROM namespaces")
            self._session.vectors.clear(database)

    # ---- namespaces

    def namespaces(self) -> IdList:
        """Return the names of namespaces that have documents, sorted; the one without a name is ""."""
        with self._session.reading() as database:
            found = database.execute("SELECT name FROM namespaces WHERE documents > 0").fetchall()
        return sorted(decode_text(name) for (name,) in found)

    def drop_namespace(self, name: str) -> int:
        """Delete all documents of a namespace.

        Parameters
        ----------
        name : str
            The namespace; "" is the one without a name.

        Returns
        -------
        int
            How many documents it had.

        Raises
        ------
        InvalidInputError
            If it is no string.
        """
        name = as_namespace(name)
        self._session.check_writable()
        with self._session.changing() as database:
            number = table.namespace_number(database, name)
            if number is None:
                return 0
            rows = [row for (row,) in database.execute("SELECT row FROM docs WHERE namespace = ?", (number,))]
            self._delete_rows(number, rows)
            database.execute("DELETE FROM namespaces WHERE number = ?", (number,))
            return len(rows)

    # ---- commits

    def commit(self) -> int:
        """Put all changes on disk. If it fails, it can be called again.

        Returns
        -------
        int
            Number of commits so far.
        """
        return self._session.commit()

    def rollback(self) -> None:
        """Undo all changes since the last commit."""
        self._session.rollback()

    def refresh(self) -> int:
        """Go to the last commit of any process.

        What is open for reading stays at one commit until then. What is open for writing follows by itself.

        Returns
        -------
        int
            Number of commits so far.
        """
        return self._session.refresh()

    def copy(self, folder: str | os.PathLike[str]) -> None:
        """Write all documents, changes without a commit too, to another folder in one commit.

        Documents that are in that folder are replaced. The store's own folder gets a commit.

        Parameters
        ----------
        folder : str or path
            The folder, an existing or a new one.

        Raises
        ------
        FileFormatError
            If it holds files of another kind.
        """
        found, own = as_path(folder), self.path
        if own is not None and os.path.realpath(found) == os.path.realpath(own):
            self.commit()
        else:
            copy_into(self._session, found)

    def verify(self) -> ItemList:
        """Check every byte of the last commit: rows, vectors, and that they belong together.

        Returns
        -------
        list of (str, int)
            Name and size in bytes of each file of vectors.

        Raises
        ------
        FileFormatError
            At the first thing that does not check.
        """
        return self._session.verify()

    def __reduce__(self) -> Any:
        """Pickle as the folder, which is opened again, or as all documents and vectors of a store in memory."""
        session = self._session
        with session.reading() as database:
            how = {"autocommit": session.autocommit, "timeout": session.timeout, **session.vectors.how}
            if session.folder is not None:
                if session.changes:
                    raise StoreError(f"{session.where} has changes without a commit; expected none in a pickle")
                return _reopen, (str(session.folder.path), self.mode, how)
            return _remake, (copying.rows_of(database), session.vectors.index, how)

    def close(self) -> None:
        """Close the store.

        Warns
        -----
        ResourceWarning
            If there are changes without a commit, which are lost.
        """
        if self._finish.alive:
            _close(self._session)
            self._finish.detach()

    def __enter__(self) -> Documents:
        self._session.check_open()
        self._session.group += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session = self._session
        try:
            if not session.closed and session.mode != "r" and session.group == 1:
                session.commit() if kind is None else session.rollback()
        finally:
            session.group -= 1
            if not session.group:
                self.close()


def _close(session: Session) -> None:
    """Close a session; warn of changes that are lost."""
    lost = session.close()
    if lost:
        warnings.warn(
            f"{session.where}: {lost} changes were not committed and are lost; expected commit() before close()",
            ResourceWarning,
            stacklevel=outside_of_package(),
        )


def _reopen(path: str, mode: str, how: Mapping[str, Any]) -> Documents:
    """Return the documents of a pickle that holds their folder; it must be there."""
    if not os.path.exists(os.path.join(path, DATABASE)):
        raise FileNotFoundError(errno.ENOENT, "the documents of this pickle are not here", path)
    session = open_session(path, mode, {}, {"metric": "cosine"}, how["timeout"], None, how["device"], how["mmap"])
    session.autocommit = how["autocommit"]
    return Documents(session)


def _remake(rows: copying.Rows, index: VQIndex | None, how: Mapping[str, Any]) -> Documents:
    """Return the documents of a pickle that holds them."""
    session = session_of(rows, index, how["device"], how["timeout"])
    session.autocommit = how["autocommit"]
    return Documents(session)
