"""Any shapes, values, types and strides through add and search: every instruction set equals the reference bit for bit,
and what is refused changes nothing."""

import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vqindex import InvalidInputError, VQIndex
from vqindex._native import supported_isas
from vqindex.spec import METRICS

# Values of any kind may have an offset that dwarfs their spread.
pytestmark = pytest.mark.filterwarnings("ignore::vqindex.OffsetWarning")

# Those that promise equal bits everywhere: no dense matrix products.
PORTABLE = (
    ("turboquant-prod", "shared"),
    ("turboquant-prod", "orthogonal"),
    ("turboquant-mse", None),
    ("trellis", None),
)
ALL = (*PORTABLE, ("turboquant-prod", "gaussian"), ("qjl", None))
LARGE_DIMS = (255, 256, 257, 384, 513, 1000, 1536, 3072)
BLOCK = 64
DTYPES = ("f2", "f4", "f8", ">f4", "i1", "u1", "i2", ">i4", "u4", "i8")
LIMIT = float(2**62)  # of norms, but for cosine
EXAMPLES = int(os.environ.get("VQINDEX_TEST_FUZZ", "300"))  # of indexes; fewer where each takes long


def native(isa, *args, **kwargs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQINDEX_ISA", isa)
        index = VQIndex(*args, device="native", **kwargs)
    assert index._backend.isa == isa
    return index


@st.composite
def specs(draw, codecs=PORTABLE):
    codec, sketch = draw(st.sampled_from(codecs), "codec")
    dim = draw(st.one_of(st.integers(1, 130), st.sampled_from(LARGE_DIMS)), "dim")
    bits = draw(st.integers(1, 4 if codec == "trellis" else 8), "bits")
    metric = draw(st.sampled_from(METRICS), "metric")
    return (dim, bits, metric), {"codec": codec, "sketch": sketch, "seed": draw(st.integers(0, 3), "seed")}


@st.composite
def row_counts(draw, most=5):
    """Counts around the ends of blocks of 64, tiles of 128 and groups of 256."""
    near = st.builds(lambda blocks, off: max(0, blocks * BLOCK + off), st.integers(0, most), st.integers(-2, 2))
    return draw(st.one_of(near, st.integers(0, most * BLOCK)), "rows")


KINDS = ("plain", "repeated", "zero", "negative zero", "subnormal", "tiny", "huge", "one-hot", "constant", "mixed")


def rows_of(kind, n, dim, metric, rng):
    """Float32 rows whose values are the hard ones of their kind."""
    x = rng.standard_normal((n, dim)).astype(np.float32)
    if kind == "mixed":
        pools = [rows_of(other, n, dim, metric, rng) for other in KINDS[:-1]]
        return np.stack(pools)[rng.integers(0, len(pools), n), np.arange(n)] if n else x
    if kind == "repeated" and n:
        return x[rng.integers(0, 1 + n // 9, n)]
    if kind == "one-hot":
        return np.eye(dim, dtype=np.float32)[rng.integers(0, dim, n)] * rng.choice(np.float32([1, -1, 3e-39, 1e18]))
    if kind == "constant":
        return np.repeat(x[:, :1], dim, axis=1)
    if kind in ("zero", "negative zero"):
        x[rng.random(n) < 0.5] = 0.0 if kind == "zero" else -0.0
        return x
    # Without its norm a vector may be as long as float32 goes; with it, a norm just under 2^62 is the longest.
    largest = np.finfo(np.float32).max if metric == "cosine" else LIMIT * 0.99
    to = {"plain": 1.0, "subnormal": 1e-42, "tiny": 1e-36, "huge": largest}.get(kind, 1.0)
    longest = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    return (x / np.maximum(longest, 1e-9) * to).astype(np.float32) if kind != "plain" else x


@st.composite
def arrays(draw, n, dim, metric, seed):
    """Rows as users may have them, and the same as contiguous float32."""
    rng = np.random.default_rng(seed)
    kind = draw(st.sampled_from(KINDS), "kind")
    dtype = np.dtype(draw(st.sampled_from(DTYPES), "dtype"))
    if dtype.kind in "iu":
        low, high = max(np.iinfo(dtype).min, -(2**31)), min(np.iinfo(dtype).max, 2**31 - 1)
        x = rng.integers(low, high, (n, dim), endpoint=True).astype(dtype)
    elif dtype.itemsize == 2:
        x = np.clip(rows_of(kind, n, dim, metric, rng), -6e4, 6e4).astype(dtype)
    else:
        x = rows_of(kind, n, dim, metric, rng).astype(dtype)
    plain = np.ascontiguousarray(x, np.float32)
    layout = draw(
        st.sampled_from(("as it is", "columns", "steps", "backwards", "frozen", "broadcast", "list")), "layout"
    )
    if layout == "columns":
        x = np.asfortranarray(x)
    elif layout == "steps":
        wide = np.full((2 * n, 3 * dim), 1, dtype)
        wide[::2, 1::3] = x
        x = wide[::2, 1::3]
    elif layout == "backwards":
        x = np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]
    elif layout == "frozen":
        x.setflags(write=False)
    elif layout == "broadcast" and n:
        x = np.broadcast_to(x[:1], (n, dim))
        plain = np.ascontiguousarray(x, np.float32)
    elif layout == "list" and n * dim < 4000:
        x = x.tolist()
        plain = np.array(x, np.float32).reshape(n, dim)
    return x, plain


def assert_equal(got, want, what):
    assert got.dtype == want.dtype, what
    assert got.shape == want.shape, what
    assert got.tobytes() == want.tobytes(), what


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data())
def test_any_index_answers_as_the_reference_does(data):
    args, kwargs = data.draw(specs(), "spec")
    dim, _, metric = args
    counts = data.draw(st.lists(row_counts(most=2 if dim > 300 else 5), max_size=3), "adds")
    nq = data.draw(st.integers(0, 9), "queries")
    parts = [data.draw(arrays(n, dim, metric, seed)) for seed, n in enumerate(counts)]
    queries, plain_queries = data.draw(arrays(nq, dim, metric, 99))
    k = data.draw(st.integers(1, sum(counts) + 3), "k")
    confidence = data.draw(st.sampled_from((None, 1, 0.999, 0.9, 0.51)), "confidence")
    threads = data.draw(st.sampled_from((None, 1, 2, 3, 8)), "threads")
    reference = VQIndex(*args, device="reference", **kwargs)
    reference.add(np.concatenate([np.empty((0, dim), np.float32), *(plain for _, plain in parts)]))
    want = reference.search(plain_queries, k, confidence=confidence)
    ids = np.arange(reference.ntotal)[:: max(1, reference.ntotal // 40)]
    for isa in supported_isas():
        index = native(isa, *args, **kwargs)
        for rows, _ in parts:
            index.add(rows)
        got = index.search(queries, k, confidence=confidence, threads=threads)
        for name, one, other in zip(("scores", "ids"), got, want, strict=True):
            assert_equal(one, other, f"{name} on {isa}")
        assert_equal(index.reconstruct(ids), reference.reconstruct(ids), f"vectors on {isa}")


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
SMALL = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=FLOATS)


@settings(max_examples=300, deadline=None)
@given(st.data(), SMALL, st.sampled_from(METRICS), st.integers(1, 4), st.sampled_from(PORTABLE))
def test_any_values_give_the_answers_or_the_error_of_the_reference(data, x, metric, bits, codec):
    """Values that nobody chose; those that are too long for the metric are refused, by all alike."""
    q = data.draw(hnp.arrays(np.float32, (2, x.shape[1]), elements=FLOATS), "queries")
    kwargs = {"codec": codec[0], "sketch": codec[1]}
    made = [VQIndex(x.shape[1], bits, metric, device="reference", **kwargs)]
    made += [native(isa, x.shape[1], bits, metric, **kwargs) for isa in supported_isas()]
    outcomes = []
    for index in made:
        with np.errstate(over="ignore"):
            try:
                index.add(x)
                outcomes.append([part.tobytes() for part in index.search(q, len(x) + 1, confidence=0.9)])
            except InvalidInputError as error:
                outcomes.append([str(error), index.ntotal])
    assert all(outcome == outcomes[0] for outcome in outcomes[1:]), supported_isas()


# ---- what is refused


def spoiled(x, row, column, how):
    """Rows with one thing wrong."""
    if how in ("nan", "inf", "-inf"):
        bad = x.copy()
        bad[row, column] = float(how)
        return bad
    if how == "beyond float32":
        bad = x.astype(np.float64)
        bad[row, column] = -1e39
        return bad
    if how == "a norm of 2^62":
        bad = x.copy()
        bad[row] = 0
        bad[row, column] = LIMIT
        return bad
    if how == "columns":
        return np.concatenate([x, x[:, :1]], axis=1)
    if how == "one dimension":
        return x.ravel()
    if how == "three dimensions":
        return x[None]
    kinds = {"complex": np.complex64, "boolean": bool, "text": "U5", "object": object, "time": "m8[s]"}
    return x.astype(np.int64).astype(kinds[how]) if how == "time" else x.astype(kinds[how])


ANY = ("nan", "inf", "-inf", "beyond float32", "complex", "boolean", "text", "object", "time", "columns")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_bad_input_raises_and_changes_nothing(data):
    (dim, bits, metric), kwargs = data.draw(specs(ALL), "spec")
    dim = min(dim, 300)
    isa = data.draw(st.sampled_from(supported_isas()), "isa")
    index = native(isa, dim, bits, metric, **kwargs)
    rng = np.random.default_rng(0)
    explicit = data.draw(st.booleans(), "ids")
    held = data.draw(st.integers(1, 70), "held")
    index.add(rng.standard_normal((held, dim)), ids=np.arange(held) * 7 + 1 if explicit else None)
    queries = rng.standard_normal((2, dim)).astype(np.float32)
    before = index.search(queries, held), index.reconstruct(index.ids), index.ids.copy()

    n = data.draw(st.integers(1, 70), "rows")
    x = rng.standard_normal((n, dim)).astype(np.float32)
    row, column = data.draw(st.integers(0, n - 1), "row"), data.draw(st.integers(0, dim - 1), "column")
    new_ids = np.arange(n) + 1000 if explicit else None
    what = data.draw(st.sampled_from(("rows", "queries", "ids", "k", "threads", "confidence")), "what")
    if what == "rows":
        hows = (*ANY, "one dimension", "three dimensions", *(() if metric == "cosine" else ("a norm of 2^62",)))
        bad = spoiled(x, row, column, data.draw(st.sampled_from(hows), "how"))
        with pytest.raises(InvalidInputError):
            index.add(bad, ids=new_ids)
    elif what == "queries":
        hows = (*ANY, "three dimensions", *(() if metric == "cosine" else ("a norm of 2^62",)))
        bad = spoiled(x, row, column, data.draw(st.sampled_from(hows), "how"))
        with pytest.raises(InvalidInputError):
            index.search(bad, 3)
    elif what == "ids":
        wrong = [np.arange(n + 1) + 1000, np.full(n, -1), np.arange(n) + 0.5, np.arange(n)[None] + 1000]
        wrong.append(np.concatenate([np.arange(n - 1) + 1000, [1 if explicit else 0]]))  # there already
        if n > 1:
            wrong.append(np.full(n, 1000))
        with pytest.raises(InvalidInputError):
            index.add(x, ids=data.draw(st.sampled_from(wrong), "ids"))
    else:
        wrong = {
            "k": [0, -1, 2**31, 2.0, True, "3", None],
            "threads": [0, -2, 1.0, True, "2"],
            "confidence": [0, 0.5, 1.0001, -1, math.nan, math.inf, "1", True],
        }[what]
        with pytest.raises(InvalidInputError):
            index.search(x, **{what: data.draw(st.sampled_from(wrong), "value")})

    assert index.ntotal == held
    np.testing.assert_array_equal(index.ids, before[2])
    for one, other in zip(index.search(queries, held), before[0], strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(index.reconstruct(index.ids), before[1])
    index.add(x, ids=new_ids)  # and it still takes what is right
    assert index.ntotal == held + n


@pytest.mark.parametrize("held", [0, 1, 63, 64, 65, 300])
def test_a_refused_add_leaves_no_trace_in_the_file(held, tmp_path, monkeypatch):
    """Rows of chunks before the bad one were written into the store's spare room, next to rows that stay."""
    monkeypatch.setattr("vqindex.arrays._CHUNK_VALUES", 50 * 20)
    x = np.random.default_rng(0).standard_normal((900, 20)).astype(np.float32)
    paths = []
    for name in ("tried", "clean"):
        index = VQIndex(20, 4, "ip")
        index.add(x[:held])
        if name == "tried":
            bad = x[300:].copy()
            bad[-1, 3] = np.nan
            with pytest.raises(InvalidInputError, match=r"vectors\[599, 3\] is nan"):
                index.add(bad)
            assert index.ntotal == held
        index.add(x[300:307])
        paths.append(tmp_path / name)
        index.save(paths[-1])
    assert paths[0].read_bytes() == paths[1].read_bytes()
