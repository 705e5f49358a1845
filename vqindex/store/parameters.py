"""The parameters of an index: those of a new one, and whether a caller's are those of one that is there."""

from __future__ import annotations

from typing import Any

from ..center import Centering
from ..errors import InvalidInputError
from ..linking import as_rule
from ..rows.originals import as_kind
from ..spec import IndexSpec
from .entries import GraphEntry
from .manifest import Manifest

__all__ = ["check_parameters", "first_manifest"]

_OF_NO_SPEC = ("keep_vectors", "center", "graph")


def first_manifest(parameters: dict[str, Any]) -> Manifest:
    """Return the manifest of a new index."""
    spec = IndexSpec(**{name: value for name, value in parameters.items() if name not in _OF_NO_SPEC})
    links = parameters.get("graph")
    return Manifest(
        spec,
        as_kind(parameters.get("keep_vectors")),
        center=Centering.of(spec, parameters.get("center")).text,
        graph=None if links is None else GraphEntry(as_rule("graph", links, spec)),
    )


def check_parameters(where: str, manifest: Manifest, parameters: dict[str, Any]) -> None:
    """Raise InvalidInputError for parameters that differ from those of the index."""
    links = None if manifest.graph is None else manifest.graph.rule.slots
    stored = {**manifest.spec.as_dict(), "keep_vectors": manifest.keep_vectors, "graph": links}
    stored_center = Centering.from_text(manifest.spec, manifest.center)
    center = Centering.of(manifest.spec, parameters.get("center"))
    if center.on and center.text != stored_center.text and not (center.pending and stored_center.on):
        raise InvalidInputError(f"center is {center.describe()}; the index in {where} has {stored_center.describe()}")
    for name, value in parameters.items():
        if name != "center" and stored[name] != value:
            raise InvalidInputError(f"{name} is {value!r}; the index in {where} has {stored[name]!r}")
