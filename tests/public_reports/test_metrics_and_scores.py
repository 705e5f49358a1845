"""Reports of scores that were nan, of the wrong sign, squared or not, and of neighbors that were a row itself."""

import numpy as np
import pytest
from reports import index_of, rows

from vqindex import OffsetWarning, VQIndex

X = rows()


# sqlite-vec (vlasky) #8: the cosine of a zero vector was NaN, and NaN came first.
# nmslib #321: a query of zeros was at distance 0 from everything.
# qdrant-client #425: it divided by zero with a RuntimeWarning.
# annoy #249: a hundred zero vectors among 100,000 others made the whole index useless.
@pytest.mark.parametrize("center", [None, "mean"])
def test_a_zero_vector_has_cosine_zero_with_everything(center):
    x = X.copy()
    x[7] = 0
    index = index_of(x, metric="cosine", center=center, keep_vectors="f32")
    found = index.search(x, 60, rerank=True)
    assert np.isfinite(index.search(x, 60).scores).all()
    assert (found.scores[7] == 0).all(), "a query of zeros"
    assert (found.scores[:7][found.ids[:7] == 7] == 0).all(), "a vector of zeros"
    assert found.ids[np.arange(60) != 7, 0].tolist() == [i for i in range(60) if i != 7]


# faiss #61: cosine needed vectors normalized by hand.
# faiss #1109: results were poor, and whether the normalization was right was unclear.
def test_cosine_needs_no_normalized_vectors():
    longer = X * np.random.default_rng(1).uniform(0.01, 100, (60, 1)).astype(np.float32)
    true = (X @ X.T) / np.outer(*[np.linalg.norm(X, axis=1)] * 2)
    index = index_of(longer, metric="cosine", keep_vectors="f32")
    found = index.search(longer, 5, rerank=True, oversample=12)
    assert (found.ids == np.argsort(-true, axis=1)[:, :5]).all()
    np.testing.assert_allclose(found.scores, -np.sort(-true, axis=1)[:, :5], atol=1e-6)


# faiss #1083: an index made for one metric answered by another.
# faiss #132: distances of l2 are squared.
# jina-hub #4776: similarities were taken for distances.
def test_scores_of_each_metric_have_its_sign_and_order():
    exact = {"l2": ((X[:, None] - X) ** 2).sum(axis=2), "ip": X @ X.T}
    for metric, true in exact.items():
        found = index_of(X, metric=metric, keep_vectors="f32").search(X, 5, rerank=True, oversample=12)
        best = np.sort(true, axis=1)[:, :5] if metric == "l2" else -np.sort(-true, axis=1)[:, :5]
        np.testing.assert_allclose(found.scores, best, rtol=1e-5, atol=1e-5)  # float32 sums of 16 terms


# faiss #1167: what fills the results of a range search that finds too little?
def test_a_range_search_returns_what_is_in_range_and_no_filler():
    index = index_of(X)
    near = index.range_search(X, 4.0)
    estimates = index.estimate(X, range(60))
    for i, line in enumerate(estimates):
        found = slice(near.lims[i], near.lims[i + 1])
        assert sorted(near.ids[found].tolist()) == np.flatnonzero(line < 4).tolist()
        assert near.scores[found].tolist() == sorted(line[line < 4].tolist())
    everything = index.range_search(X[0], np.inf)
    assert sorted(everything.ids.tolist()) == list(range(60))
    assert (np.diff(everything.scores) >= 0).all()


# scikit-learn #27531: the distance of a row to itself was not 0.
# vsag #2043: distances below 0 from formulas such as 1 - ip.
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine"])
def test_the_distance_of_a_row_to_itself_is_zero_and_none_is_negative(metric):
    neighbors = pytest.importorskip("vqindex.integrations.sklearn").VQNearestNeighbors
    data = np.array([[-0.05634, 0.08516, 0.07541], [0.07924, -0.01755, 0.12372]])
    distances, found = neighbors(n_neighbors=2, metric=metric).fit(data).kneighbors(data)
    assert found[:, 0].tolist() == [0, 1]
    assert (distances >= 0).all()
    np.testing.assert_allclose(distances[:, 0], 0, atol=1e-7 if metric == "cosine" else 0)  # 1 - cos in float32


# scikit-learn #16512: the first neighbor was dropped as the row itself, though a duplicate came first.
# TorchDR #295: the same, so that rows were their own neighbors.
def test_a_row_is_not_its_own_neighbor_even_among_duplicates():
    neighbors = pytest.importorskip("vqindex.integrations.sklearn").VQNearestNeighbors
    data = np.array([[0, 1], [0, 1], [-1, 2], [5, 7], [-3, 2], [9, 9]], float)
    found = neighbors(n_neighbors=2).fit(data).kneighbors(return_distance=False)
    assert not (found == np.arange(6)[:, None]).any()
    assert found[:2].tolist() == [[1, 2], [0, 2]]


# cuml #5788: distances of the metric euclidean were squared.
# scikit-learn #29873: the nearest of row 122 was row 121.
def test_euclidean_distances_are_roots():
    neighbors = pytest.importorskip("vqindex.integrations.sklearn").VQNearestNeighbors
    true = np.sqrt(np.sort(((X[:, None] - X) ** 2).sum(axis=2), axis=1))[:, :3]
    distances, found = neighbors(n_neighbors=3, oversample=20).fit(X).kneighbors(X)
    np.testing.assert_allclose(distances, true, rtol=1e-5)  # float32 sums of 16 terms
    assert found[:, 0].tolist() == list(range(60))


# cleanlab #1113: distances between points far from the origin lost all their digits.
def test_distances_far_from_the_origin_keep_their_digits():
    neighbors = pytest.importorskip("vqindex.integrations.sklearn").VQNearestNeighbors
    data = np.round(X * 4) + 1e8
    true = np.sqrt(np.sort(((data[:, None] - data) ** 2).sum(axis=2), axis=1))[:, :3]
    np.testing.assert_allclose(neighbors(n_neighbors=3, oversample=20).fit(data).kneighbors(data)[0], true, rtol=1e-7)


# weaviate #12502: embeddings with a common offset lost up to six points of recall to quantization.
def test_an_offset_that_dwarfs_the_spread_is_said_with_its_remedy():
    x = rows(200) + 1000
    with pytest.warns(OffsetWarning, match='center="mean"'):
        VQIndex(16, metric="l2").add(x)
    assert index_of(x, center="mean").search(x, 1).ids[:, 0].tolist() == list(range(200))
