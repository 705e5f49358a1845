"""LlamaIndex's nodes as documents, and back."""

from __future__ import annotations

import json
from typing import Any

from ..documents import Document
from ..errors import InvalidInputError
from ._extras import missing
from ._llama_index_filters import REF_DOC_ID

try:
    from llama_index.core.schema import BaseNode, MetadataMode, TextNode
    from llama_index.core.vector_stores.utils import metadata_dict_to_node
except ImportError as error:
    raise missing("llama-index-core", "llama-index", error) from error

__all__ = ["stored_parts", "to_node"]


def stored_parts(node: BaseNode) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return text, metadata and the other values of a node, all in JSON types.

    The text of a node of texts is stored once. Other nodes keep theirs among the other values.
    """
    if node.embedding is None:
        raise InvalidInputError(f"node {node.node_id!r} has no embedding; expected one")
    values = node.model_dump(mode="json", exclude={"embedding"})
    metadata = values.pop("metadata", {})
    if isinstance(node, TextNode):
        values.pop("text", None)
    more = {"node": values, "_node_type": node.class_name(), REF_DOC_ID: node.ref_doc_id}
    return node.get_content(MetadataMode.NONE), metadata, more


def to_node(document: Document) -> BaseNode:
    """Return a stored document as the node that it was, without its embedding."""
    more = document.more
    if "_node_content" in more:  # stored by an earlier version
        return metadata_dict_to_node(more)
    plain = {"id_": document.id}  # of a document that `vqindex.documents` wrote without this adapter
    values = {"text": document.text or "", **more.get("node", plain), "metadata": document.metadata}
    return metadata_dict_to_node({"_node_content": json.dumps(values), "_node_type": more.get("_node_type")})
