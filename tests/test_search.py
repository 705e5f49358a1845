"""Search, estimate and reconstruct, against a plain loop and against each other. Scores are compared exactly."""

import copy
import pickle

import numpy as np
import pytest
from cases import DIM, built, every_codec, every_metric, vectors

from vqindex import InvalidInputError, VQIndex
from vqindex.backends import reference as reference_module


def with_ties(n):
    """Return vectors with many duplicates and zeros, so that ties are common."""
    x = vectors(n)
    pick = np.random.default_rng(1).integers(0, max(1, n // 5), n)
    x = x[pick]
    x[pick % 7 == 3] = 0
    return x


def oracle(index, queries, k):
    """Sort every (score, row): slow and obvious."""
    worst = np.inf if index.spec.metric == "l2" else -np.inf
    sign = 1 if index.spec.metric == "l2" else -1
    ids = index.ids
    scores, found = [], []
    for row in index.estimate(queries, ids):
        best = sorted((sign * float(score), place) for place, score in enumerate(row))[:k]
        missing = k - len(best)
        scores.append([sign * signed for signed, _ in best] + [worst] * missing)
        found.append([ids[place] for _, place in best] + [-1] * missing)
    return np.array(scores, np.float32).reshape(-1, k), np.array(found, np.int64).reshape(-1, k)


def assert_like_oracle(index, queries, k):
    scores, ids = index.search(queries, k, confidence=1)  # test_sign_bound.py has those below 1
    expected_scores, expected_ids = oracle(index, queries, k)
    assert scores.dtype == np.float32
    assert ids.dtype == np.int64
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(scores, expected_scores)


@every_metric
@every_codec
@pytest.mark.parametrize("k", [1, 10, 400])
def test_search_is_the_sorted_estimate(codec, sketch, metric, k):
    index = built(with_ties(300), metric, codec, sketch)
    assert_like_oracle(index, vectors(6, seed=2), k)


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65])
@every_metric
def test_search_finds_all_at_the_edges_of_sizes(metric, n):
    index = built(with_ties(n), metric, ids=np.random.default_rng(0).permutation(10 * n + 1)[:n])
    for k in (1, n + 1, 16):
        assert_like_oracle(index, vectors(3, seed=2), k)


@every_metric
@pytest.mark.parametrize("scores", [1, 40, 4 * 512, 2**14])
@pytest.mark.parametrize("k", [1, 7, 64])
def test_search_does_not_depend_on_its_blocks(metric, k, scores, monkeypatch):
    x, q = with_ties(700), vectors(9, seed=2)
    index = VQIndex(DIM, metric=metric, device="reference")
    for batch in np.split(x, [64, 65, 400]):
        index.add(batch)
    expected = index.search(q, k)
    # Down to k rows and one query in a block.
    monkeypatch.setattr(reference_module, "_SCORES", scores)
    found = index.search(q, k)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert_like_oracle(index, q, k)


@every_metric
def test_search_of_several_segments_is_the_sorted_estimate(metric, monkeypatch):
    monkeypatch.setattr("vqindex.rows.row_store.SEGMENT_ROWS", 64)
    monkeypatch.setattr("vqindex.rows.row_store._FIRST_ROWS", 8)
    x, q = with_ties(300), vectors(4, seed=2)
    index = VQIndex(DIM, metric=metric)
    for batch in np.split(x, [1, 63, 64, 130]):
        index.add(batch)
    assert [segment.rows for segment in index._rows.stored()] == [64, 64, 64, 64, 44]
    assert_like_oracle(index, q, 20)
    np.testing.assert_array_equal(index.reconstruct(index.ids), built(x, metric).reconstruct(np.arange(300)))


@every_metric
@every_codec
def test_duplicates_tie_to_the_lower_row(codec, sketch, metric):
    x = np.repeat(vectors(3), 5, axis=0)[np.random.default_rng(0).permutation(15)]
    index = built(x, metric, codec, sketch, ids=np.arange(15)[::-1])  # ids fall while rows rise
    scores, ids = index.search(vectors(4, seed=3), 15)
    for line, found in zip(scores, ids, strict=True):
        rows = 14 - found
        for value in np.unique(line):
            assert (np.diff(rows[line == value]) > 0).all()
        assert len(np.unique(line)) == 3, "equal vectors have equal scores"


