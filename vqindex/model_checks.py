"""ModelChecks: the calls of an index that tell whether vectors still come from the model that built it.

Canaries are rows of the index whose inputs its user can embed again. The rows are in the index already. So a canary is
an id, perhaps with a text, and a checksum of the row's code, which tells whether the id has got another vector since.
They are in ``meta``, and so in files and manifests, as FORMAT.md says.
"""

from __future__ import annotations

import zlib
from abc import ABCMeta
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arguments import as_level
from .arrays import as_queries, on_host
from .codes.encoded import Encoded
from .errors import InvalidInputError
from .result import Canaries, ModelCheck
from .rows.contents import Contents
from .search.agreement import Agreement, is_usable
from .search.searcher import Searcher

__all__ = ["CANARIES", "ModelChecks"]

CANARIES = "canaries"  # key in meta
MOST_CANARIES = 4096  # a check takes the square of their number
_CHOSEN = 32  # canaries that an index chooses

I64 = NDArray[np.int64]


class ModelChecks(metaclass=ABCMeta):
    """The calls of `VQIndex` that compare it with an embedding model."""

    _state: Any  # an IndexState
    _meta: dict[str, Any]

    def set_canaries(self, ids: Any = None, texts: Iterable[str] | None = None, *, model: str | None = None) -> None:
        """Remember which vectors `check_model` compares with new ones of the same inputs.

        They replace those that were set before, and are saved with the index, in ``meta``. It takes no copy of the
        vectors or their codes.

        Parameters
        ----------
        ids : array-like of int or of str, shape (n,), optional
            Ids of vectors whose inputs can be embedded again. By default 32 vectors, evenly spread in the order in
            which they were added. An empty list forgets all canaries.
        texts : iterable of str, optional
            Their inputs, to be embedded again; only with `ids`.
        model : str, optional
            Name of the embedding model, for messages.

        Raises
        ------
        UnknownIdError
            If an id is not in the index.
        InvalidInputError
            If ids repeat or are more than 4096, the lengths of `ids` and `texts` differ, a text or `model` is no
            string, a vector is zero, or there are no vectors. The canaries are then unchanged.
        """
        searcher: Searcher = self._state.searcher
        if model is not None and not isinstance(model, str):
            raise InvalidInputError(f"model is {model!r}; expected the name of a model")
        if ids is None:
            if texts is not None:
                raise InvalidInputError("texts are given without ids; expected the ids of their vectors")
            rows = _usable_rows(searcher)
        else:
            id_map = searcher.contents.ids
            rows = id_map.rows(id_map.parse_ids(ids))
            if not rows.size:
                self._meta.pop(CANARIES, None)
                return
            _check_rows(searcher, rows)
        self._meta[CANARIES] = {
            "model": model,
            "ids": searcher.contents.ids.ids(rows).tolist(),
            "texts": None if texts is None else _as_texts(texts, rows.size),
            "crc32": _checksums(searcher.contents.rows.gather(rows)),
        }

    def canaries(self) -> Canaries | None:
        """Return the ids, texts and model that `set_canaries` was given; None without canaries.

        Returns
        -------
        Canaries or None
            In the order in which `check_model` expects their vectors; also those that were removed since.

        Raises
        ------
        InvalidInputError
            If someone wrote something else into ``meta["canaries"]``.
        """
        return None if CANARIES not in self._meta else _parsed(self._meta[CANARIES])[0]

    def check_model(self, vectors: Any, *, tolerance: float = 0.01, false_alarm: float = 0.001) -> ModelCheck:
        """Tell whether an embedding model still is the one that the vectors of the index come from.

        Canaries that were removed, or have got another vector since, are left out. Lengths of vectors do not count,
        but for metric l2 with a center.

        Parameters
        ----------
        vectors : array-like of shape (n, dim), or callable
            New vectors of all canaries, in the order of `canaries`; or a function of the list of their texts that
            returns them.
        tolerance : float, default 0.01
            The model is the same if all cosines of new vectors with the stored ones are at least 1 - `tolerance`.
            Float16, other processors and other batches change a vector by less; other models change it by more.
        false_alarm : float, default 0.001
            Most probability, over the random rotation, that vectors of the same model are taken for those of another.

        Returns
        -------
        ModelCheck
            True if the model is the same, as a condition of ``if``; with the reason, and each canary's numbers.

        Raises
        ------
        InvalidInputError
            If vectors do not fit, arguments are out of range, or no canary is in the index.
        """
        tolerance, false_alarm = as_tolerance(tolerance), as_level("false_alarm", false_alarm)
        if CANARIES not in self._meta:
            raise InvalidInputError("the index has no canaries; expected set_canaries() when it was built")
        searcher: Searcher = self._state.searcher
        canaries, checksums = _parsed(self._meta[CANARIES])
        if callable(vectors):
            if canaries.texts is None:
                raise InvalidInputError("vectors is a function, but the canaries have no texts; expected an array")
            vectors = vectors(list(canaries.texts))
        matrix = on_host(as_queries(vectors, searcher.encoder.centering.spec.dim)[0])
        if len(matrix) != canaries.ids.size:
            raise InvalidInputError(
                f"there are {len(matrix)} vectors for {canaries.ids.size} canaries; expected one for each, in order"
            )
        rows = _rows_of(searcher.contents, canaries.ids)
        at = np.flatnonzero(rows >= 0)
        at = at[np.array(_checksums(searcher.contents.rows.gather(rows[at])), np.int64) == checksums[at]]
        if not at.size:
            raise InvalidInputError(
                f"all {canaries.ids.size} canaries were removed or have got other vectors; expected set_canaries()"
            )
        found = Agreement.of(searcher, rows[at], matrix[at])
        return found.check(canaries.ids[at], canaries.model, tolerance, false_alarm)


