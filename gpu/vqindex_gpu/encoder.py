"""Encoder: encode rows and prepare queries of one codec on one device."""

from __future__ import annotations

from typing import Any

import numpy as np

from vqindex.codes.codec import Codec
from vqindex.codes.encoded import Encoded, Queries
from vqindex.codes.rotation import Hadamard
from vqindex.codes.trellis import FRACTION, PEAK, Trellis

from .device import Device
from .launchers import encode, finish, prepare, rotation, viterbi
from .tables import Tables

__all__ = ["Encoder"]

_ENCODE_BYTES = 2**27  # rotated rows that the trellis encoder holds at a time


class Encoder:
    """Rows to codes, and queries to integers.

    Parameters
    ----------
    device : Device
        Where the kernels run.
    codec : Codec
        Tables of the spec.
    tables : Tables
        The same on the device.
    """

    def __init__(self, device: Device, codec: Codec, tables: Tables) -> None:
        self._device, self._codec, self._spec, self._tables = device, codec, codec.spec, tables
        self._cosine = codec.spec.metric == "cosine"

    @property
    def supports_codec(self) -> bool:
        """Whether kernels encode with this codec.

        They do for Hadamard rotations without a second projection, if a vector fits in shared memory.
        """
        has_kernel = isinstance(self._codec.rotation, Hadamard) and not self._codec.has_sketch
        return has_kernel and rotation.shared_bytes(self._spec.dim) <= self._device.shared_bytes

    def encode(self, vectors: Any) -> Encoded:
        """Encode a device array of finite float32 rows, (n, d); returns device arrays."""
        n, device = vectors.shape[0], self._device
        codes = device.empty((n, self._spec.code_bytes), np.uint8)
        rescale = device.empty((n,), np.float32)
        norm = device.empty((n,), np.float32) if self._spec.stores_norm else None
        out = Encoded(codes, rescale, norm)
        if n and self._codec.trellis is None:
            self._encode_scalar(vectors, out)
        elif n and self._codec.trellis is not None:
            step = max(1, _ENCODE_BYTES // (4 * self._spec.dim))
            for start in range(0, n, step):
                at = slice(start, start + step)
                self._encode_trellis(vectors[at], out.select(at), self._codec.trellis)
        return out

    def _encode_scalar(self, vectors: Any, out: Encoded) -> None:
        args = encode.ScalarArgs(
            vectors=vectors,
            rotation=self._tables.rotation,
            cosine=self._cosine,
            norm=out.norm,
            thresholds=self._tables.thresholds,
            levels=self._tables.levels,
            bits=self._spec.bits,
            renormalized=self._codec.renormalized,
            cell_scale=float(self._codec.cell_scale),
            codes=out.codes,
            code_bytes=self._spec.code_bytes,
            rescale=out.rescale,
        )
        encode.launch(self._device, args)

    def _encode_trellis(self, vectors: Any, out: Encoded, trellis: Trellis) -> None:
        device, tables, dim, n = self._device, self._tables, self._spec.dim, vectors.shape[0]
        rotated, values = device.empty((n, dim), np.float32), device.empty((n, dim), np.int16)
        norm2, shift = device.empty((n,), np.float64), device.empty((n,), np.int32)
        rotate = encode.TrellisArgs(
            vectors=vectors,
            rotation=tables.rotation,
            cosine=self._cosine,
            norm=out.norm,
            value_scale=FRACTION / trellis.step,
            peak=PEAK,
            rotated=rotated,
            values=values,
            norm2=norm2,
            shift=shift,
        )
        encode.launch(device, rotate)

        fields = device.empty((n, self._spec.fields), np.uint8)
        search = viterbi.Args(
            values=values,
            rows=n,
            dim=dim,
            levels=tables.level_bytes,
            limit=trellis.limit,
            start_mask=trellis.start_mask,
            choices=device.empty(viterbi.choices_shape(n, dim, trellis), np.uint8),
            fields=fields,
        )
        viterbi.launch(device, search, trellis)

        pack = finish.Args(
            rotated=rotated,
            norm2=norm2,
            shift=shift,
            fields=fields,
            levels=tables.level_bytes,
            dim=dim,
            bits=trellis.bits,
            warmup_fields=trellis.warmup_fields,
            has_signs=trellis.has_signs,
            cosine=self._cosine,
            codes=out.codes,
            code_bytes=self._spec.code_bytes,
            rescale=out.rescale,
        )
        finish.launch(device, pack)

    def prepare(self, queries: Any) -> Queries:
        """Rotate and round a device array of finite float32 queries; only `code_query` stays on the device."""
        nq, device = queries.shape[0], self._device
        code_query = device.empty((nq, self._spec.dim), np.int16)
        scale, norm = device.empty((nq,), np.float32), device.empty((nq,), np.float32)
        if nq:
            prepare.launch(device, prepare.Args(queries, self._tables.rotation, self._cosine, code_query, scale, norm))
        return Queries(code_query, device.download(scale), None, None, device.download(norm))