def test_a_query_in_a_batch_scores_as_it_does_alone():
    index = built(vectors(200), "l2")
    q = vectors(40, seed=1)
    together = index.search(q, 5)
    for i in range(40):
        alone = index.search(q[i], 5)
        assert alone.ids.shape == alone.scores.shape == (5,)
        np.testing.assert_array_equal(alone.ids, together.ids[i])
        np.testing.assert_array_equal(alone.scores, together.scores[i])


# ---- shapes


@every_metric
def test_places_without_a_result_have_no_id_and_the_worst_score(metric):
    worst = np.inf if metric == "l2" else -np.inf
    for n in (0, 3):
        result = built(vectors(n), metric).search(vectors(2), 5, return_stderr=True)
        assert result.scores.shape == result.ids.shape == result.stderr.shape == (2, 5)
        assert (result.ids[:, n:] == -1).all()
        assert (result.scores[:, n:] == worst).all()
        assert np.isnan(result.stderr[:, n:]).all()
        assert (result.stderr[:, :n] > 0).all()
        single = built(vectors(n), metric).search(vectors(2)[0], 5, return_stderr=True)
        for one, batch in zip(single, result, strict=True):
            np.testing.assert_array_equal(one, batch[0])


@pytest.mark.parametrize("n", [0, 7])
def test_search_without_queries_returns_empty_results(n):
    result = built(vectors(n)).search(np.empty((0, DIM)), 4, return_stderr=True)
    assert result.scores.shape == result.ids.shape == result.stderr.shape == (0, 4)
    assert built(vectors(n)).search([]).ids.shape == (0, 10)


@pytest.mark.parametrize("k", [0, -1, True, False, 1.0, "3", None, 2**31, [1], np.float32(3)])
def test_bad_k_is_refused_with_its_value(k):
    with pytest.raises(InvalidInputError, match=r"^k is .*; expected an integer from 1 to"):
        built(vectors(3)).search(vectors(1), k)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int32, np.int64])
def test_k_may_be_of_a_numpy_type(kind):
    # 40 queries of 10 results: more than 255, where arithmetic in uint8 would wrap.
    index, q = built(vectors(50)), vectors(40, seed=1)
    expected = index.search(q, 10, return_stderr=True)
    for one, other in zip(index.search(q, kind(10), return_stderr=True), expected, strict=True):
        np.testing.assert_array_equal(one, other)


@every_metric
@every_codec
def test_stderr_does_not_change_the_result(codec, sketch, metric):
    index, q = built(vectors(60), metric, codec, sketch), vectors(5, seed=1)
    plain, more = index.search(q, 7), index.search(q, 7, return_stderr=True)
    np.testing.assert_array_equal(plain.scores, more.scores)
    np.testing.assert_array_equal(plain.ids, more.ids)
    assert more.stderr.dtype == np.float32
    assert np.isfinite(more.stderr).all()
    scores, ids, stderr = more
    assert scores.shape == ids.shape == stderr.shape == (5, 7)


# ---- estimate and reconstruct


@every_metric
@every_codec
@pytest.mark.parametrize("with_ids", [False, True])
def test_estimate_gives_the_scores_of_search_bit_for_bit(codec, sketch, metric, with_ids):
    ids = np.random.default_rng(0).permutation(1000)[:90] if with_ids else None
    index, q = built(vectors(90), metric, codec, sketch, ids=ids), vectors(8, seed=1)
    scores, found = index.search(q, 90)
    for i in range(8):
        np.testing.assert_array_equal(index.estimate(q, found[i])[i], scores[i])
        if codec != "qjl" and sketch != "gaussian":
            # For the others the rounding of a dense float32 product may depend on the number of queries.
            np.testing.assert_array_equal(index.estimate(q[i], found[i]), scores[i])
    assert index.estimate(q, found[0][:4]).shape == (8, 4)
    assert index.estimate(q[0], []).shape == (0,)
    assert index.estimate(np.empty((0, DIM)), [index.ids[0]]).shape == (0, 1)
    np.testing.assert_array_equal(index.estimate(q, found[0][[2, 2, 0]])[:, 1], index.estimate(q, found[0][[2]])[:, 0])


