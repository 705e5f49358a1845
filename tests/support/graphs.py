"""Indexes whose rows are records, and graphs of made-up links: for tests of layouts and files."""

import numpy as np

from vqindex.file_format import FileContents
from vqindex.rows.graph import NO_LINK, Graph


def made_up_graph(linked, slots):
    """Return a graph in which row r has r % (slots + 1) links, to the rows after it."""
    rows = np.arange(linked)[:, None]
    places = np.arange(slots)
    links = (rows + 1 + places) % max(1, linked)
    is_used = (places < rows % (slots + 1)) & (links != rows) & (places + 1 < linked)
    return Graph.pack(np.where(is_used, links, NO_LINK).astype(np.uint32))


def file_with_graph(index, graph=None, notes=None):
    """Return what a file of an index holds if its rows are records."""
    contents = index._contents.compacted()
    contents = contents._replace(rows=contents.rows.converted(records=True))
    return FileContents(
        index._encoder.centering, contents.segments(), dict(index.meta), contents.ids.next_id, graph, notes or {}
    )
