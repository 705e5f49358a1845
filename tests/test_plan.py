"""Plans: ranges hold the recall of indexes that are built later, choices reach the target, and bad input is refused."""

import dataclasses

import cli_tools
import numpy as np
import pytest
from cli_tools import one_object

import vqindex
from vqindex import InvalidInputError, VQIndex
from vqindex.search.sampled import Depths, Sampled
from vqindex.search.swaps import noise_of, share_of

run, ok = map(pytest.fixture, (cli_tools.run, cli_tools.ok))

DIM, N, M, NQ, K = 48, 8000, 2000, 100, 10


def clustered(n, seed, clusters=100, spread=0.6):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(7).standard_normal((clusters, DIM))
    return (centers[rng.integers(clusters, size=n)] + spread * rng.standard_normal((n, DIM))).astype(np.float32)


X, Q = clustered(N, 1), clustered(NQ, 2)


def true_neighbors(metric, x, queries):
    rows, asked = x.astype(np.float64), queries.astype(np.float64)
    if metric == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1)[:, None]
    scores = asked @ rows.T
    if metric == "l2":
        scores = 2 * scores - (rows**2).sum(axis=1)
    return np.argsort(-scores, axis=1)[:, :K]


def recall(choice, metric, x=X, queries=Q):
    index = VQIndex(x.shape[1], metric=metric, **choice.parameters)
    index.add(x)
    how = {"rerank": x} if choice.rerank else {}
    found = index.search(queries, K, **how).ids
    best = true_neighbors(metric, x, queries)
    return np.mean([np.isin(one, want).mean() for one, want in zip(found, best, strict=True)])


@pytest.mark.parametrize("metric", ["ip", "cosine", "l2"])
def test_ranges_hold_the_recall_of_the_whole_set(metric):
    plan = vqindex.plan(X[:M], n=N, target_recall=0.8, queries=Q, metric=metric)
    some = [one for one in plan.table if one.bits in (2, 4) and one.codec == "turboquant-prod"]
    assert len(some) == (4 if metric == "ip" else 8)
    for one in some:
        low, high = one.recall
        assert low - 0.01 < recall(one, metric) <= high + 0.03  # one rotation, 100 queries
        assert high - low < 0.2


def test_the_best_choice_reaches_the_target_and_is_the_smallest_that_is_sure_to():
    plan = vqindex.plan(X[:M], n=N, target_recall=0.85, queries=Q, metric="cosine")
    assert recall(plan.best, "cosine") >= 0.85
    assert recall(plan.best_reranked, "cosine") >= 0.85
    for best in (plan.best, plan.best_reranked):
        smaller = [c for c in plan.table if c.rerank is best.rerank and c.bytes_per_vector < best.bytes_per_vector]
        assert all(c.recall[0] < 0.85 for c in smaller)