@every_metric
@every_codec
@pytest.mark.parametrize("bits", [1, 2, 4, 7])
def test_estimates_are_inner_products_with_reconstructions(codec, sketch, metric, bits):
    x, q = vectors(50), vectors(9, seed=1)
    bits = min(bits, 4) if codec == "trellis" else bits
    index = built(x, metric, codec, sketch, bits=bits)
    decoded = index.reconstruct(np.arange(50))
    assert decoded.shape == (50, DIM)
    assert decoded.dtype == np.float32
    estimate = index.estimate(q, np.arange(50)).astype(np.float64)
    q, x = q.astype(np.float64), x.astype(np.float64)
    q_norm, x_norm = np.linalg.norm(q, axis=1)[:, None], np.linalg.norm(x, axis=1)[None, :]
    if metric == "l2":
        estimate = (q_norm**2 + x_norm**2 - estimate) / 2
    if metric == "cosine":
        q, q_norm, x_norm = q / q_norm, np.ones_like(q_norm), np.ones_like(x_norm)
    # The int16 query is off by at most half a step a coordinate. A step is max |coordinate| / 32767: at most
    # |q| / 32767 after the rotation, and at most 6 |q| / 32767 after a Gaussian sketch (no coordinate reaches 6 sigma).
    # Against |coordinates of xhat|: sum <= sqrt(d) |xhat| for the levels, and for m signs of weight
    # sqrt(pi/2) / m |x| at most 1.26 |x|.
    length = np.linalg.norm(decoded, axis=1)[None, :]
    steps = q_norm * (np.sqrt(DIM) * (length + x_norm) + 6 * 1.26 * x_norm) / 2 / 32767
    # Float32 rounding of a few dozen operations; for l2 also of the squares that are added and subtracted.
    rounding = 32 * 2.0**-24 * (q_norm * (length + x_norm) + (q_norm**2 + x_norm**2) * (metric == "l2"))
    assert (np.abs(q @ decoded.T - estimate) <= steps + rounding).all()


def test_reconstruct_is_near_the_vector():
    # At 8 bits the codebook's relative squared error is about 1e-4; ten times its root leaves no room for chance.
    x = vectors(50)
    for metric in ("ip", "l2"):
        decoded = built(x, metric, bits=8).reconstruct(np.arange(50))
        assert (np.linalg.norm(decoded - x, axis=1) <= 0.1 * np.linalg.norm(x, axis=1)).all()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    decoded = built(x, "cosine", bits=8).reconstruct(np.arange(50))
    assert (np.linalg.norm(decoded - unit, axis=1) <= 0.1).all()


def test_reconstruct_accepts_every_form_of_ids():
    index = built(vectors(5), ids=[9, 8, 7, 6, 5])
    whole = index.reconstruct([9, 8, 7, 6, 5])
    for one in (7, np.int64(7), np.uint8(7)):
        assert index.reconstruct(one).shape == (DIM,)
        np.testing.assert_array_equal(index.reconstruct(one), whole[2])
    np.testing.assert_array_equal(index.reconstruct([7, 7, 9]), whole[[2, 2, 0]])
    assert index.reconstruct([]).shape == (0, DIM)
    for bad in (True, 7.0, [[7]], None):
        with pytest.raises(InvalidInputError, match=r"ids (have|is) "):
            index.reconstruct(bad)
    with pytest.raises(InvalidInputError, match="ids are strings; those of the index are integers"):
        index.reconstruct("7")


@every_metric
def test_equal_specs_give_equal_codes_and_another_seed_gives_others(metric):
    x = vectors(30)
    a, b, c = (built(x, metric, seed=seed)._rows.gather(np.arange(30)).codes for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


@pytest.mark.parametrize("with_errors", [False, True])
def test_a_result_names_unpacks_copies_and_pickles_its_parts(with_errors):
    index = VQIndex(8, seed=1)
    index.add(np.eye(8))
    result = index.search(np.eye(8)[:2], 3, return_stderr=with_errors)
    assert len(result) == 2 + with_errors
    scores, ids, *rest = result
    assert scores is result.scores
    assert ids is result.ids
    assert (result.stderr is rest[0]) if with_errors else (result.stderr is None)
    for again in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        assert type(again) is type(result)
        assert len(again) == len(result)
        np.testing.assert_array_equal(again.ids, ids)
    assert repr(result).startswith("SearchResult(scores=array(")
    assert ("stderr=" in repr(result)) == with_errors
