"""The parameters of a store's index: checked before there is one, and kept in the table ``about``."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..center import Centering
from ..linking import as_rule
from ..rows.originals import as_kind
from ..spec import IndexSpec
from .database import about, set_about

__all__ = ["check_parameters", "set_graph", "spec_of", "store_parameters", "stored_graph", "stored_parameters"]


def check_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a new index, all but `dim` and `center` with their defaults, checked."""
    given = {name: value for name, value in parameters.items() if value is not None}
    spec = spec_of(given)
    Centering.of(spec, given.get("center")) if "dim" in given or isinstance(given.get("center"), str) else None
    as_kind(given.get("keep_vectors"))
    if "graph" in given:
        as_rule("graph", given["graph"], spec)
    fields = spec.as_dict()
    return {**{name: value for name, value in fields.items() if name != "dim"}, **given}


def spec_of(parameters: Mapping[str, Any]) -> IndexSpec:
    """Return the spec of an index with some parameters, of one coordinate if `dim` is not among them."""
    names = ("bits", "metric", "codec", "sketch", "rotation", "seed")
    return IndexSpec(parameters.get("dim", 1), **{name: parameters[name] for name in names if name in parameters})


def store_parameters(database: sqlite3.Connection, parameters: Mapping[str, Any]) -> None:
    """Write the parameters of a store's index."""
    values = dict(parameters)
    if "center" in values and not isinstance(values["center"], str):
        values["center"] = base64.b64encode(np.asarray(values["center"], "<f4").tobytes()).decode()
    set_about(database, "parameters", json.dumps(values))


def stored_parameters(database: sqlite3.Connection) -> dict[str, Any]:
    """Return the parameters of a store's index."""
    values: dict[str, Any] = json.loads(str(about(database, "parameters")))
    center = values.get("center")
    if center is not None and center != "mean":
        values["center"] = np.frombuffer(base64.b64decode(center), "<f4").astype(np.float32)
    return values


def stored_graph(database: sqlite3.Connection) -> int | None:
    """Return how many links a row has in the graph of a store; None without a graph."""
    links: int | None = json.loads(str(about(database, "parameters"))).get("graph")
    return links


def set_graph(database: sqlite3.Connection, links: int | None) -> None:
    """Write how many links a row has in the graph of a store; None for no graph."""
    values: dict[str, Any] = json.loads(str(about(database, "parameters")))
    values.pop("graph", None)
    set_about(database, "parameters", json.dumps(values if links is None else {**values, "graph": links}))
