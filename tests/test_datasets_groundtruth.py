"""Exact neighbors equal those of a slow, obvious oracle, whatever the block size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqindex_datasets import DatasetError, exact_knn, exact_neighbors, make, open_vectors
from vqindex_datasets import _scan as scan

pytestmark = pytest.mark.filterwarnings("error")

METRICS = ("ip", "cosine", "l2")


def _oracle(train: np.ndarray, queries: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Score one pair at a time in float64; sort by score, then by row."""
    ids = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k))
    for i, query in enumerate(queries.astype(np.float64)):
        ranked = []
        for j, row in enumerate(train.astype(np.float64)):
            if metric == "l2":
                score = ((query - row) ** 2).sum()
            else:
                score = (query * row).sum()
                if metric == "cosine":
                    length = np.sqrt((query * query).sum()) * np.sqrt((row * row).sum())
                    score = score / length if length > 0 else 0.0
            ranked.append((score if metric == "l2" else -score, j))
        best = sorted(ranked)[:k]
        ids[i] = [j for _, j in best]
        scores[i] = [signed if metric == "l2" else -signed for signed, _ in best]
    return ids, scores


def _check(train: np.ndarray, queries: np.ndarray, k: int, metric: str, **options: object) -> None:
    ids, scores = exact_knn(train, queries, k, metric, **options)  # type: ignore[arg-type]
    want_ids, want = _oracle(train, queries, k, metric)
    assert ids.dtype == np.int64
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(ids, want_ids)
    # The scores are those of float64, rounded once to float32.
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(scores, want.astype(np.float32))


Data = tuple[np.ndarray, np.ndarray]


def _duplicates(rows: np.ndarray, queries: np.ndarray, rng: np.random.Generator) -> Data:
    rows = rows[rng.integers(7, size=130)]
    queries[0] = rows[3]
    return rows, queries


def _zeros(rows: np.ndarray, queries: np.ndarray, rng: np.random.Generator) -> Data:
    rows[rng.integers(130, size=60)] = 0
    queries[::3] = 0
    return rows, queries


def _huge_among_small(rows: np.ndarray, queries: np.ndarray, rng: np.random.Generator) -> Data:
    rows[100:] *= np.float32(1e30)
    return rows, queries


# Each takes Gaussian rows and queries, which it may change, and a generator.
AWKWARD: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], Data]] = {
    "gaussian": lambda rows, queries, rng: (rows, queries),
    "duplicates": _duplicates,
    "zeros": _zeros,
    "all zero": lambda rows, queries, rng: (np.zeros_like(rows), queries),
    "all equal": lambda rows, queries, rng: (np.repeat(rows[:1], len(rows), axis=0), queries),
    "binary": lambda rows, queries, rng: (np.sign(rows), np.sign(queries)),
    "norms": lambda rows, queries, rng: (
        rows * np.exp(8 * rng.standard_normal((130, 1))).astype(np.float32),
        queries,
    ),
    "large mean": lambda rows, queries, rng: (rows + np.float32(1e4), queries + np.float32(1e4)),
    "nearly equal": lambda rows, queries, rng: ((1 + 1e-7 * rows).astype(np.float32), np.ones_like(queries)),
    "huge": lambda rows, queries, rng: (rows * np.float32(1e25), queries * np.float32(1e25)),
    "tiny": lambda rows, queries, rng: (rows * np.float32(1e-25), queries * np.float32(1e-25)),
    "huge among small": _huge_among_small,
    "one negative direction": lambda rows, queries, rng: (-np.abs(rows), np.abs(queries)),
}


def _awkward(name: str, rng: np.random.Generator) -> Data:
    rows = rng.standard_normal((130, 12)).astype(np.float32)
    queries = rng.standard_normal((9, 12)).astype(np.float32)
    return AWKWARD[name](rows, queries, rng)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_data_give_what_the_oracle_gives(monkeypatch: pytest.MonkeyPatch, name: str, metric: str) -> None:
    train, queries = _awkward(name, np.random.default_rng(5))
    _check(train, queries, 10, metric)
    # Tiles far smaller than usual, so that lists are filled and merged over many tiles.
    monkeypatch.setattr(scan.Scanner, "tile_rows", 16)
    monkeypatch.setattr(scan.Scanner, "tile_queries", 4)
    _check(train, queries, 1, metric)
    _check(train, queries, 10, metric, block_rows=33)
    _check(train, queries, 130, metric, block_rows=7)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint8"])
