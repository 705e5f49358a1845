"""Complete results: how often they are, what they read, and what is refused."""

import numpy as np
import pytest
from cases import every_metric

import vqindex
from vqindex import InvalidInputError, VQIndex
from vqindex.search.intervals import upper_tail
from vqindex.search.rerank import exact_scores

DIM, N, NQ, K = 48, 3000, 40, 10


def clustered(n, seed):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(7).standard_normal((60, DIM))
    return (centers[rng.integers(60, size=n)] + 0.6 * rng.standard_normal((n, DIM))).astype(np.float32)


X, Q = clustered(N, 1), clustered(NQ, 2)


def made(metric="cosine", bits=3, x=X, **how):
    index = VQIndex(DIM, bits, metric, **how)
    index.add(x)
    return index


def best(metric, k=K, x=X, q=Q):
    scores = exact_scores(metric, q, np.broadcast_to(x, (len(q), *x.shape)))
    return np.argsort(scores if metric == "l2" else -scores, axis=1, kind="stable")[:, :k]


def shares(result, truth):
    return (np.sort(result.ids, axis=1) == np.sort(truth, axis=1)).all(axis=1)


# ---- the promise


@every_metric
@pytest.mark.parametrize(("codec", "center"), [("turboquant-prod", None), ("trellis", "mean")])
@pytest.mark.parametrize("chance", [0.9, 0.99])
def test_results_are_complete_as_often_as_they_say(metric, codec, center, chance):
    if metric == "ip" and center:
        pytest.skip("the metric ip has no center")
    truth, held, reads = best(metric), [], []
    for seed in range(6):
        result = made(metric, codec=codec, center=center, seed=seed).search(Q, K, rerank=X, complete=chance)
        assert (result.complete >= chance).all()
        held.append(shares(result, truth))
        reads.append(result.reads)
    share = np.concatenate(held).mean()
    # Two standard errors of 240 results; they share 40 queries.
    assert share >= chance - 2 * np.sqrt(chance * (1 - chance) / 240)
    assert np.mean(reads) < N / 10, "and not by reading everything"


@every_metric
def test_scores_are_exact_and_sorted(metric):
    result = made(metric).search(Q, K, rerank=X, complete=0.99)
    expected = exact_scores(metric, Q, X[result.ids])
    np.testing.assert_array_equal(result.scores, expected)
    assert (np.diff(result.scores, axis=1) * (1 if metric == "l2" else -1) >= 0).all()
    assert result.reads.dtype == np.int64
    assert result.complete.shape == result.reads.shape == (NQ,)


def test_higher_chances_fewer_bits_and_strictness_read_more():
    def reads(bits, **how):
        return made(bits=bits).search(Q, K, rerank=X, **how).reads.mean()

    base = reads(3, complete=0.9)
    assert base < reads(3, complete=0.999) < reads(3, complete=0.999, strict=True)
    assert base < reads(2, complete=0.9)


@pytest.mark.filterwarnings("ignore::vqindex.SlowCodecWarning")
@pytest.mark.parametrize("how", [{"bits": 1}, {"codec": "qjl", "bits": 2}, {"sketch": "gaussian", "bits": 2}])
def test_codes_that_leave_luck_to_decide_read_more_and_are_complete(how):
    index = made(**how)
    result = index.search(Q, K, rerank=X, complete=0.99)
    assert shares(result, best("cosine")).mean() >= 0.95
    assert result.reads.mean() < N


# ---- what is read


def test_the_reads_are_those_of_the_source_and_none_is_repeated():
    asked = []

    def source(ids):
        asked.append(ids)
        return X[ids]

    result = made(bits=2).search(Q[0], K, rerank=source, complete=0.99)
    every = np.concatenate(asked)
    assert np.unique(every).size == every.size == result.reads
    assert isinstance(result.complete.item(), float)
    assert set(result.ids) <= set(every.tolist())


def test_a_shortlist_grows_where_it_is_too_short():
    """At one bit, and for many results, the first shortlist is too short."""
    result = made(bits=1).search(Q, 3, rerank=X, complete=0.999, strict=True)
    assert result.reads.max() > 128
    assert (shares(result, best("cosine", 3))).all()


def test_batches_give_what_single_queries_get():
    index = made(bits=2)
    together = index.search(Q, K, rerank=X, complete=0.99)
    for i in (0, 7, 39):
        alone = index.search(Q[i], K, rerank=X, complete=0.99)
        np.testing.assert_array_equal(alone.ids, together.ids[i])
        assert (alone.complete, alone.reads) == (together.complete[i], together.reads[i])


# ---- everywhere


