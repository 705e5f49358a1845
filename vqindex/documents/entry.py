"""`vqindex.documents.open`: opening the documents in a folder, or making a store there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..backends.registry import Device
from ..errors import InvalidInputError
from ..rows.originals import Kind
from ..spec import CodecName, Metric, RotationName, SketchName
from .documents import Documents
from .opening import open_session
from .parameters import check_parameters

__all__ = ["open_documents"]


def open_documents(
    path: str | os.PathLike[str],
    mode: str = "a",
    *,
    dim: int | None = None,
    bits: int | None = None,
    metric: Metric | None = None,
    codec: CodecName | None = None,
    sketch: SketchName | None = None,
    rotation: RotationName | None = None,
    seed: int | None = None,
    keep_vectors: Kind | None = None,
    center: Any = None,
    graph: int | None = None,
    defaults: Mapping[str, Any] | None = None,
    autocommit: bool = True,
    timeout: float = 10.0,
    writer: str | None = None,
    device: Device = "auto",
    mmap: bool = True,
) -> Documents:
    """Open the documents in a folder, or make a store for them.

    Parameters
    ----------
    path : str or path
        The folder; ``":memory:"`` makes a store in memory.
    mode : one of {"a", "r"}
        "a" reads and writes, and makes the store if the folder holds none. Several processes may have it open: each
        change waits until no other one is in progress. "r" reads the last commit and stays there until `refresh`.
    dim, bits : int, optional
        As for `VQIndex`. A new store gets these parameters and the next ones; those of an existing one must be equal.
        Without `dim` the first vector decides.
    metric : str, optional
        As for `VQIndex`, "cosine" by default.
    codec, sketch, rotation : str, optional
        As for `VQIndex`.
    seed : int, optional
        As for `VQIndex`.
    keep_vectors : str, optional
        As for `VQIndex`.
    center : array-like of float, shape (dim,), or "mean", optional
        As for `VQIndex`.
    graph : int, optional
        As for `VQIndex`: most links of a vector. Searches then walk, with the options `effort` or `exact`.
    defaults : mapping, optional
        Parameters such as these that a new store gets where they are not given, and an existing one ignores.
    autocommit : bool, default True
        Whether each call that changes something commits. False: `commit` does.
    timeout : float, default 10
        Seconds that a change waits for another process that writes.
    writer : str, optional
        The name of an adapter that keeps its own values in the documents. A store remembers the first one and refuses
        others.
    device : str, default "auto"
        As for `VQIndex`.
    mmap : bool, default True
        Map codes instead of reading them.

    Returns
    -------
    Documents

    Raises
    ------
    FileNotFoundError
        If there is no store, and none is made.
    StoreBusyError
        If another process still writes after `timeout` seconds, where a store is made.
    FileFormatError
        If a file is missing, damaged or of an unknown version, or the folder of a new store holds other files.
    InvalidInputError
        If parameters differ from those of the store.
    """
    if mode not in ("r", "a"):
        raise InvalidInputError(f"mode is {mode!r}; expected 'r' or 'a'")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
        raise InvalidInputError(f"timeout is {timeout!r}; expected seconds from 0 on")
    given = {
        "dim": dim, "bits": bits, "metric": metric, "codec": codec,
        "sketch": sketch, "rotation": rotation, "seed": seed, "keep_vectors": keep_vectors, "center": center,
        "graph": graph,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    new = check_parameters({"metric": "cosine", **(defaults or {}), **given})
    session = open_session(path, mode, given, new, float(timeout), writer, device, mmap)
    session.autocommit = bool(autocommit)
    return Documents(session)
