"""What tests of the graph share: rows as records and as the definition sees them, and made-up links in files."""

import numpy as np

from vqindex.backends.cpu import NativeBackend
from vqindex.codes.graph import NO_ROW, NarrowRows, narrow_levels
from vqindex.codes.records import RecordLayout
from vqindex.file_format import FileContents
from vqindex.rows.graph import Graph


def record_layout(spec):
    """Return (size, sign_bytes, code_at, code_bytes, rescale_at, norm_at or -1) of the records of a spec."""
    layout = RecordLayout.of(spec)
    return tuple(layout._replace(norm_at=-1) if layout.norm_at is None else layout)


def narrow_rows(reference, rows):
    """Return code rows as the definition sees them."""
    levels, multiplier = narrow_levels(reference._levels(rows.codes))
    return NarrowRows(levels, multiplier, rows.rescale, rows.norm, reference.spec.metric == "ip")


def graph_scanner(backend: NativeBackend):
    """Return the scanner that reads records."""
    return backend._scanner if backend._decoder is None else backend._decoder


def blocks_of(records, cuts):
    """Return records in several arrays, which end after `cuts` blocks of 64 rows."""
    edges = [cut * 64 for cut in cuts if cut * 64 < len(records)]
    return [np.ascontiguousarray(part) for part in np.split(records, edges)]


def made_up_graph(linked, slots):
    """Return a graph in which row r has r % (slots + 1) links, to the rows after it."""
    rows = np.arange(linked)[:, None]
    places = np.arange(slots)
    links = (rows + 1 + places) % max(1, linked)
    is_used = (places < rows % (slots + 1)) & (links != rows) & (places + 1 < linked)
    return Graph.pack(np.where(is_used, links, NO_ROW).astype(np.uint32))


def file_with_graph(index, graph=None):
    """Return what a file of an index holds if its rows are records."""
    contents = index._contents.compacted()
    contents = contents._replace(rows=contents.rows.converted(records=True))
    return FileContents(index._encoder.centering, contents.segments(), dict(index.meta), contents.ids.next_id, graph)
