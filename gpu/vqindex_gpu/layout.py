"""How rows lie in device memory: the sizes that kernels/layout.cuh draws."""

from __future__ import annotations

from typing import NamedTuple

from vqindex.codes.codec import Codec

__all__ = ["CHUNK_BYTES", "GROUP", "TILE_ROWS", "Layout"]

TILE_ROWS = 64
GROUP = 8  # queries of a fragment
CHUNK_BYTES = 32
_CHUNK_BITS = 8 * CHUNK_BYTES


class Layout(NamedTuple):
    """Sizes of one codec's rows on the device.

    Attributes
    ----------
    bits, slot : int
        Bits of a field, and of the slot it lies in.
    fields, coordinates : int
        Fields of a row, and coordinates of a query that meet them (a trellis has fields in front).
    chunks, used : int
        32-byte chunks of a row, and those of them that hold coordinates.
    """

    bits: int
    slot: int
    fields: int
    coordinates: int
    chunks: int
    used: int

    @classmethod
    def of(cls, codec: Codec) -> Layout:
        """Return the layout of a codec's rows."""
        spec = codec.spec
        if spec.codec == "qjl":
            bits, fields, coordinates = 1, codec.signs, codec.signs
        else:
            bits, fields, coordinates = spec.bits, spec.fields, spec.dim
        slot = {1: 1, 2: 2, 3: 4, 4: 4}.get(bits, 8)
        sizes = (-(-total * slot // _CHUNK_BITS) for total in (fields, coordinates))
        return cls(bits, slot, fields, coordinates, *sizes)

    @property
    def steps(self) -> int:
        """Matrix steps of 32 coordinates in a chunk."""
        return 8 // self.slot

    @property
    def tile_words(self) -> int:
        """64-bit words of a tile."""
        return TILE_ROWS * self.chunks * CHUNK_BYTES // 8
