"""What tests of the graph share: rows as records and as the definition sees them, and made-up links in files."""

import numpy as np

from vqindex.backends.cpu import NativeBackend
from vqindex.codes.bitplanes import split
from vqindex.codes.graph import NO_ROW, NarrowRows, narrow_levels
from vqindex.file_format import FileContents
from vqindex.rows.graph import Graph


def record_layout(spec):
    """Return (size, sign_bytes, code_at, code_bytes, rescale_at, norm_at or -1) of the records of a spec."""
    has_signs = spec.codec == "trellis" and spec.has_sign_bits
    sign_bytes, code_bytes = (spec.sign_bytes, spec.row_bytes) if has_signs else (0, spec.code_bytes)
    rescale_at = -(-(sign_bytes + code_bytes) // 4) * 4
    end = rescale_at + (8 if spec.stores_norm else 4)
    size = next((size for size in (16, 32, 64) if end <= size), end)
    return size, sign_bytes, sign_bytes, code_bytes, rescale_at, rescale_at + 4 if spec.stores_norm else -1


def pack_records(spec, rows):
    """Return code rows as records, uint8 (n, size)."""
    size, sign_bytes, code_at, code_bytes, rescale_at, norm_at = record_layout(spec)
    records = np.zeros((rows.rows, size), np.uint8)
    codes = rows.codes
    if sign_bytes:
        stored = split(spec, rows)
        codes = stored.codes
        records[:, :sign_bytes] = np.swapaxes(stored.signs, 1, 2).reshape(-1, sign_bytes)[: rows.rows]
    records[:, code_at : code_at + code_bytes] = codes
    records[:, rescale_at : rescale_at + 4] = rows.rescale[:, None].view(np.uint8)
    if norm_at >= 0:
        records[:, norm_at : norm_at + 4] = rows.norm[:, None].view(np.uint8)
    return records


def narrow_rows(reference, rows):
    """Return code rows as the definition sees them."""
    levels, multiplier = narrow_levels(reference._levels(rows.codes))
    return NarrowRows(levels, multiplier, rows.rescale, rows.norm)


def graph_scanner(backend: NativeBackend):
    """Return the scanner that reads records."""
    return backend._scanner if backend._decoder is None else backend._decoder


def blocks_of(records, cuts):
    """Return records in several arrays, which end after `cuts` blocks of 64 rows."""
    edges = [cut * 64 for cut in cuts if cut * 64 < len(records)]
    return [np.ascontiguousarray(part) for part in np.split(records, edges)]


def packed_links(links, width):
    """Return links, uint32 (n, slots), in `width` bytes each."""
    n, slots = links.shape
    return np.ascontiguousarray(links.astype("<u4").view(np.uint8).reshape(n, slots, 4)[:, :, :width]).reshape(
        n, slots * width
    )


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