def test_tight_clusters_with_few_rows_in_the_sample_are_no_trap():
    # 20 rows in each cluster, and 2 or 3 in the sample: all but the best row of the sample are of other clusters.
    x, queries = clustered(N, 1, N // 20, 0.15), clustered(NQ, 2, N // 20, 0.15)
    plan = vqindex.plan(x[: N // 8], n=N, target_recall=0.8, queries=queries, metric="cosine")
    for one in plan.table:
        if (one.codec, one.center, one.rerank) == ("turboquant-prod", None, False) and one.bits in (1, 2, 4):
            assert one.recall[0] < recall(one, "cosine", x, queries)


def test_reads_reach_a_recall_of_99_per_cent():
    plan = vqindex.plan(X[:M], n=N, target_recall=0.8, queries=Q, metric="cosine")
    one = next(c for c in plan.table if (c.codec, c.bits, c.center, c.rerank) == ("turboquant-prod", 2, None, True))
    index = VQIndex(DIM, metric="cosine", **one.parameters)
    index.add(X)
    best = true_neighbors("cosine", X, Q)
    found = index.search(Q, K, rerank=X, oversample=one.reads / K).ids
    assert np.mean([np.isin(a, b).mean() for a, b in zip(found, best, strict=True)]) >= 0.99
    assert one.reads < 200


def test_a_sample_of_all_rows_and_vectors_as_queries_will_do():
    plan = vqindex.plan(X[:M], n=M, target_recall=0.5, metric="cosine")
    assert not plan.has_queries
    assert plan.sample_queries == 1000
    one = next(c for c in plan.table if (c.codec, c.bits, c.center, c.rerank) == ("turboquant-prod", 3, None, False))
    low, high = one.recall
    assert low < recall(one, "cosine", X[:M]) < high + 0.01


def test_more_bits_are_expected_to_find_more():
    plan = vqindex.plan(X[:M], n=10**9, target_recall=0.5, queries=Q, metric="l2")
    for codec in ("turboquant-prod", "trellis"):
        for rerank in (False, True):
            some = [c for c in plan.table if (c.codec, c.center, c.rerank) == (codec, None, rerank)]
            some.sort(key=lambda c: c.bits)
            assert [c.recall[0] for c in some] == sorted(c.recall[0] for c in some)


def test_plans_are_the_same_each_time_and_for_other_types_of_arrays():
    how = {"n": 2 * N, "target_recall": 0.8, "metric": "cosine"}
    plan = vqindex.plan(X[:M], queries=Q, **how)
    assert vqindex.plan(X[:M].astype(np.float64), queries=Q.tolist(), **how) == plan
    assert vqindex.plan(X[:M] * np.float32(2.0**40), queries=Q, **how).table == plan.table
    assert str(plan).count("\n") == len(plan.table)
    assert dataclasses.asdict(plan.best) == plan.as_dict()["best"]


def test_lengths_near_the_ends_of_float32_do_no_harm():
    how = {"n": N, "target_recall": 0.9, "queries": Q, "metric": "l2"}
    table = vqindex.plan(X[:M], **how).table
    for unit in (np.float32(2.0**60), np.float32(2.0**-60)):
        assert vqindex.plan(X[:M] * unit, **{**how, "queries": Q * unit}).table == table


def test_queries_that_are_rows_of_the_sample_are_no_results_of_their_own():
    rows = Sampled.of(X[:M], X[:50], np.arange(50), "cosine", centered=False, best=8)
    own = Sampled.of(X[:M], None, np.arange(50), "cosine", centered=False, best=8)
    assert np.array_equal(rows.scores, own.scores)
    assert rows.scores[:, 0].max() < 0.999


def test_a_target_that_no_choice_reaches_has_none():
    plan = vqindex.plan(X[:M], n=10**12, target_recall=0.9999, queries=Q)
    assert plan.best is None
    assert "none without rerank reaches a recall of 0.9999" in str(plan)
    assert plan.as_dict()["best"] is None


def test_wrong_arguments_are_refused():
    good = {"n": N, "target_recall": 0.9}
    for wrong, message in (
        ({"n": 10}, "n is 10; expected at least 2000, the number of rows of the sample"),
        ({"n": 2.5}, "n is 2.5; expected an integer from 1"),
        ({"target_recall": 1}, "target_recall is 1; expected a probability above 0 and below 1"),
        ({"target_recall": 95}, "target_recall is 95"),
        ({"k": 0}, "k is 0; expected an integer from 1"),
        ({"k": 500}, "sample has 2000 rows; expected at least 10000 for k=500"),
        ({"metric": "angular"}, "metric is 'angular'; expected one of ip, cosine, l2"),
        ({"queries": Q[:3]}, "queries has 3 rows, too few to tell how queries differ; expected at least 20, or None"),
        ({"queries": Q[:, :5]}, "queries have 5 columns"),
    ):
        with pytest.raises(InvalidInputError, match=message.replace("(", r"\(")):
            vqindex.plan(X[:M], **{**good, **wrong})
    for sample, message in (
        (X[:10], "sample has 10 rows; expected at least 1000 for k=10"),
        (X[0], r"sample has dtype float32 and shape \(48,\); expected numbers of shape \(m, dim\)"),
        (np.where(np.arange(M)[:, None] == 7, np.nan, X[:M]), r"sample\[7, 0\] is nan"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            vqindex.plan(sample, **good)


# ---- the steps


@pytest.mark.parametrize(("rows", "times"), [(1, 1), (2, 1), (8, 1), (10, 1), (4, 4)])
@pytest.mark.parametrize("a", [0.2, 0.8, 1.5])
def test_shares_are_those_of_a_simulated_tail(rows, times, a):
    rng = np.random.default_rng(3)
    scores = -np.log(np.cumsum(rng.exponential(size=(4000, 600)), axis=1))
    noisy = scores + a * rng.standard_normal(scores.shape)
    found = np.argsort(-noisy, axis=1)[:, : rows * times]
    share = (found < rows).sum(axis=1).mean() / rows
    assert share_of(rows, times, np.log(np.array([a])))[0] == pytest.approx(share, abs=0.02)  # 5 errors of 4,000 lists


def test_many_rows_have_the_share_of_the_formula():
    logs = np.log(np.array([0.1, 0.5, 1.0]))
    for times in (1, 4):
        assert share_of(32, times, logs) == pytest.approx(share_of(33, times, logs), abs=0.01)


def test_noise_undoes_share():
    logs = np.log(np.array([0.001, 0.05, 0.3, 1.0, 3.0]))
    for rows in (1, 8, 100):
        assert noise_of(rows, 1, share_of(rows, 1, logs)) == pytest.approx(logs, abs=1e-2)


def test_depths_interpolate_where_the_sample_is_deep_enough():
    assert Depths.of(4000, 4000, 10).levels.tolist() == [10, 11]
    assert Depths.of(4000, 9000, 10).levels.tolist() == [4, 5]
    assert Depths.of(4000, 10**6, 10).levels.tolist() == [1, 2, 4, 8]


# ---- the command


def test_the_command_prints_the_plan(ok, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X[:M])
    np.save("q.npy", Q)
    given = ("plan", "x.npy", "--n", "1.6e4", "--recall", "0.8", "--metric", "l2", "--queries", "q.npy")
    plan = vqindex.plan(X[:M], n=16_000, target_recall=0.8, queries=Q, metric="l2")
    fields = one_object(ok(*given, "--json"))
    assert fields["best"]["bytes_per_vector"] == plan.best.bytes_per_vector
    assert [tuple(one["recall"]) for one in fields["table"]] == [one.recall for one in plan.table]
    text = ok(*given)
    assert text.count("\n*") == 2
    assert "16,000 vectors of 48 dimensions, metric l2 (by --metric); 2,000 looked at" in text
    assert "100 queries: real ones" in text


def test_the_command_chooses_metric_and_number_and_reads_a_sample(ok, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    fields = one_object(ok("plan", "x.npy", "--recall", "0.9", "--sample", "2000", "--json"))
    assert (fields["metric"], fields["n"], fields["has_queries"]) == ("cosine", N, False)
    assert 1900 < fields["sample_rows"] <= 2000
    text = ok("plan", "x.npy", "--recall", "0.99999", "--sample", "2000")
    assert "no choice without rerank is expected to reach a recall@10 of 0.99999" in text


def test_the_command_draws_a_picture(ok, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X[:M])
    assert "plot: p.png" in ok("plan", "x.npy", "--recall", "0.9", "--plot", "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_refuses_wrong_numbers(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X[:M])
    for n in ("1.5", "many", "0", "inf", "nan"):
        wrong = run("plan", "x.npy", "--recall", "0.9", "--n", n)
        assert wrong[0] == 2
        assert f"{n!r} is no number of vectors; expected one such as 1e7" in wrong[2]
    small = run("plan", "x.npy", "--recall", "0.9", "--n", "100")
    assert "n is 100; expected at least 2000" in small[2]


def test_more_bits_and_a_longer_shortlist_promise_no_less():
    rows = np.random.default_rng(3).standard_normal((2000, 24)).astype(np.float32)
    table = vqindex.plan(rows, n=10**7, target_recall=0.9, metric="l2").table
    for codec, center in {(one.codec, one.center) for one in table}:
        for part in (0, 1):
            plain, reranked = (
                [one.recall[part] for one in sorted(table, key=lambda one: one.bits)
                 if (one.codec, one.center, one.rerank) == (codec, center, rerank)]
                for rerank in (False, True)
            )  # fmt: skip
            assert plain == sorted(plain)
            assert reranked == sorted(reranked)
            assert all(a <= b for a, b in zip(plain, reranked, strict=True))
    assert all(one.recall[0] <= one.recall[1] for one in table)
