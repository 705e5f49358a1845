"""The graph of a store's vectors: building, dropping and tuning it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import InvalidInputError
from ..rows.graph import Curve
from ..search.tuning import measure
from .session import Session

__all__ = ["Graphs"]


class Graphs:
    """The methods of `Documents` for the graph of its vectors."""

    _session: Session

    @property
    def curve(self) -> Curve | None:
        """What `tune` measured: the agreement of walks with the scan of all rows. None before, and without a graph."""
        with self._session.reading():
            index = self._session.vectors.index
            return None if index is None else index.curve

    def build_graph(self, links: int = 32, *, progress: Callable[[int, int], object] | None = None) -> None:
        """Link the vectors, so that searches walk from vector to vector and score a small share of them.

        It works as `VQIndex.build_graph`. Later vectors join by themselves. The commit writes all vectors again. Other
        processes wait with their changes meanwhile; they may read. Without vectors the next ones get a graph.

        Parameters
        ----------
        links : int, default 32
            Most links of a vector, 8 to 128.
        progress : callable, optional
            Called with the number of vectors that are linked so far, and of all that will be.

        Raises
        ------
        InvalidInputError
            If `links` is out of range, or the codec has a second projection ("qjl"; sketches "orthogonal" and
            "gaussian").
        StoreError
            If it is open for reading. StoreBusyError: if another process still writes after `timeout` seconds.
        """
        self._session.check_writable()
        with self._session.changing() as database:
            self._session.vectors.build_graph(database, links, progress)

    def drop_graph(self) -> None:
        """Remove the links. Searches scan all vectors again. The commit writes all vectors again."""
        self._session.check_writable()
        with self._session.changing() as database:
            self._session.vectors.drop_graph(database)

    def tune(self, queries: Any = None, k: int = 10, *, threads: int | None = None) -> Curve:
        """Measure how well walks of the graph agree with the scan, so that searches can ask for a recall.

        The curve is a change like others: a commit keeps it for all processes. A store that is open for reading may be
        tuned for its own searches, until `refresh`. Other threads and processes go on while it measures.

        Parameters
        ----------
        queries : array-like of shape (nq, dim), optional
            Queries like those to come. By default decoded vectors of the store stand for them; their own rows do not
            count as results.
        k : int, default 10
            Number of results to compare.
        threads : int, optional
            As for `search`.

        Returns
        -------
        Curve
            Agreement against effort. Measure again after many vectors were added, or for other queries.

        Raises
        ------
        InvalidInputError
            If there are no linked vectors, if there are no queries, or if the graph is replaced meanwhile.
        """
        session = self._session
        with session.reading():
            index = session.vectors.index
            state = None if index is None else index._state
        if state is None or state.contents.graph is None:
            raise InvalidInputError("the store has no linked vectors; expected build_graph() after 1,024 were added")
        curve = measure(state.encoder, state.contents, queries, k, threads)
        with session.reading() if session.mode == "r" else session.changing():
            session.vectors.set_curve(state.contents.graph, curve)
        return curve