@every_metric
def test_kept_vectors_backends_stores_and_string_ids_give_the_same(metric, tmp_path):
    expected = made(metric).search(Q, K, rerank=X, complete=0.99)
    how = {"rerank": True, "complete": 0.99}
    kept = made(metric, keep_vectors="f32")
    kept.save(tmp_path / "x.vqi")
    with vqindex.open(tmp_path / "store", "a", dim=DIM, bits=3, metric=metric, keep_vectors="f32") as store:
        for start in range(0, N, 1000):
            store.add(X[start : start + 1000])
            store.commit(merge=False)
        stored = store.search(Q, K, **how)
    named = VQIndex(DIM, 3, metric, keep_vectors="f32", graph=32)
    named.add(X, ids=[str(i) for i in range(N)])
    others = (
        kept.search(Q, K, **how),
        made(metric, device="reference").search(Q, K, rerank=X, complete=0.99),
        VQIndex.load(tmp_path / "x.vqi", mmap=True).search(Q, K, **how),
        stored,
        named.search(Q, K, **how),
    )
    for other in others:
        np.testing.assert_array_equal(np.array(other.ids, np.int64), expected.ids)
        np.testing.assert_array_equal(other.scores, expected.scores)
        np.testing.assert_array_equal(other.reads, expected.reads)
        np.testing.assert_array_equal(other.complete, expected.complete)


def test_filters_and_removed_vectors_are_left_out():
    index = made()
    index.remove(np.arange(0, N, 2))
    some = np.arange(1, N, 4)
    each = [some if i % 2 else np.arange(3, N, 4) for i in range(NQ)]
    for filter, rows in ((None, [np.arange(1, N, 2)] * NQ), (some, [some] * NQ), (each, each)):
        result = index.search(Q, K, rerank=X, complete=0.999, filter=filter)
        held = [
            set(found) == set(at[best("cosine", x=X[at], q=Q[i : i + 1])[0]])
            for i, (found, at) in enumerate(zip(result.ids.tolist(), rows, strict=True))
        ]
        assert np.mean(held) > 0.95


@pytest.mark.parametrize("n", [0, 1, 9, 30])
def test_small_indexes_are_complete_and_have_empty_places(n):
    index = made(x=X[:n])
    result = index.search(Q, 12, rerank=X, complete=0.99)
    count = min(n, 12)
    assert (
        (np.sort(result.ids[:, :count], axis=1) == np.sort(best("cosine", count, X[:n]), axis=1)).all() if n else True
    )
    assert (result.ids[:, count:] == -1).all()
    assert np.isneginf(result.scores[:, count:]).all()
    assert (result.complete >= 0.99).all()
    assert (result.reads <= n).all()


def test_no_queries_give_empty_results():
    result = made().search(np.empty((0, DIM)), 4, rerank=X, complete=0.99)
    assert result.ids.shape == (0, 4)
    assert result.reads.shape == result.complete.shape == (0,)


# ---- refused


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"complete": 0.5}, r"^complete is 0.5; expected a probability of at least 0.9"),
        ({"complete": 1}, r"^complete is 1; expected a probability above 0 and below 1"),
        ({"complete": True}, r"^complete is True"),
        ({"strict": True}, "^strict is True, but there is no complete="),
        ({"complete": 0.99, "strict": 1}, r"^strict is 1; expected True or False"),
        ({"complete": 0.99, "oversample": 4}, r"^oversample is given with complete="),
        ({"complete": 0.99, "return_interval": 0.9}, r"^return_interval is given with complete="),
        ({"complete": 0.99, "effort": 10}, r"^effort is given with complete="),
        ({"complete": 0.99, "confidence": 0.995}, r"^confidence is 0.995, so that one of 10 results"),
        ({"complete": 0.99, "rerank": None}, r"^complete is given without rerank="),
    ],
)
def test_a_wrong_argument_is_refused(how, message):
    with pytest.raises(InvalidInputError, match=message):
        made().search(Q, K, **({"rerank": X} | how))


def test_a_biased_codec_is_refused():
    with pytest.raises(InvalidInputError, match="the scores of codec 'turboquant-mse' are biased"):
        made(codec="turboquant-mse").search(Q, K, rerank=X, complete=0.99)


def test_the_upper_tail_is_that_of_the_normal_distribution():
    z = np.array([-np.inf, -8, -1, 0, 0.5, 1.959963985, 5, 20, np.inf])
    expected = [1, 1 - 6.22096e-16, 0.841344746, 0.5, 0.308537539, 0.025, 2.866515719e-7, 2.753624119e-89, 0]
    np.testing.assert_allclose(upper_tail(z), expected, rtol=1e-6)
