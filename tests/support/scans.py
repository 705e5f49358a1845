"""What tests of the scan share: the backends to compare, and rows generated from a few parameters."""

import itertools
from functools import cache

import numpy as np
import pytest

from vqindex._native import supported_isas
from vqindex.backends.cpu import NativeBackend
from vqindex.backends.reference import ReferenceBackend
from vqindex.codes.bitplanes import split
from vqindex.codes.codec import Codec
from vqindex.codes.encoded import Encoded
from vqindex.codes.packing import pack
from vqindex.codes.records import pack_records, stored_records

SCALAR_CODES = [(codec, bits) for codec in ("turboquant-prod", "turboquant-mse") for bits in range(1, 9)]
CODES = [*SCALAR_CODES, *(("trellis", bits) for bits in range(1, 5))]
every_isa = pytest.mark.parametrize("isa", supported_isas())


def native_backend(isa, codec):
    """Return a compiled backend that uses one instruction set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQINDEX_ISA", isa)
        backend = NativeBackend(codec)
    assert backend._scanner.isa == isa
    return backend


@cache
def backends(spec):
    """Return the reference and one compiled backend for each instruction set."""
    codec = Codec(spec)
    return ReferenceBackend(codec), {isa: native_backend(isa, codec) for isa in supported_isas()}


def make_rows(kind, n, dim, seed):
    """Return float32 rows (n, dim) of a kind: plain, ties, zeros, huge, tiny or mixed."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, dim)).astype(np.float32)
    if kind == "ties":
        x = x[rng.integers(0, max(1, n // 5), n)]
    elif kind == "zeros":
        x[rng.random(n) < 0.3] = 0
    elif kind != "plain":
        powers = {"huge": [1e18, 4e18], "tiny": [1e-30], "mixed": [1e18, 1e-30, 1, 1e5, 0]}[kind]
        x *= (rng.choice(powers, n) / np.sqrt(dim)).astype(np.float32)[:, None]
        norm = np.linalg.norm(x.astype(np.float64), axis=1)
        x *= np.minimum(1, 4.6e18 / np.maximum(norm, 1e-38)).astype(np.float32)[:, None]  # an index takes up to 2**62
    return x


def stored_segments(spec, rows, cuts):
    """Return the stored rows of several segments, which end after `cuts` blocks of 64 rows."""
    inner = {blocks * 64 for blocks in cuts if blocks * 64 < rows.rows}
    edges = sorted({0, *inner, rows.rows})
    return [split(spec, rows.select(slice(*pair))) for pair in itertools.pairwise(edges)]


def coded(spec, n, seed=0):
    """Return code rows of random fields. Their unused last bits are zero, as the encoder writes them."""
    rng = np.random.default_rng(seed)
    fields = rng.integers(0, 2**spec.bits, (n, spec.fields)).astype(np.uint8)
    if spec.has_sign_bits:
        fields[:, : spec.warmup_fields] &= 2 ** (spec.bits - 1) - 1
    rescale, norm = rng.random((2, n)).astype(np.float32)
    return Encoded(pack(fields, spec.bits), rescale, norm if spec.stores_norm else None)


def in_records(spec, rows):
    """Return code rows as stored rows with records, by the definition."""
    return stored_records(spec, split(spec, rows).signs, pack_records(spec, rows))