def test_other_dtypes_give_what_the_oracle_gives(metric: str, dtype: str) -> None:
    rng = np.random.default_rng(6)
    train, queries = rng.integers(0, 100, (60, 7)), rng.integers(0, 100, (5, 7))
    _check(train.astype(dtype), queries.astype(dtype), 9, metric, block_rows=13)


def test_rows_that_differ_below_float32_are_ranked_by_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are equal in float32 are ranked by their float64 scores, over all tiles."""
    monkeypatch.setattr(scan.Scanner, "tile_rows", 32)
    train = np.ones((200, 3)) + 1e-12 * np.random.default_rng(2).permutation(200)[:, None]
    assert (train.astype(np.float32) == 1).all()
    ids, _ = exact_knn(train, np.ones((1, 3)), 20, "ip", block_rows=50)
    np.testing.assert_array_equal(ids[0], np.argsort(-train[:, 0])[:20])


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 70),
    dim=st.integers(1, 20),
    k=st.integers(1, 70),
    block=st.integers(1, 80),
    levels=st.sampled_from([2, 3, 50]),
    metric=st.sampled_from(METRICS),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_shapes_with_ties_give_what_the_oracle_gives(
    n: int, dim: int, k: int, block: int, levels: int, metric: str, seed: int
) -> None:
    """Few levels make ties common."""
    rng = np.random.default_rng(seed)
    train = rng.integers(-1, levels, (n, dim)).astype(np.float32)
    queries = rng.integers(-1, levels, (3, dim)).astype(np.float32)
    _check(train, queries, min(k, n), metric, block_rows=block)


@pytest.mark.parametrize("metric", METRICS)
def test_block_size_does_not_change_results(metric: str) -> None:
    """More rows than fit in a tile, so that tiles and blocks differ; results are equal bit for bit."""
    train, queries, _ = make("duplicates", 20_000, 24, queries=40, seed=3)
    whole = exact_knn(train, queries, 30, metric)
    for block_rows in (1_000, 8_191, 20_000):
        found = exact_knn(train, queries, 30, metric, block_rows=block_rows)
        np.testing.assert_array_equal(found[0], whole[0])
        np.testing.assert_array_equal(found[1], whole[1])


def test_many_rows_give_the_neighbors_of_a_float64_product() -> None:
    """The size is large enough for thresholds to drop rows; the oracle is one float64 product.

    Scores of a product differ from those of exact_knn by about 1e-15, so rows whose scores are closer than
    1e-12 may change places. The test checks that the data has none.
    """
    train, queries, _ = make("gaussian", 30_000, 16, queries=50, seed=4)
    products = queries.astype(np.float64) @ train.astype(np.float64).T
    order = np.argsort(-products, axis=1, kind="stable")
    best = np.take_along_axis(products, order[:, :101], axis=1)
    assert np.diff(-best, axis=1).min() > 1e-12
    ids, _ = exact_knn(train, queries, 100, "ip", block_rows=10_000)
    np.testing.assert_array_equal(ids, order[:, :100])


def test_the_scan_rescores_few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its threshold the scan would score all 2 million pairs a second time."""
    counts = []
    plain = scan.Scanner._pairs

    def counting(self: scan.Scanner, *args: object) -> object:
        pairs = plain(self, *args)  # type: ignore[arg-type]
        counts.append(len(pairs[0]))
        return pairs

    monkeypatch.setattr(scan.Scanner, "_pairs", counting)
    for name, metrics in (("gaussian", METRICS), ("large-mean", ("l2",))):
        train, queries, _ = make(name, 40_000, 16, queries=50, seed=4)
        for metric in metrics:
            counts.clear()
            exact_knn(train, queries, 10, metric)
            # Expected: 10 per query in the first of five tiles, then 10/i in tile i, 23 in all; the limit is
            # three times that, and the answer alone is 10.
            assert 500 <= sum(counts) < 3 * 23 * 50, (name, metric)


