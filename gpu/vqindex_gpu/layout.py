"""Sizes and structures of device memory that Python and the kernels share; ``kernels/layout.cuh`` draws them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vqindex.codes.codec import Codec

__all__ = ["CHUNK_BYTES", "QUERY", "QUERY_GROUP", "SEGMENT", "TILE_ROWS", "Layout"]

TILE_ROWS = 64
QUERY_GROUP = 8  # queries of a B fragment
CHUNK_BYTES = 32
_CHUNK_BITS = 8 * CHUNK_BYTES

# struct vq_segment, with pointers as integers.
SEGMENT = np.dtype([(name, "<u8") for name in ("codes", "code_weight", "sketch_weight", "norm", "first_tile", "rows")])
# struct vq_query. bound.cu writes the last two fields, A and B of sign_bound.py.
QUERY = np.dtype([(name, "<f4") for name in ("code_scale", "sketch_scale", "norm", "bound_scale", "bound_offset")])


class Layout(NamedTuple):
    """Sizes of one codec's rows on the device.

    Attributes
    ----------
    bits, slot : int
        Bits of a field, and bits of the slot that holds it.
    fields, coordinates : int
        Fields of a row, and coordinates of a query. A trellis row has extra fields before the first coordinate's own.
    chunks, coordinate_chunks : int
        32-byte chunks of a row, and how many of them hold coordinates.
    window : int
        Bits of the window that looks up a trellis level; 0 for other codes.
    """

    bits: int
    slot: int
    fields: int
    coordinates: int
    chunks: int
    coordinate_chunks: int
    window: int = 0

    @classmethod
    def of(cls, codec: Codec) -> Layout:
        """Return the layout of a codec's rows."""
        spec = codec.spec
        if spec.codec == "qjl":
            bits, fields, coordinates = 1, codec.signs, codec.signs
        else:
            bits, fields, coordinates = spec.bits, spec.fields, spec.dim
        slot = {1: 1, 2: 2, 3: 4, 4: 4}.get(bits, 8)
        chunks, coordinate_chunks = (-(-total * slot // _CHUNK_BITS) for total in (fields, coordinates))
        window = 0 if codec.trellis is None else codec.trellis.window
        return cls(bits, slot, fields, coordinates, chunks, coordinate_chunks, window)

    @property
    def steps(self) -> int:
        """Matrix steps of 32 coordinates in a chunk."""
        return 8 // self.slot

    @property
    def tile_words(self) -> int:
        """64-bit words of a tile."""
        return TILE_ROWS * self.chunks * CHUNK_BYTES // 8

    def macros(self, sign_bound: bool) -> dict[str, int]:
        """Return the macros of the kernels that score rows of this layout, with or without the sign bound."""
        macros = {"SLOT": self.slot, "BITS": self.bits, "SIGN_BOUND": int(sign_bound)}
        return {**macros, "WINDOW": self.window} if self.window else macros
