"""Checks of the GPU engine, which tests run on the emulator and, with -m gpu, on a device."""

import itertools

import numpy as np
from backend_search import top_k
from scans import in_records

from vqindex.backends.reference import ReferenceBackend
from vqindex.codes.bitplanes import split
from vqindex.codes.codec import Codec
from vqindex.spec import IndexSpec


def codec_of(dim, bits, metric="ip", **kwargs):
    return Codec(IndexSpec(dim, bits, metric, seed=3, **kwargs))


def same(got, want, what=""):
    """Assert equal types, shapes and bits."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == want.dtype, what
    assert got.shape == want.shape, what
    wrong = np.argwhere(np.atleast_1d(got.view(f"u{got.itemsize}") != want.view(f"u{want.itemsize}")))
    assert not wrong.size, f"{what}: {len(wrong)} differ, first at {wrong[0]}: {got[tuple(wrong[0])]}"


def encodes_like_the_reference(engine, vectors):
    """Assert that codes, rescales, norms and prepared queries equal the reference's."""
    device, reference = engine.device, ReferenceBackend(engine.codec)
    on_device = device.upload(vectors)
    got, want = engine.encode(on_device), reference.encode(vectors)
    for name, ours, theirs in zip(want._fields, got, want, strict=True):
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            same(device.download(ours), theirs, name)
    prepared, expected = engine.prepare(on_device), reference.prepare(vectors)
    same(device.download(prepared.code_query), expected.code_query, "code_query")
    for name in ("code_scale", "norm"):
        same(getattr(prepared, name), getattr(expected, name), name)


def stored(codec, vectors, cuts=(), *, records=False):
    """Encode with the reference, and cut the rows into several stored ones."""
    rows = ReferenceBackend(codec).encode(vectors)
    edges, layout = [0, *cuts, len(vectors)], in_records if records else split
    return [layout(codec.spec, rows.select(slice(*edge))) for edge in itertools.pairwise(edges)]


def searches_like_the_reference(backend, blocks, queries, k, confidence=1.0, **kwargs):
    """Assert that scores, rows, rank scores and their order equal the reference's."""
    reference = ReferenceBackend(backend.codec)
    prepared = reference.prepare(queries)
    got = top_k(backend, prepared, blocks, k, confidence, **kwargs)
    want = top_k(reference, prepared, blocks, k, confidence, **kwargs)
    same(got[1], want[1], "rows")
    same(got[0], want[0], "scores")
    same(got[2], want[2], "rank scores")
    return got
