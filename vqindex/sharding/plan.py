"""The plan of a build in shards: which rows belong to which shard, and all that decides the bytes of a shard.

A shard's bytes depend on its rows, the spec and the version of vqindex only. So any process may encode any shard, any
number of times, and the result is the same. The plan lies in the folder of the store, where all workers find it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..arguments import as_path
from ..arrays import VectorSource, on_host
from ..center import Centering
from ..directory.local import LocalDirectory
from ..errors import InvalidInputError
from ..file_format.layout import canonical_json
from ..residuals import OffsetWatch
from ..rows.originals import Kind, Originals, as_kind
from ..spec import CodecName, IndexSpec, Metric, RotationName, SketchName
from ..store import discard_store
from ..store.manifest import BUILD_PLAN, MANIFEST, is_ours
from ..store.merge import MERGE_BYTES
from ..version import __version__
from .source import Rows, identity_of, open_ids, open_rows

__all__ = ["BuildPlan", "discard_build", "load_plan", "plan_build"]

_BLOCK = 64  # rows of a block of sign bits; a shard has whole ones
_FEWEST_SHARDS, _FEWEST_ROWS = 16, 2**16  # by default: so many shards, unless they get fewer rows than this


@dataclass(frozen=True)
class BuildPlan:
    """What a build in shards makes of which data. It is plain data: JSON holds all of it.

    Attributes
    ----------
    output : str
        The folder of the store.
    data : str
        The file of the vectors.
    dataset : str or None
        Which of its arrays.
    identity : dict
        Size and time of the last change of the data, and of the ids' file.
    rows : int
        Number of vectors.
    shard_rows : int
        Rows of every shard but the last.
    spec : dict
        The spec (`IndexSpec.as_dict`).
    keep_vectors : str or None
        How the vectors are kept.
    center : str or None
        The center (`Centering.text`); a mean is computed when the plan is made.
    asked_center : str or None
        The center that was asked for: "mean", or as `center`.
    ids : str or None
        The file of explicit ids; None numbers the vectors from 0 on.
    ids_column : str or None
        Which of its columns.
    meta : dict
        Notes that the store gets.
    version : str
        The version of vqindex that made the plan.
    """

    output: str
    data: str
    dataset: str | None
    identity: Mapping[str, Any]
    rows: int
    shard_rows: int
    spec: Mapping[str, Any]
    keep_vectors: str | None = None
    center: str | None = None
    asked_center: str | None = None
    ids: str | None = None
    ids_column: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    version: str = __version__

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.rows // self.shard_rows)

    @property
    def index_spec(self) -> IndexSpec:
        """The spec."""
        return IndexSpec(**self.spec)

    @property
    def centering(self) -> Centering:
        """Spec and center."""
        return Centering.from_text(self.index_spec, self.center)

    def range_of(self, shard: int) -> tuple[int, int]:
        """Return the rows of a shard.

        Parameters
        ----------
        shard : int
            Its number, from 0 on.

        Returns
        -------
        tuple of int
            The first row, and the row after the last.

        Raises
        ------
        InvalidInputError
            If there is no such shard.
        """
        if isinstance(shard, bool) or not isinstance(shard, int) or not 0 <= shard < self.shards:
            raise InvalidInputError(f"shard is {shard!r}; expected a whole number from 0 to {self.shards - 1}")
        return shard * self.shard_rows, min(self.rows, (shard + 1) * self.shard_rows)

    def to_json(self) -> str:
        """Return the plan as JSON."""
        return bytes(canonical_json(asdict(self)).tobytes()).decode()

    @classmethod
    def from_json(cls, text: str) -> BuildPlan:
        """Undo `to_json`.

        Parameters
        ----------
        text : str
            The plan as JSON.

        Returns
        -------
        BuildPlan
            The plan.

        Raises
        ------
        InvalidInputError
            If the text is no plan.
        """
        try:
            plan = cls(**json.loads(text))
            plan.centering  # noqa: B018 - raises for a spec or center that is none
            as_kind(plan.keep_vectors)
            if not (plan.rows > 0 and plan.shard_rows > 0):
                raise ValueError(f"rows is {plan.rows} and shard_rows {plan.shard_rows}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidInputError(f"not the plan of a build ({error})") from None
        return plan

    def check_same_data(self) -> None:
        """Raise InvalidInputError if the data or the ids have changed since the plan was made, or are gone."""
        found = identity_of(self.data, self.ids)
        if found != dict(self.identity):
            raise InvalidInputError(
                f"{self.data} or its ids changed since the plan was made ({found}; expected {dict(self.identity)})"
            )

    def check_same_version(self) -> None:
        """Raise InvalidInputError if another version of vqindex made the plan."""
        if self.version != __version__:
            raise InvalidInputError(f"the plan is of vqindex {self.version}; this is vqindex {__version__}")


def plan_build(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    bits: int = 4,
    metric: Metric = "ip",
    codec: CodecName = "turboquant-prod",
    sketch: SketchName | None = None,
    rotation: RotationName = "hadamard",
    seed: int = 0,
    keep_vectors: Kind | None = None,
    center: Any = None,
    dataset: str | None = None,
    ids: str | os.PathLike[str] | None = None,
    ids_column: str | None = None,
    shard_rows: int | None = None,
    meta: Mapping[str, Any] | None = None,
) -> BuildPlan:
    """Plan a store of the vectors of a file, to be encoded in shards; or return the plan of a build that was begun.

    The plan is written to the folder of the store. The same call later returns the same plan, so a stopped build goes
    on with the shards that are missing.

    Parameters
    ----------
    data : str or path
        .npy .npz .hdf5/.h5 .fvecs .bvecs .fbin .u8bin .i8bin or .parquet; all workers read it by this path.
    output : str or path
        The folder of the store; it is made if it is missing.
    bits : int, default 4
        As for `VQIndex`.
    metric : str, default "ip"
        As for `VQIndex`.
    codec : str, default "turboquant-prod"
        As for `VQIndex`.
    sketch : str, optional
        As for `VQIndex`.
    rotation : str, default "hadamard"
        As for `VQIndex`.
    seed : int, default 0
        As for `VQIndex`.
    keep_vectors : str, optional
        As for `VQIndex`.
    center : array-like of float, shape (dim,), or "mean", optional
        As for `VQIndex`. "mean" is the mean of all vectors, which this call reads.
    dataset : str, optional
        Which dataset, key or column of the file has the vectors.
    ids : str or path, optional
        A .npy file of distinct ids, integers or strings; with `ids_column` a file with columns.
    ids_column : str, optional
        A column of `ids`, or of `data` if `ids` is not given.
    shard_rows : int, optional
        Rows of a shard, a multiple of 64. By default a sixteenth of all rows, but 65,536 at least, and no more than
        have 256 MiB of codes.
    meta : dict, optional
        Notes in JSON types that the store gets (`VQIndex.meta`).

    Returns
    -------
    BuildPlan

    Raises
    ------
    InvalidInputError
        If a parameter is out of range, there are no vectors, or a build of other data, parameters or version of vqindex
        was begun there.
    FileExistsError
        If the folder holds a store already.
    """
    folder, path = as_path(output), as_path(data)
    id_path = None if ids is None and ids_column is None else as_path(data if ids is None else ids)
    with open_rows(str(path), dataset) as source:
        rows, dim = source.shape
        if rows == 0:
            raise InvalidInputError(f"{path} has no vectors; expected at least one")
        spec, kind = IndexSpec(dim, bits, metric, codec, sketch, rotation, seed), as_kind(keep_vectors)
        centering = Centering.of(spec, center)
        plan = BuildPlan(
            output=str(folder.absolute()),
            data=str(path.absolute()),
            dataset=dataset,
            identity=identity_of(str(path), None if id_path is None else str(id_path)),
            rows=rows,
            shard_rows=_shard_rows(shard_rows, rows, spec, kind),
            spec=spec.as_dict(),
            keep_vectors=kind,
            center=centering.text,
            asked_center=centering.text,
            ids=None if id_path is None else str(id_path.absolute()),
            ids_column=ids_column,
            meta=dict(meta or {}),
        )
        begun = _begun(folder, plan, is_asked=shard_rows is not None)
        if begun is not None:
            return begun
        if plan.ids is not None:
            open_ids(plan.ids, ids_column, rows)  # refuses another number of ids
        watch = OffsetWatch()
        for _, chunk in VectorSource(Rows(source, 0, min(rows, OffsetWatch.FEWEST)), dim).chunks():
            centering.look_for_offset(on_host(chunk), watch)
        plan = replace(plan, center=centering.settled(VectorSource(Rows(source, 0, rows), dim)).text)
    return _begin(folder, plan)


def _shard_rows(asked: int | None, rows: int, spec: IndexSpec, kind: str | None) -> int:
    if asked is not None:
        if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1 or asked % _BLOCK:
            raise InvalidInputError(f"shard_rows is {asked!r}; expected a multiple of {_BLOCK}")
        return asked
    vector_bytes = 0 if kind is None else Originals(spec.dim, kind).bytes_per_vector
    most = max(1, MERGE_BYTES // (spec.bytes_per_vector + vector_bytes) // _BLOCK)
    share = -(-max(_FEWEST_ROWS, -(-rows // _FEWEST_SHARDS)) // _BLOCK)
    return _BLOCK * min(most, share)


def _begun(folder: Path, asked: BuildPlan, *, is_asked: bool = True) -> BuildPlan | None:
    """Return the plan of a build that was begun in a folder, if it is the one that was asked for.

    `is_asked` says whether the number of rows in a shard was asked for.
    """
    directory = LocalDirectory(folder)
    begun = load_plan(folder)
    if begun is None:
        if directory.version(MANIFEST) is not None:
            raise FileExistsError(f"{folder} holds an index already; expected a new folder")
        if directory.path.is_dir() and any(map(is_ours, directory.names())):
            raise FileExistsError(f"{folder} holds files of an index, but no manifest; expected a new folder")
        return None
    # The notes may differ: they may hold times.
    other = {"meta", "center", *(() if is_asked else ("shard_rows",))}
    for name, value in asdict(asked).items():
        found = getattr(begun, name)
        if name in other or found == value:
            continue
        shown = "the data or ids of" if name == "identity" else f"{name} {value!r} for"
        raise InvalidInputError(f"{folder} holds an unfinished build with {name} {found!r}; expected {shown} this one")
    return begun


def _begin(folder: Path, plan: BuildPlan) -> BuildPlan:
    """Write a plan to the folder of its store; return it, or the same one that another process wrote first."""
    directory = LocalDirectory(folder)
    directory.make_folder()
    name, file = directory.create_temporary(BUILD_PLAN)
    try:
        try:
            file.write(plan.to_json().encode())
            file.sync()
            os.link(directory.fetch(name), directory.path / BUILD_PLAN)  # fails if there is one, as a rename does not
        finally:
            file.close()
            directory.remove(name)
    except FileExistsError:
        begun = _begun(folder, plan)
        return plan if begun is None else begun
    directory.sync()
    return plan


def load_plan(output: str | os.PathLike[str]) -> BuildPlan | None:
    """Return the plan of the unfinished build in a folder.

    Parameters
    ----------
    output : str or path
        The folder.

    Returns
    -------
    BuildPlan or None
        None if there is no unfinished build.

    Raises
    ------
    InvalidInputError
        If the file is no plan.
    """
    directory = LocalDirectory(as_path(output))
    if directory.version(BUILD_PLAN) is None:
        return None
    try:
        text = directory.read(BUILD_PLAN, 0, directory.size(BUILD_PLAN)).decode()
        return BuildPlan.from_json(text)
    except (InvalidInputError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{directory.describe(BUILD_PLAN)}: {error}") from None


def discard_build(output: str | os.PathLike[str]) -> None:
    """Remove an unfinished build in a folder, or the index there. The folder stays.

    Parameters
    ----------
    output : str or path
        The folder; nothing happens if there is none.

    Raises
    ------
    StoreError
        If another process has the index open for writing.
    """
    directory = LocalDirectory(as_path(output))
    if directory.path.is_dir() and directory.version(BUILD_PLAN) is not None:
        directory.remove(BUILD_PLAN)
        directory.sync()
    discard_store(directory.folder)
