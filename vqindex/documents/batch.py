"""What callers pass to `add` and `upsert`, checked: as many texts, vectors, metadata and ids as there are documents."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arrays import as_host
from ..errors import InvalidInputError
from .encoding import encode_json

__all__ = ["Batch", "as_ids", "parse_batch"]

Embed = Callable[[list[str]], Any]


class Batch(NamedTuple):
    """Documents to be written.

    Attributes
    ----------
    ids : list of str
        Their ids.
    texts : list of str or None
        Their texts.
    metadata, more : list of str
        As JSON.
    embedded : list of bool
        Which of them have a vector.
    vectors : ndarray of float32, shape (m, dim), or None
        The vectors of those; None if there are none.
    """

    ids: list[str]
    texts: list[str | None]
    metadata: list[str]
    more: list[str]
    embedded: list[bool]
    vectors: NDArray[np.float32] | None

    def last_of_each(self) -> Batch:
        """Return the last document of each id."""
        last = {each: at for at, each in enumerate(self.ids)}
        if len(last) == len(self.ids):
            return self
        kept = sorted(last.values())
        places = np.cumsum([0, *self.embedded])
        vectors = None if self.vectors is None else self.vectors[[places[at] for at in kept if self.embedded[at]]]
        return Batch(
            [self.ids[at] for at in kept],
            [self.texts[at] for at in kept],
            [self.metadata[at] for at in kept],
            [self.more[at] for at in kept],
            [self.embedded[at] for at in kept],
            vectors,
        )


def as_ids(ids: Any, name: str = "ids") -> list[str]:
    """Return ids as a list.

    Raises
    ------
    InvalidInputError
        If they are one string instead of several, or one of them is no string.
    """
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InvalidInputError(f"{name} is {ids!r}; expected a list of strings")
    found = list(ids)
    for each in found:
        if not isinstance(each, str):
            raise InvalidInputError(f"{name} has {each!r}; expected strings")
    return found


def parse_batch(texts: Any, vectors: Any, embed: Embed | None, metadata: Any, ids: Any, more: Any) -> Batch:
    """Check the arguments of `Documents.add`.

    Raises
    ------
    InvalidInputError
        If lengths differ, or a value is of a wrong type.
    """
    texts = _texts(texts)
    count = len(texts)
    new_ids = _ids(ids, count)
    as_json, more_json = _json_list(metadata, count, "metadata"), _json_list(more, count, "more")
    if vectors is not None and embed is not None:
        raise InvalidInputError("vectors and embed are both given; expected one of them")
    embedded, matrix = _embedded(texts, embed) if embed is not None else _vectors(vectors, count)
    return Batch(new_ids, texts, as_json, more_json, embedded, matrix)


def _texts(texts: Any) -> list[str | None]:
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise InvalidInputError(f"texts is {texts!r}; expected a list of strings")
    found = list(texts)
    for each in found:
        if each is not None and not isinstance(each, str):
            raise InvalidInputError(f"texts has {each!r}; expected strings, or None for a document without text")
    return found


def _ids(ids: Any, count: int) -> list[str]:
    if ids is None:
        return [uuid.uuid4().hex for _ in range(count)]
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InvalidInputError(f"ids is {ids!r}; expected a list of strings")
    found = as_ids([uuid.uuid4().hex if each is None else each for each in ids])
    if len(found) != count:
        raise InvalidInputError(f"{len(found)} ids are given for {count} texts; expected one for each")
    return found


def _json_list(values: Any, count: int, name: str) -> list[str]:
    if values is None:
        return ["{}"] * count
    if isinstance(values, Mapping | str | bytes) or not isinstance(values, Iterable):
        raise InvalidInputError(f"{name} is {values!r}; expected a list of mappings")
    found = ["{}" if each is None else encode_json(each, f"{name}[{at}]") for at, each in enumerate(values)]
    if len(found) != count:
        raise InvalidInputError(f"{len(found)} {name} are given for {count} texts; expected one for each")
    return found


def _embedded(texts: Sequence[str | None], embed: Embed) -> tuple[list[bool], NDArray[np.float32] | None]:
    """Embed all texts."""
    embedded = [text is not None for text in texts]
    given = [text for text in texts if text is not None]
    if not given:
        return embedded, None
    matrix = as_rows(embed(given))
    if len(matrix) != len(given):
        raise InvalidInputError(f"embed returned {len(matrix)} vectors for {len(given)} texts; expected one for each")
    return embedded, matrix


def _vectors(vectors: Any, count: int) -> tuple[list[bool], NDArray[np.float32] | None]:
    if vectors is None:
        return [False] * count, None
    if isinstance(vectors, list | tuple):
        if len(vectors) != count:
            raise InvalidInputError(f"{len(vectors)} vectors are given for {count} texts; expected one for each")
        embedded = [each is not None for each in vectors]
        given = [each for each in vectors if each is not None]
        return embedded, as_rows(given) if given else None
    matrix = as_rows(vectors)
    if len(matrix) != count:
        raise InvalidInputError(f"{len(matrix)} vectors are given for {count} texts; expected one for each")
    return [True] * count, matrix if count else None


def as_rows(vectors: Any) -> NDArray[np.float32]:
    """Return vectors as a float32 matrix (n, dim); the index checks its values."""
    if isinstance(vectors, list | tuple):
        try:
            lengths = {len(each) for each in vectors}
        except TypeError:
            raise InvalidInputError(f"vectors have no length; expected one array for each of {len(vectors)}") from None
        if len(lengths) > 1:
            raise InvalidInputError(f"vectors have {sorted(lengths)} coordinates; expected the same number in each")
        vectors = np.stack([np.asarray(as_host(each)) for each in vectors]) if vectors else np.empty((0, 0))
    found = as_host(vectors)
    if found.ndim != 2 or found.dtype.kind not in "fiu":
        raise InvalidInputError(f"vectors have shape {found.shape} and dtype {found.dtype}; expected numbers (n, dim)")
    with np.errstate(over="ignore", under="ignore"):
        return np.ascontiguousarray(found, np.float32)
