"""Filters of documents: the nodes of their trees, the dialect they are parsed from, and what they mean.

Adapters of frameworks build a tree from their own dialects, `parse` builds it from mappings such as
``{"year": {"$gt": 2020}, "lang": "en"}``. `matches` says whether one document satisfies a filter.
"""

from .dialect import parse
from .meaning import matches
from .tree import (
    And,
    Between,
    Compare,
    Contains,
    Custom,
    Empty,
    Exists,
    Field,
    Filter,
    Ids,
    In,
    Like,
    Not,
    Or,
    Path,
    Scalar,
    Source,
    TextMatch,
)

__all__ = [
    "And",
    "Between",
    "Compare",
    "Contains",
    "Custom",
    "Empty",
    "Exists",
    "Field",
    "Filter",
    "Ids",
    "In",
    "Like",
    "Not",
    "Or",
    "Path",
    "Scalar",
    "Source",
    "TextMatch",
    "matches",
    "parse",
]
