"""Pairs above a threshold and graphs of neighbors: right, each once, and equal however they are computed."""

import numpy as np
import pytest
from cases import every_metric

import vqindex
from vqindex import InvalidInputError, Pairs, VQIndex
from vqindex.search import pairs as module
from vqindex.search.code_angles import CodeAngles

DIM, N = 48, 1500
NEAR = {"cosine": 0.9, "ip": 40.0, "l2": 14.0}
CODES = {"prod": {}, "prod-1": {"bits": 1}, "trellis": {"codec": "trellis"}, "mean": {"bits": 4, "center": "mean"},
         "orthogonal": {"bits": 3, "sketch": "orthogonal"}}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::vqindex.SlowCodecWarning")


def rows_with_near_ones(n=N, seed=1):
    """Return rows of which a fifth are others with more or less noise."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, DIM))
    near = n // 5
    x[-near:] = x[:near] + rng.uniform(0, 0.8, (near, 1)) * rng.standard_normal((near, DIM))
    return x.astype(np.float32)


X = rows_with_near_ones()


def made(metric="cosine", x=X, ids=None, **how):
    index = VQIndex(x.shape[1], how.pop("bits", 2), metric, **how)
    index.add(x, ids)
    return index


def found(index, threshold=0.9, **how):
    return Pairs.joined(index.near_pairs(threshold, **how))


def exact(metric, x=X):
    x = x.astype(np.float64)
    if metric == "cosine":
        x = x / np.linalg.norm(x, axis=1)[:, None]
    squares = (x**2).sum(axis=1)
    return squares[:, None] + squares - 2 * x @ x.T if metric == "l2" else x @ x.T


def same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


# ---- pairs


@every_metric
@pytest.mark.parametrize("code", CODES)
def test_pairs_by_codes_are_above_the_threshold_as_often_as_asked(metric, code):
    if metric == "ip" and "center" in CODES[code]:
        pytest.skip("the metric ip has no center")
    true, sign, right, held, share = exact(metric), -1 if metric == "l2" else 1, [], [], []
    for seed in range(3):
        pairs = found(made(metric, seed=seed, **CODES[code]), NEAR[metric], confidence=0.9)
        scores = sign * true[pairs.first, pairs.second]
        right.append(scores > sign * NEAR[metric])
        held.append(scores >= sign * pairs.bounds - 1e-4)
        share.append(right[-1].sum() / (sign * true[np.triu_indices(N, 1)] > sign * NEAR[metric]).sum())
    assert np.concatenate(right).mean() >= 0.9
    # Three rotations of some hundred pairs: the standard error of the share is about 0.02. The decay is rough.
    assert np.concatenate(held).mean() >= 0.82
    assert np.mean(share) > 0.3  # and most are not lost


@every_metric
@pytest.mark.parametrize("center", [None, "mean"])
def test_pairs_by_kept_vectors_are_all_pairs_and_their_scores_exact(metric, center):
    if metric == "ip" and center:
        pytest.skip("the metric ip has no center")
    true, is_later = exact(metric), np.triu(np.ones((N, N), bool), 1)
    pairs = found(made(metric, center=center, keep_vectors="f32"), NEAR[metric])
    want = np.argwhere(is_later & ((true < NEAR[metric]) if metric == "l2" else (true > NEAR[metric])))
    got = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert len(got) == pairs.first.size  # each once
    assert got <= set(map(tuple, want.tolist()))
    assert len(got) >= 0.995 * len(want)
    np.testing.assert_allclose(pairs.scores, true[pairs.first, pairs.second], rtol=1e-5)
    np.testing.assert_array_equal(pairs.scores, pairs.bounds)


def test_products_of_codes_would_let_too_many_pairs_through():
    """The reason for code_angles.py: similar vectors share their errors."""
    index, true = made(), exact("cosine")
    decoded = index.reconstruct(np.arange(N)).astype(np.float64)
    products = np.triu(decoded @ decoded.T, 1)
    naive = np.argwhere(products > 0.9)
    assert (true[tuple(naive.T)] > 0.9).mean() < 0.9
    pairs = found(index)
    assert (true[pairs.first, pairs.second] > 0.9).mean() > 0.95


@pytest.mark.parametrize("codec", ["turboquant-prod", "trellis"])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_the_range_search_loses_no_pair_that_would_be_returned(metric, codec, monkeypatch):
    monkeypatch.setattr(module, "DEFAULT_CONFIDENCE", 1.0)  # so that the sign bound loses none either
    lengths = np.random.default_rng(3).uniform(0.3, 3, (400, 1)).astype(np.float32)
    index = made(metric, codec=codec, x=rows_with_near_ones(400) * lengths)
    threshold = {"cosine": 0.6, "ip": 15.0, "l2": 30.0}[metric]
    pairs = found(index, threshold, confidence=0.6)
    every = {"l2": np.inf}.get(metric, -np.inf)
    monkeypatch.setattr(module._PairScan, "_thresholds", lambda self, at, *_: np.full(at.size, every, np.float32))
    same(pairs, found(index, threshold, confidence=0.6))
    assert pairs.first.size > 20


@pytest.mark.parametrize("keep", [None, "f16"])
def test_results_do_not_depend_on_backend_threads_or_blocks(keep, monkeypatch):
    index = made(x=X[:700], keep_vectors=keep)
    index.remove([3, 4])
    want, graph = found(index, 0.5, threads=1), index.neighbors_graph(5, threads=1)
    assert want.first.size > 10 or keep is None
    index.to("reference")
    same(want, found(index, 0.5))
    same(graph, index.neighbors_graph(5))
    index.to("cpu")
    monkeypatch.setattr(module, "_LEAST_BLOCK", 5)
    monkeypatch.setattr(module, "_MOST_BLOCK", 7)
    monkeypatch.setattr(module, "_SAMPLE_BLOCK", 9)
    again = found(index, 0.5, threads=2)
    order = np.lexsort((again.second, again.first))
    same([a[np.lexsort((want.second, want.first))] for a in want], [a[order] for a in again])


@pytest.mark.parametrize("keep", [None, "int8"])
def test_each_of_many_equal_vectors_is_paired_with_the_first_of_them(keep):
    x = np.concatenate([X[:50], np.repeat(X[:1], 3000, axis=0)])
    pairs = found(made(x=x, bits=4, keep_vectors=keep), 0.95)
    is_equal = pairs.second >= 50
    assert pairs.second[is_equal].tolist() == list(range(50, 3050))
    assert (pairs.first[is_equal] == 0).all()


def test_removed_vectors_filters_and_ids_are_respected():
    ids = np.array([f"v{i}" for i in range(N)], object)
    index = made(ids=ids, bits=4)
    whole = found(index)
    gone = whole.first[0]
    index.remove([gone])
    rest = found(index)
    assert gone not in rest.first
    assert gone not in rest.second
    few = found(index, filter=[*ids[: N // 2].tolist(), "v1499"])
    assert set(few.first) | set(few.second) <= {*ids[: N // 2], "v1499"}
    assert (np.array([int(a[1:]) for a in rest.first]) < [int(b[1:]) for b in rest.second]).all()


@every_metric
@pytest.mark.parametrize("keep", [None, "f32"])
@pytest.mark.parametrize("rows", [0, 1, 2, 65])
def test_zeros_and_few_vectors_give_pairs_without_errors(metric, keep, rows):
    x = np.zeros((rows, DIM), np.float32)
    for center in (None,) if metric == "ip" else (None, "mean"):
        index = made(metric, x=x, keep_vectors=keep, center=center)
        assert found(index, 0.5).first.size == (max(rows - 1, 0) if metric == "l2" else 0)
        assert index.neighbors_graph(3).indptr.tolist() == [min(3, max(rows - 1, 0)) * i for i in range(rows + 1)]


def test_progress_counts_rows_and_blocks_are_not_empty():
    calls = []
    blocks = list(made().near_pairs(0.9, progress=lambda done, total: calls.append((done, total))))
    assert calls[-1] == (N, N)
    assert all(block.first.size for block in blocks)
    calls.clear()
    made().neighbors_graph(2, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (N, N)


@pytest.mark.parametrize(
    ("metric", "threshold", "how"),
    [
        ("cosine", 0, {}), ("cosine", 1.0, {}), ("cosine", np.nan, {}), ("cosine", "a", {}), ("cosine", True, {}),
        ("ip", -1.0, {}), ("l2", np.inf, {}), ("cosine", 0.9, {"confidence": 0.4}), ("cosine", 0.9, {"confidence": 1}),
        ("cosine", 0.9, {"threads": 0}), ("cosine", 0.9, {"filter": np.ones(3, bool)}),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_at_the_call(metric, threshold, how):
    index = made(metric)
    with pytest.raises(InvalidInputError, match=f"{next(iter(how), 'threshold')}"):
        index.near_pairs(threshold, **how)


@pytest.mark.parametrize("how", [{"codec": "turboquant-mse"}, {"codec": "qjl"}, {"sketch": "gaussian"}])
def test_codecs_with_other_errors_are_refused(how):
    index = made(x=X[:50], **how)
    with pytest.raises(InvalidInputError, match="the codec is"):
        index.near_pairs(0.9)
    with pytest.raises(InvalidInputError, match="the codec is"):
        index.neighbors_graph(3)


def test_stores_and_mapped_files_give_the_pairs_of_the_index(tmp_path):
    index = made(bits=4)
    want, graph = found(index), index.neighbors_graph(4)
    index.save(tmp_path / "x.vqi")
    same(want, found(VQIndex.load(tmp_path / "x.vqi", mmap=True)))
    with vqindex.open(tmp_path / "s", "a", dim=DIM, bits=4, metric="cosine") as store:
        store.add(X[:800])
        store.commit()
        store.add(X[800:])
        same(want, found(store))
        same(graph, store.neighbors_graph(4))


def test_pairs_of_an_index_with_a_graph_are_those_without():
    same(found(made()), found(made(graph=16)))


# ---- neighbors


@every_metric
@pytest.mark.parametrize("keep", [None, "f32"])
def test_neighbors_are_the_nearest_other_vectors(metric, keep):
    graph = made(metric, bits=4, keep_vectors=keep).neighbors_graph(10)
    true = exact(metric) * (1 if metric == "l2" else -1)
    np.fill_diagonal(true, np.inf)
    best = np.argsort(true, axis=1)[:, :10]
    assert graph.indptr.tolist() == list(range(0, 10 * N + 1, 10))
    got = graph.indices.reshape(N, 10)
    assert (got != np.arange(N)[:, None]).all()
    assert np.mean([np.isin(a, b).mean() for a, b in zip(got, best, strict=True)]) > (0.97 if keep else 0.65)
    signed = graph.data.reshape(N, 10) * (1 if metric == "l2" else -1)
    assert (np.diff(signed, axis=1) >= 0).all()
    if keep:
        np.testing.assert_allclose(graph.data.reshape(N, 10), np.abs(np.take_along_axis(true, got, 1)), rtol=1e-3)


def test_estimated_scores_of_equal_vectors_are_those_of_equal_vectors():
    """Products of decoded vectors would be above 1."""
    graph = made(x=np.concatenate([X[:100], X[:100]])).neighbors_graph(1)
    np.testing.assert_array_equal(graph.indices, np.roll(np.arange(200), 100))
    assert (graph.data > 0.99).all()
    assert (graph.data <= 1).all()


def test_neighbors_are_positions_among_the_vectors_that_take_part():
    index = made(ids=np.arange(N) + 7, bits=4, keep_vectors="f32")
    index.remove([9])
    graph = index.neighbors_graph(3, filter=vqindex.exclude([7]))
    np.testing.assert_array_equal(graph.ids, np.arange(N)[[1, *range(3, N)]] + 7)
    assert graph.indices.max() < graph.ids.size
    one = index.search(X[10], 2, filter=vqindex.exclude([7, 17]), rerank=True).ids
    np.testing.assert_array_equal(graph.ids[graph.indices[graph.indptr[8] : graph.indptr[9]]][:2], one)


@pytest.mark.parametrize("k", [0, -1, 2.5, True])
def test_a_wrong_number_of_neighbors_is_refused(k):
    with pytest.raises(InvalidInputError, match="k is"):
        made(x=X[:20]).neighbors_graph(k)


# ---- angles of codes


@pytest.mark.parametrize("code", ["prod", "prod-1", "trellis"])
@pytest.mark.parametrize("cosine", [0.3, 0.8, 0.97])
def test_estimates_and_bounds_of_cosines_hold_for_vectors_that_were_not_measured(code, cosine):
    how = {"bits": 2, **CODES[code]}
    backend = made(**how, x=X[:2])._backend
    angles, rng, n = CodeAngles.of(backend, DIM), np.random.default_rng(9), 4000
    a, b = (v / np.linalg.norm(v, axis=1)[:, None] for v in rng.standard_normal((2, n, DIM)))
    b -= (a * b).sum(axis=1)[:, None] * a
    b /= np.linalg.norm(b, axis=1)[:, None]
    one, other = (backend.decode(backend.encode(v.astype(np.float32))).astype(np.float64)
                  for v in (a, cosine * a + np.sqrt(1 - cosine**2) * b))  # fmt: skip
    found = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    errors = angles.error(found)
    assert abs((angles.estimate(found) - cosine).mean()) < 0.2 * errors.mean()  # 512 pairs were measured
    for z, share in ((1.0, 0.841), (1.645, 0.95)):
        held = (angles.bound(found, z) <= cosine).mean()
        # Codes of one bit have few values of C, and a bound holds at least as often as asked.
        assert share - 0.03 < held < share + (0.08 if code == "prod-1" else 0.03)
