"""Expected recall: the range holds the recall, for all codecs and metrics, and says so where it can't."""

import cli_tools
import numpy as np
import pytest
from cases import every_metric
from cli_tools import one_object

from vqindex import InvalidInputError, VQIndex
from vqindex.search.rerank import exact_scores

run, ok = map(pytest.fixture, (cli_tools.run, cli_tools.ok))

DIM, N, NQ, K = 48, 4000, 100, 10


def clustered(n, seed):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(7).standard_normal((60, DIM))
    return (centers[rng.integers(60, size=n)] + 0.6 * rng.standard_normal((n, DIM))).astype(np.float32)


X, Q = clustered(N, 1), clustered(NQ, 2)


def made(metric="cosine", bits=3, x=X, **how):
    index = VQIndex(DIM, bits, metric, **how)
    index.add(x)
    return index


def recall(index, metric, x=X, **how):
    scores = np.concatenate([exact_scores(metric, q[None], x[None]) for q in Q])
    best = np.argsort(scores if metric == "l2" else -scores, axis=1, kind="stable")[:, :K]
    found = index.search(Q, K, **how).ids
    return np.mean([np.isin(one, want).mean() for one, want in zip(found, best, strict=True)])


@every_metric
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize(("codec", "center"), [("turboquant-prod", None), ("trellis", "mean")])
def test_the_range_holds_the_recall_and_is_narrow(metric, bits, codec, center):
    if metric == "ip" and center:
        pytest.skip("the metric ip has no center")
    index = made(metric, bits, codec=codec, center=center)
    low, high = index.estimate_recall(Q, K)
    assert low < recall(index, metric) < high
    assert high - low < (0.25 if bits == 2 else 0.15)


def test_more_bits_have_a_higher_estimate():
    ranges = [made(bits=bits).estimate_recall(Q) for bits in (1, 2, 4, 8)]
    assert [low for low, _ in ranges] == sorted(low for low, _ in ranges)
    assert [high for _, high in ranges] == sorted(high for _, high in ranges)


def test_filters_and_removed_vectors_count():
    index = made()
    index.remove(np.arange(0, N, 2))
    some = np.arange(1, N, 4)
    for filter, at in ((None, np.arange(1, N, 2)), (some, some)):
        alone = made(x=X[at])
        low, high = index.estimate_recall(Q, K, filter=filter)
        assert low < recall(alone, "cosine", X[at]) < high
        assert np.allclose((low, high), alone.estimate_recall(Q, K), atol=2e-3)


@pytest.mark.parametrize("n", [0, 1, 10])
def test_an_index_of_at_most_k_vectors_finds_all(n):
    low, high = made(x=X[:n]).estimate_recall(Q, K)
    assert low > 0.9
    assert high == 1


def test_backends_and_single_queries_agree():
    index = made()
    assert made(device="reference").estimate_recall(Q, K) == index.estimate_recall(Q, K)
    assert index.estimate_recall(Q[0], K) == index.estimate_recall(Q[:1], K)


def test_wrong_arguments_are_refused():
    with pytest.raises(InvalidInputError, match="there are no queries; expected at least one"):
        made().estimate_recall(np.empty((0, DIM)))
    with pytest.raises(InvalidInputError, match=r"^k is 0"):
        made().estimate_recall(Q, 0)
    with pytest.raises(InvalidInputError, match="the scores of codec 'turboquant-mse' are biased"):
        made(codec="turboquant-mse").estimate_recall(Q)


def test_the_command_prints_the_estimate(ok, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    index = made()
    index.save("x.vqi")
    np.save("q.npy", Q)
    fields = one_object(ok("info", "x.vqi", "--recall", "q.npy", "-k", "5", "--json"))
    low, high = index.estimate_recall(Q, 5)
    assert (fields["recall_k"], fields["recall_low"], fields["recall_high"]) == (5, round(low, 4), round(high, 4))
    assert "recall_low" not in one_object(ok("info", "x.vqi", "--json"))