def as_tolerance(value: object) -> float:
    """Return a tolerance, above 0 and at most 0.5."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating) or not 0 < value <= 0.5:
        raise InvalidInputError(f"tolerance is {value!r}; expected a number above 0 and at most 0.5")
    return float(value)


def spread(count: int, most: int) -> I64:
    """Return at most `most` of the numbers below `count`, evenly spread."""
    return np.unique((np.arange(min(most, count)) + 0.5) * count / max(min(most, count), 1)).astype(np.int64)


def _usable_rows(searcher: Searcher) -> I64:
    live = searcher.contents.ids.live_rows()
    rows = live[spread(live.size, 4 * _CHOSEN)]
    rows = rows[is_usable(searcher, rows)]
    if not rows.size:
        raise InvalidInputError(f"none of {live.size} vectors can be a canary; expected vectors that are not zero")
    return rows[spread(rows.size, _CHOSEN)]


def _check_rows(searcher: Searcher, rows: I64) -> None:
    """Raise for rows that can't be canaries."""
    ids = searcher.contents.ids
    if rows.size > MOST_CANARIES:
        raise InvalidInputError(f"there are {rows.size} ids; expected at most {MOST_CANARIES} canaries")
    values, counts = np.unique(rows, return_counts=True)
    if values.size < rows.size:
        twice = ids.ids(values[counts > 1]).tolist()[0]
        raise InvalidInputError(f"id {twice!r} is given twice; expected each canary once")
    unusable = rows[~is_usable(searcher, rows)]
    if unusable.size:
        raise InvalidInputError(
            f"the vector of id {ids.ids(unusable[:1]).tolist()[0]!r} is zero; expected one with a direction"
        )


def _as_texts(texts: Iterable[str], count: int) -> list[str]:
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise InvalidInputError(f"texts is {texts!r}; expected a list of texts")
    found = list(texts)
    odd = next((at for at, each in enumerate(found) if not isinstance(each, str)), None)
    if odd is not None:
        raise InvalidInputError(f"texts[{odd}] is {found[odd]!r}; expected a text")
    if len(found) != count:
        raise InvalidInputError(f"there are {len(found)} texts for {count} ids; expected one for each")
    return found


def _checksums(codes: Encoded) -> list[int]:
    """Return the CRC-32 of each row's codes and scalars."""
    norm = np.zeros(codes.rows, np.float32) if codes.norm is None else codes.norm
    scalars = np.stack([codes.rescale, norm], axis=1).astype("<f4")
    return [zlib.crc32(scalars[row].tobytes(), zlib.crc32(codes.codes[row].tobytes())) for row in range(codes.rows)]


def _rows_of(contents: Contents, ids: NDArray[Any]) -> I64:
    """Return the rows of ids, -1 for those that are not there."""
    is_text = contents.ids.string_ids is not None
    if is_text != (ids.dtype == object):  # all vectors were replaced by others with ids of another kind
        return np.full(ids.size, -1)
    return contents.ids.find(contents.ids.parse_ids(ids))


def _parsed(value: Any) -> tuple[Canaries, NDArray[np.int64]]:
    """Return what ``meta["canaries"]`` holds."""
    expected = "what set_canaries() writes: model, ids, texts and crc32"
    if not isinstance(value, dict) or not {"model", "ids", "texts", "crc32"} <= set(value):
        raise InvalidInputError(f"meta['{CANARIES}'] is {value!r}; expected {expected}")
    ids, texts, checksums, model = (value[name] for name in ("ids", "texts", "crc32", "model"))
    lists = [each for each in (ids, texts, checksums) if each is not None]
    is_sound = (
        all(isinstance(each, list) and len(each) == len(ids) for each in lists)
        and (all(type(each) is int for each in ids) or all(type(each) is str for each in ids))
        and all(type(each) is int for each in checksums)
        and all(type(each) is str for each in texts or ())
        and (model is None or type(model) is str)
    )
    if not is_sound:
        raise InvalidInputError(f"meta['{CANARIES}'] holds lists that do not fit; expected {expected}")
    kind: Any = object if ids and isinstance(ids[0], str) else np.int64
    return Canaries(np.array(ids, kind), None if texts is None else list(texts), model), np.array(checksums, np.int64)
