"""scikit-learn's checks of the estimators, and pipelines that use them."""

import doctest
import pickle

import numpy as np
import pages
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'vqindex[sklearn]'")

from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.manifold import TSNE
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KNeighborsClassifier, KNeighborsTransformer, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import vqindex.integrations.sklearn
from vqindex import InvalidInputError
from vqindex.integrations.sklearn import VQKNeighborsTransformer, VQNearestNeighbors

METRICS = ("euclidean", "sqeuclidean", "cosine")


# No check is expected to fail.
@parametrize_with_checks(
    [VQNearestNeighbors(), VQNearestNeighbors(oversample=None), VQKNeighborsTransformer(n_neighbors=3)]
)
def test_every_estimator_check_of_scikit_learn_passes(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    rows, labels = load_digits(return_X_y=True)
    return train_test_split(rows, labels, test_size=300, random_state=0, stratify=labels)


def rows_of(n, dim=24, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
def test_all_rows_as_candidates_give_exact_neighbors(metric):
    """When every row is a candidate the results must be those of brute force."""
    rows, queries = rows_of(200), rows_of(17, seed=1)
    ours = VQNearestNeighbors(n_neighbors=7, metric=metric, oversample=200 / 7).fit(rows)
    exact = NearestNeighbors(n_neighbors=7, metric=metric, algorithm="brute").fit(rows.astype(np.float64))
    for asked in (queries, None):
        distances, found = ours.kneighbors(asked)
        true_distances, true = exact.kneighbors(None if asked is None else asked.astype(np.float64))
        np.testing.assert_array_equal(found, true)
        # Scores are rounded to float32 once. For a cosine near 1, half a unit in the last place is 3e-8.
        np.testing.assert_allclose(distances, true_distances, rtol=1e-6, atol=1e-7 if metric == "cosine" else 0)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("oversample", [None, 2.0])
def test_most_neighbors_are_true(metric, oversample):
    rows, queries = rows_of(1000), rows_of(50, seed=1)
    found = VQNearestNeighbors(10, metric=metric, oversample=oversample).fit(rows).kneighbors(queries)[1]
    true = NearestNeighbors(n_neighbors=10, metric=metric).fit(rows).kneighbors(queries)[1]
    overlap = np.mean([len(set(f) & set(t)) / 10 for f, t in zip(found, true, strict=True)])
    # Measured: 0.88 to 0.89 with four bits, 0.99 reranked. The seeds are fixed, so only the codec can change it.
    assert overlap > (0.85 if oversample is None else 0.98)


@pytest.mark.parametrize("metric", METRICS)
def test_distances_rise_and_are_those_of_the_rows(metric):
    rows = rows_of(300)
    distances, found = VQNearestNeighbors(5, metric=metric).fit(rows).kneighbors(rows)
    assert (np.diff(distances, axis=1) >= 0).all()
    np.testing.assert_array_equal(found[:, 0], np.arange(300))
    np.testing.assert_array_equal(distances[:, 0], 0)


def test_estimates_are_never_negative():
    rows = rows_of(300)
    distances, _ = VQNearestNeighbors(5, metric="sqeuclidean", oversample=None, bits=2).fit(rows).kneighbors(rows)
    assert (distances >= 0).all()
    assert (np.diff(distances, axis=1) >= 0).all()


def test_a_zero_vector_has_cosine_distance_one():
    rows = np.vstack([np.zeros((1, 24), np.float32), rows_of(5)])
    nearest = VQNearestNeighbors(6, metric="cosine").fit(rows)
    distances, found = nearest.kneighbors(rows[:1])
    np.testing.assert_array_equal(distances, 1)
    assert sorted(found[0]) == list(range(6))


def test_training_rows_are_not_their_own_neighbors():
    rows = np.repeat(rows_of(20), 3, axis=0)  # each row three times: ties everywhere
    distances, found = VQNearestNeighbors(2).fit(rows).kneighbors()
    assert found.shape == (60, 2)
    assert not (found == np.arange(60)[:, None]).any()
    np.testing.assert_array_equal(found // 3, np.repeat(np.arange(20), 3)[:, None].repeat(2, axis=1))
    np.testing.assert_array_equal(distances, 0)


@pytest.mark.parametrize("mode", ["distance", "connectivity"])
def test_the_graph_is_that_of_kneighborstransformer(mode):
    rows, queries = rows_of(200), rows_of(17, seed=1)
    ours = VQKNeighborsTransformer(mode=mode, n_neighbors=4, oversample=50).fit(rows)
    theirs = KNeighborsTransformer(mode=mode, n_neighbors=4, algorithm="brute").fit(rows)
    for asked in (rows, queries):
        graph, expected = ours.transform(asked), theirs.transform(asked)
        assert isinstance(graph, csr_matrix)
        assert graph.shape == expected.shape
        assert graph.nnz == expected.nnz
        # scikit-learn's distances of a float32 row to itself are not quite 0.
        np.testing.assert_allclose(graph.toarray(), expected.toarray(), atol=2e-3)
    assert list(ours.get_feature_names_out())[:1] == ["vqkneighborstransformer0"]


def test_a_classifier_on_the_graph_is_as_accurate_as_on_exact_neighbors(digits):
    train, test, train_labels, test_labels = digits
    pipeline = make_pipeline(
        VQKNeighborsTransformer(n_neighbors=5), KNeighborsClassifier(n_neighbors=5, metric="precomputed")
    )
    score = pipeline.fit(train, train_labels).score(test, test_labels)
    exact = KNeighborsClassifier(n_neighbors=5).fit(train, train_labels).score(test, test_labels)
    # Measured: equal (0.977). A changed neighbor may change the vote for three of the 300 digits.
    assert abs(score - exact) <= 0.01
    search = GridSearchCV(pipeline, {"vqkneighborstransformer__bits": [1, 4]}, cv=3).fit(
        train[:600], train_labels[:600]
    )
    assert search.best_score_ > 0.9


def test_tsne_on_the_graph_keeps_digits_together(digits):
    rows, _, labels, _ = digits
    rows, labels = rows[:400], labels[:400]
    tsne = TSNE(metric="precomputed", init="random", perplexity=10, max_iter=300, random_state=0)
    flat = make_pipeline(VQKNeighborsTransformer(n_neighbors=31), tsne).fit_transform(rows)
    assert flat.shape == (400, 2)
    nearest = KNeighborsClassifier(n_neighbors=1).fit(flat[::2], labels[::2])
    # Measured: 0.955; noise gives 0.1.
    assert nearest.score(flat[1::2], labels[1::2]) > 0.8


@pytest.mark.parametrize("oversample", [None, 2.0])
def test_pickle_keeps_the_index(oversample):
    rows = rows_of(100)
    nearest = VQNearestNeighbors(3, oversample=oversample).fit(rows)
    again = pickle.loads(pickle.dumps(nearest))
    for one, other in zip(nearest.kneighbors(rows), again.kneighbors(rows), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not hasattr(clone(nearest), "index_")


def test_errors_name_the_value():
    rows = rows_of(10)
    nearest = VQNearestNeighbors(3).fit(rows)
    with pytest.raises(ValueError, match="n_neighbors = 11, n_samples_fit = 10"):
        nearest.kneighbors(rows, 11)
    with pytest.raises(ValueError, match="n_neighbors = 10, n_samples_fit = 10"):
        nearest.kneighbors(None, 10)
    with pytest.raises(ValueError, match="n_neighbors is 0"):
        nearest.kneighbors(rows, 0)
    with pytest.raises(ValueError, match="mode is 'weights'"):
        nearest.kneighbors_graph(rows, mode="weights")
    with pytest.raises(ValueError, match="oversample=None"):
        VQNearestNeighbors(3, oversample=None).fit(rows).kneighbors()
    for wrong in ({"bits": 9}, {"metric": "hamming"}, {"oversample": 0.5}, {"n_neighbors": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            VQNearestNeighbors(**wrong).fit(rows)


def test_examples_of_the_page_and_the_docstrings_run(tmp_path, monkeypatch):
    pages.run("docs/integrations.md", "sklearn", tmp_path, monkeypatch)
    result = doctest.testmod(vqindex.integrations.sklearn)
    assert result.attempted > 2
    assert result.failed == 0


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("offset", [0, 3, 10, 100, 1000])
def test_neighbors_of_rows_with_a_common_offset_are_found(metric, offset):
    """Features of tables have means of their own. Without a center recall fell from .997 to .001 at 1000."""
    rng = np.random.default_rng(0)
    rows, queries = (rng.standard_normal((n, 16)) + offset for n in (2000, 200))
    truth = NearestNeighbors(n_neighbors=5, metric=metric).fit(rows).kneighbors(queries, return_distance=False)
    found = VQNearestNeighbors(n_neighbors=5, metric=metric).fit(rows).kneighbors(queries, return_distance=False)
    recall = np.mean([np.isin(line, want).mean() for line, want in zip(found, truth, strict=True)])
    assert recall > (0.95 if metric == "euclidean" or offset <= 100 else 0.5)  # float32 holds little of the angles


def test_rows_that_change_after_fit_change_no_distance():
    rows = rows_of(60)
    estimator = VQNearestNeighbors(n_neighbors=3).fit(rows)
    want = estimator.kneighbors(rows_of(60)[:5])
    rows[:] = 0  # as a scaler with copy=False does
    for got, before in zip(estimator.kneighbors(rows_of(60)[:5]), want, strict=True):
        np.testing.assert_array_equal(got, before)


def test_distances_are_of_the_metric_at_fit():
    rows = rows_of(60)
    estimator = VQNearestNeighbors(n_neighbors=3, metric="l2").fit(rows)
    assert estimator.effective_metric_ == "euclidean"
    want = NearestNeighbors(n_neighbors=3).fit(rows.astype(np.float64)).kneighbors(rows[:5].astype(np.float64))
    estimator.set_params(metric="cosine")
    for got, true in zip(estimator.kneighbors(rows[:5]), want, strict=True):
        # Distances are float32, and scikit-learn's of a vector to itself is the root of a rounding error.
        np.testing.assert_allclose(got, true, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("wrong", [np.full((40, 3), np.nan), np.arange(120.0).reshape(40, 3) * 1e30])
def test_a_fit_that_fails_leaves_the_estimator_as_it_was(wrong):
    rows = rows_of(60)
    estimator = VQNearestNeighbors(n_neighbors=3).fit(rows)
    want = estimator.kneighbors(rows[:5])
    with pytest.raises(ValueError, match=r"NaN|norm"):
        estimator.fit(wrong)
    for got, before in zip(estimator.kneighbors(rows[:5]), want, strict=True):
        np.testing.assert_array_equal(got, before)


def test_a_fit_in_the_middle_of_a_search_changes_nothing(monkeypatch):
    rows = rows_of(60)
    estimator = VQNearestNeighbors(n_neighbors=60).fit(rows)
    want = [*estimator.kneighbors(rows[:5]), estimator.kneighbors_graph(rows[:5]).toarray()]

    def fit_another(n_jobs):
        estimator.fit(rows_of(7, dim=24, seed=3))
        return 1

    monkeypatch.setattr(vqindex.integrations.sklearn, "effective_n_jobs", fit_another)
    got = [*estimator.kneighbors(rows[:5])]
    estimator.fit(rows)
    got.append(estimator.kneighbors_graph(rows[:5]).toarray())
    for one, before in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, before)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
@pytest.mark.parametrize("offset", [1e5, 1e7, 1.7e9])
def test_offsets_beyond_the_digits_of_float32_lose_no_neighbor(metric, offset):
    rows = rows_of(500).astype(np.float64)
    rows[:, 0] = rows[:, 0] * 10 + offset  # a time among other features
    rows[:, 1:] += offset / 1000
    ours = VQNearestNeighbors(n_neighbors=5, metric=metric, oversample=8).fit(rows)
    exact = NearestNeighbors(n_neighbors=5, metric="euclidean", algorithm="kd_tree").fit(rows)
    for asked in (rows[:50], None):
        distances, found = ours.kneighbors(asked)
        true_distances, true = exact.kneighbors(asked)
        np.testing.assert_array_equal(found, true)
        power = 1 if metric == "euclidean" else 2
        np.testing.assert_allclose(distances, true_distances**power, rtol=1e-5)  # float32 differences
    np.testing.assert_allclose(ours.offset_, rows.mean(axis=0))


def test_values_too_large_for_float32_are_named():
    rows = rows_of(60).astype(np.float64)
    estimator = VQNearestNeighbors(n_neighbors=2).fit(rows)
    rows[7, 3] = 1e300
    for call in (estimator.fit, estimator.kneighbors):
        with pytest.raises(InvalidInputError, match=r"(vectors|queries)\[\d+, 3\] is -?inf; expected a finite float32"):
            call(rows)


def test_seeds_of_every_form_of_scikit_learn_are_taken():
    rows = rows_of(60)
    for state in (None, np.int64(3), np.random.RandomState(3)):
        estimator = VQNearestNeighbors(n_neighbors=1, random_state=state).fit(rows)
        assert estimator.kneighbors(rows)[1].ravel().tolist() == list(range(60)), state
    for wrong, message in ((2.5, "cannot be used to seed"), (-1, "seed is -1")):
        with pytest.raises(ValueError, match=message):
            VQNearestNeighbors(random_state=wrong).fit(rows)
    with pytest.raises(InvalidInputError, match=r"metric is \['l2'\]"):
        VQNearestNeighbors(metric=["l2"]).fit(rows)


@pytest.mark.parametrize("k", [1, 5])
def test_few_neighbors_of_clusters_far_apart_are_true(k):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2000, 4)) + rng.uniform(-10, 10, (5, 4))[np.arange(2000) % 5]
    found = VQNearestNeighbors(k).fit(rows).kneighbors(rows[:200])[1]
    exact = NearestNeighbors(n_neighbors=k).fit(rows).kneighbors(rows[:200])[1]
    assert np.mean([len({*a} & {*b}) / k for a, b in zip(found, exact, strict=True)]) > 0.95