def test_a_source_is_read_in_blocks_that_progress_reports(tmp_path: Path) -> None:
    train = np.random.default_rng(0).standard_normal((100, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", train)
    seen: list[tuple[int, int | None]] = []
    with open_vectors(tmp_path / "a.npy") as source:
        found = exact_knn(source, train[:3], 5, "l2", block_rows=40, progress=lambda done, n: seen.append((done, n)))
    assert seen == [(40, 100), (80, 100), (100, 100)]
    np.testing.assert_array_equal(found[0], exact_knn(train, train[:3], 5, "l2")[0])
    np.testing.assert_array_equal(found[0][:, 0], [0, 1, 2])


def test_no_queries_give_empty_results() -> None:
    for metric in METRICS:
        ids, scores = exact_knn(np.ones((5, 2)), np.ones((0, 2)), 3, metric)
        assert ids.shape == scores.shape == (0, 3)


def test_exact_neighbors_gives_distances_of_annbench_files() -> None:
    train = np.array([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]])
    query = np.array([[1.0, 0.0]])
    # All are exact in floating point but 3/5 and the roots, which may be off by one unit in the last place
    # (of 4: 9e-16).
    for distance, want_ids, want in (
        ("angular", [2, 0, 1], [0.0, 0.4, 1.0]),
        ("euclidean", [2, 1, 0], [0.0, np.sqrt(5), np.sqrt(20)]),
        ("ip", [0, 2, 1], [-3.0, -1.0, 0.0]),
    ):
        ids, distances = exact_neighbors(train, query, 3, distance)
        assert distances.dtype == np.float64
        np.testing.assert_array_equal(ids[0], want_ids)
        np.testing.assert_allclose(distances[0], want, rtol=0, atol=9e-16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k = 0; expected 1 <= k <= 5"),
        ({"k": 6}, "k = 6; expected 1 <= k <= 5"),
        ({"metric": "hamming"}, "'hamming'; expected one of ip, cosine, l2"),
        ({"queries": np.ones((2, 4))}, "dimension 4; expected 3"),
        ({"queries": np.ones(3)}, "2-D"),
        ({"train": np.ones(3)}, "2-D"),
        ({"train": np.array([["a"]])}, "expected floats or integers"),
        ({"block_rows": 0}, "block_rows = 0"),
        ({"queries": np.array([[1, 2, np.nan]])}, "query 0 holds nan"),
        ({"train": np.array([[1, 2, 3], [1, np.inf, 2]])}, "train row 1 holds inf"),
        ({"train": np.full((5, 3), 1e160)}, "train row 0 holds 1e.160"),
        ({"device": "no such thing"}, "no such thing"),
    ],
)
def test_wrong_arguments_are_refused_by_name(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "train": np.ones((5, 3)),
        "queries": np.ones((2, 3)),
        "k": 2,
        "metric": "ip",
    }
    with pytest.raises(DatasetError, match=message):
        exact_knn(**(arguments | change | ({"k": 1} if "train" in change else {})))  # type: ignore[arg-type]


def test_a_nan_in_a_later_block_is_named_by_its_row() -> None:
    train = np.ones((10, 2))
    train[7, 1] = np.nan
    with pytest.raises(DatasetError, match="train row 7 holds nan"):
        exact_knn(train, np.ones((1, 2)), 1, "l2", block_rows=3)


def test_an_unknown_distance_lists_the_known_ones() -> None:
    with pytest.raises(DatasetError, match="'hamming'; expected one of angular"):
        exact_neighbors(np.ones((2, 2)), np.ones((1, 2)), 1, "hamming")


def test_a_device_without_torch_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DatasetError, match=r"pip install 'vqindex\[torch\]'"):
        exact_knn(np.ones((2, 2)), np.ones((1, 2)), 1, "ip", device="cuda")


def _torch_devices() -> list[str]:
    try:
        import torch
    except ImportError:
        return []
    return ["cpu:0", "cuda"] if torch.cuda.is_available() else ["cpu:0"]


@pytest.mark.skipif(not _torch_devices(), reason="torch is not installed")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", AWKWARD)
def test_torch_devices_give_the_results_of_numpy(monkeypatch: pytest.MonkeyPatch, name: str, metric: str) -> None:
    monkeypatch.setattr(scan.TorchScanner, "tile_rows", 16)
    monkeypatch.setattr(scan.TorchScanner, "tile_queries", 4)
    train, queries = _awkward(name, np.random.default_rng(5))
    want = exact_knn(train, queries, 10, metric)
    for device in _torch_devices():
        ids, scores = exact_knn(train, queries, 10, metric, device=device)
        np.testing.assert_array_equal(ids, want[0])
        np.testing.assert_array_equal(scores, want[1])
