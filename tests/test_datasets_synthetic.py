"""Synthetic data is reproducible, and each set has the property that its name promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vqindex_datasets import SYNTHETIC, DatasetError, growing_mixture, load_annbench, make, make_synthetic_file

pytestmark = pytest.mark.filterwarnings("error")

N, DIM, NQ = 2_000, 32, 100


def _both(name: str) -> np.ndarray:
    train, test, _ = make(name, N, DIM, queries=NQ, seed=11)
    return np.concatenate([train, test]).astype(np.float64)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_seed_gives_the_same_rows_of_the_asked_shape(name: str) -> None:
    train, test, distance = make(name, N, DIM, queries=NQ, seed=11)
    assert train.shape == (N, DIM)
    assert test.shape == (NQ, DIM)
    assert train.dtype == test.dtype == np.float32
    assert distance in ("angular", "euclidean", "ip")
    assert np.isfinite(train).all()
    again = make(name, N, DIM, queries=NQ, seed=11)
    np.testing.assert_array_equal(again[0], train)
    np.testing.assert_array_equal(again[1], test)
    assert not np.array_equal(make(name, N, DIM, queries=NQ, seed=12)[0], train)


@pytest.mark.parametrize("name", SYNTHETIC)
@pytest.mark.parametrize("n", [1, 2, 25])
def test_one_dimension_and_few_rows_give_finite_values_of_the_asked_shape(name: str, n: int) -> None:
    train, test, _ = make(name, n, 1, queries=1, seed=0)
    assert train.shape == (n, 1)
    assert test.shape == (1, 1)
    assert train.dtype == test.dtype == np.float32
    assert np.isfinite(train).all()
    assert np.isfinite(test).all()


def test_gaussian_has_mean_0_and_variance_1() -> None:
    rows = _both("gaussian")
    # 67,200 values: the standard error of the mean is 0.004, that of the variance 0.0055; five of each.
    assert abs(rows.mean()) < 0.02
    assert abs(rows.var() - 1) < 0.028


def test_sphere_rows_have_unit_length() -> None:
    # float32 rounds each coordinate by at most 6e-8 of itself, so the norm by no more.
    np.testing.assert_allclose(np.linalg.norm(_both("sphere"), axis=1), 1, rtol=0, atol=1.2e-7)


def test_clustered_rows_lie_near_others_of_their_cluster() -> None:
    """Rows of one cluster are far nearer than others: 0.2 sqrt(64) against sqrt(64)."""
    train, test, _ = make("clustered", N, DIM, queries=NQ, seed=11)
    distances = np.linalg.norm(test[:, None].astype(np.float64) - train, axis=2)
    # A chi variable with 32 degrees of freedom stays within half of its mean in any sample of this size.
    assert distances.min(axis=1).max() < 0.5 * np.median(distances)


def test_decay_has_a_power_law_spectrum_in_a_random_basis() -> None:
    values = np.linalg.svd(_both("decay"), compute_uv=False)
    slope = np.polyfit(np.log(np.arange(1, DIM + 1)), np.log(values), 1)[0]
    # The spectrum is 1/i. 2,100 rows determine each value to about 2 %, and the slope over five octaves much
    # better than to 0.1.
    assert abs(slope + 1) < 0.1
    # In a random basis no coordinate has most of the variance of the first direction.
    share = _both("decay").var(axis=0)
    assert share.max() < 0.6 * share.sum()


def test_large_mean_lies_far_from_0_with_unit_noise() -> None:
    rows = _both("large-mean")
    assert np.linalg.norm(rows.mean(axis=0)) > 100 * np.sqrt(DIM)
    # The noise has variance 1. 2,100 rows determine it to 3 % for each coordinate; four times that is 12 %.
    np.testing.assert_allclose(rows.var(axis=0), 1, rtol=0, atol=0.12)


def test_duplicates_repeat_each_row_about_ten_times() -> None:
    distinct = len(np.unique(_both("duplicates"), axis=0))
    assert 0.5 * (N + NQ) / 10 < distinct <= (N + NQ) // 10


@pytest.mark.parametrize("n", [5, N])
def test_zeros_has_one_zero_row_in_twenty(n: int) -> None:
    train, test, _ = make("zeros", n, DIM, queries=NQ, seed=11)
    assert (~np.concatenate([train, test]).any(axis=1)).sum() == (n + NQ + 19) // 20


def test_outlier_norms_have_a_heavy_tail() -> None:
    norms = np.linalg.norm(_both("outlier-norms"), axis=1)
    # Log-normal with sigma 1.5: the 99 % quantile is exp(2.33 * 1.5) = 33 medians.
    assert np.quantile(norms, 0.99) > 15 * np.median(norms)


def test_sparse_rows_have_one_nonzero_value() -> None:
    rows = _both("sparse")
    np.testing.assert_array_equal((rows != 0).sum(axis=1), 1)
    assert ((rows != 0).sum(axis=0) > 0).all()


def test_binary_rows_are_fair_signs() -> None:
    rows = _both("binary")
    np.testing.assert_array_equal(np.unique(rows), [-1, 1])
    # 67,200 fair signs: the mean has standard error 0.004; five of them.
    assert abs(rows.mean()) < 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("uniform", 5, 5, 5, 0), "'uniform'; expected one of gaussian"),
        (("gaussian", 0, 5, 5, 0), "n = 0"),
        (("gaussian", 5, 0, 5, 0), "dim = 0"),
        (("gaussian", 5, 5, 0, 0), "queries = 0"),
        (("gaussian", 5, 5, 5, -1), "seed = -1"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[str, int, int, int, int], message: str) -> None:
    name, n, dim, queries, seed = arguments
    with pytest.raises(DatasetError, match=message):
        make(name, n, dim, queries=queries, seed=seed)


@pytest.mark.parametrize(("metric", "k"), [(None, 100), ("cosine", 5), ("l2", 5), ("ip", 5)])
def test_a_synthetic_file_holds_the_made_rows(tmp_path: Path, metric: str | None, k: int) -> None:
    path = make_synthetic_file("outlier-norms", tmp_path / "a.hdf5", 60, 4, 3, 1, k=k, metric=metric)
    data = load_annbench(path)
    assert (data.n, data.dim, data.nq, data.gt_k) == (60, 4, 3, min(k, 60))
    assert data.metric == (metric or "ip")
    np.testing.assert_array_equal(data.train.read(), make("outlier-norms", 60, 4, queries=3, seed=1)[0])


def test_a_file_with_a_wrong_metric_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="'angular'; expected one of cosine"):
        make_synthetic_file("zeros", tmp_path / "a.hdf5", 60, 4, 3, 1, metric="angular")


@pytest.mark.parametrize("n", [1, 16_383, 16_384, 16_385])
def test_a_growing_mixture_keeps_its_first_rows_and_its_queries(n: int) -> None:
    rows, test = growing_mixture(16_400, 8, queries=30, seed=3)
    first, same = growing_mixture(n, 8, queries=30, seed=3)
    np.testing.assert_array_equal(first, rows[:n])
    np.testing.assert_array_equal(same, test)
    assert rows.dtype == test.dtype == np.float32
    assert np.isfinite(rows).all()
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert not np.array_equal(growing_mixture(n, 8, queries=30, seed=4)[0], first)


def test_neighbors_in_a_growing_mixture_come_nearer() -> None:
    """The same clusters hold more rows. In sets of their own clusters distances would stay."""
    rows, test = growing_mixture(40_000, 16, queries=100, seed=3)
    squares = (test**2).sum(axis=1)[:, None] + (rows**2).sum(axis=1) - 2 * test @ rows.T
    nearest = [np.median(np.sort(squares[:, :n], axis=1)[:, 9]) for n in (2_000, 40_000)]
    assert nearest[1] < 0.8 * nearest[0]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((0, 5, 5, 0), "n = 0"), ((5, 0, 5, 0), "dim = 0"), ((5, 5, 0, 0), "queries = 0"), ((5, 5, 5, -1), "seed = -1")],
)
def test_a_growing_mixture_refuses_wrong_sizes(sizes: tuple[int, int, int, int], message: str) -> None:
    n, dim, queries, seed = sizes
    with pytest.raises(DatasetError, match=message):
        growing_mixture(n, dim, queries=queries, seed=seed)
