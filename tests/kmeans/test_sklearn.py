# SPDX-License-Identifier: Apache-2.0
"""The scikit-learn estimator: its contract, weights by an independent formula, equality with `SphericalKMeans`."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, normalize
from sklearn.utils.estimator_checks import check_estimator

import stylefast
from stylefast.sklearn import SphericalKMeans


def rows(n: int, d: int = 6, seed: int = 0, dtype=np.float64) -> np.ndarray:
    """Rows of random length around five directions."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(5, d))[rng.integers(5, size=n)] + 0.4 * rng.normal(size=(n, d))
    return (x * rng.uniform(0.1, 10, size=(n, 1))).astype(dtype)


def by_hand(x: np.ndarray, weight: np.ndarray, centers: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Centers, labels and inertia of weighted spherical k-means, computed by its equations."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for _ in range(steps):
        labels = (unit @ centers.T).argmax(1)
        sums = np.stack([(weight[:, None] * unit)[labels == k].sum(0) for k in range(len(centers))])
        centers = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    cosine = unit @ centers.T
    return centers, cosine.argmax(1), float((weight * (1 - cosine.max(1))).sum())


@pytest.mark.filterwarnings("ignore")  # some checks cluster four points into eight clusters
def test_check_estimator_passes():
    checks = check_estimator(SphericalKMeans(), on_fail=None, on_skip=None)
    faults = {check["check_name"]: check["exception"] for check in checks if check["status"] != "passed"}
    for needs_a_missing_package in ("check_sample_weights_pandas_series", "check_array_api_input"):
        faults.pop(needs_a_missing_package, None)
    assert len(checks) > 50 and not faults


@pytest.mark.parametrize("dtype, close", [(np.float64, 1e-12), (np.float32, 3e-6)])
def test_weighted_fit_equals_the_formula(dtype, close: float):
    x, rng = rows(400, dtype=dtype), np.random.default_rng(1)
    weight = rng.uniform(0, 3, size=400) ** 3
    weight[::7] = 0
    first = x[[1, 50, 100, 200]]
    got = SphericalKMeans(4, init=first, max_iter=4, tol=0).fit(x, sample_weight=weight)
    centers, labels, inertia = by_hand(x.astype(float), weight, normalize(first.astype(float)), 4)
    assert got.cluster_centers_.dtype == dtype and got.n_iter_ == 4
    np.testing.assert_allclose(got.cluster_centers_, centers, atol=close)
    np.testing.assert_array_equal(got.labels_, labels)
    np.testing.assert_allclose(got.inertia_, inertia, rtol=10 * close)
    np.testing.assert_allclose(got.score(x, sample_weight=weight), -inertia, rtol=10 * close)


@pytest.mark.parametrize("n", [40, 6000], ids=["all rows", "sample"])
def test_integer_weights_equal_repeated_rows_in_any_order(n: int):
    x, rng = rows(n), np.random.default_rng(2)
    weight = rng.integers(0, 4, size=n)
    repeated = rng.permutation(x.repeat(weight, axis=0))
    arguments = {"n_clusters": 5, "n_init": 3, "random_state": 0}
    a = SphericalKMeans(**arguments).fit(x, sample_weight=weight)
    b = SphericalKMeans(**arguments).fit(repeated)
    np.testing.assert_allclose(a.cluster_centers_, b.cluster_centers_, atol=1e-9)
    np.testing.assert_array_equal(a.predict(repeated), b.labels_)


def test_equal_weights_and_weight_scale_do_not_matter():
    x, weight = rows(200), np.random.default_rng(3).uniform(1, 2, size=200)
    none, equal, heavy, light = (
        SphericalKMeans(5, random_state=1).fit(x, sample_weight=sample_weight)
        for sample_weight in (None, np.full(200, 0.25), 1e9 * weight, 1e-9 * weight)
    )
    np.testing.assert_array_equal(none.cluster_centers_, equal.cluster_centers_)
    np.testing.assert_allclose(heavy.cluster_centers_, light.cluster_centers_, atol=1e-12)
    np.testing.assert_allclose(heavy.inertia_, 1e18 * light.inertia_, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_cluster_of_negligible_weight_keeps_its_center(dtype):
    x = np.concatenate([np.tile([[1.0, 0, 0]], (9, 1)), [[0, 1, 0], [0, 2, 2]]]).astype(dtype)
    weight = [1.0] * 9 + [1e-200] * 2
    got = SphericalKMeans(2, init=np.eye(3)[[0, 1]]).fit(x, sample_weight=weight)
    expected = [[1, 0, 0], normalize([[0, 1 + 0.5**0.5, 0.5**0.5]])[0]]
    np.testing.assert_allclose(got.cluster_centers_, expected, atol=1e-6)


def test_empty_cluster_moves_to_farthest_row_of_any_weight():
    x = np.array([[1, 0], [1, 0.1], [1, 0.2], [0.1, 1]])
    got = SphericalKMeans(2, init=np.array([[1.0, 0.0], [1.0, -9.0]])).fit(x, sample_weight=[1, 1e-3, 1, 0.5])
    np.testing.assert_array_equal(got.labels_, [0, 0, 0, 1])


@pytest.mark.parametrize("n", [100, 9000], ids=["all rows", "sample"])
def test_k_means_plus_plus_reaches_every_direction(n: int):
    x = np.eye(7)[np.arange(n) % 7]
    got = SphericalKMeans(7, n_init=1, max_iter=1, random_state=0).fit(x, sample_weight=1.0 + np.arange(n) % 7)
    assert got.inertia_ < 1e-6 * n


@pytest.mark.parametrize("better", [0, 1])
def test_the_best_restart_wins_after_at_least_one_update(better: int):
    x = np.concatenate([np.eye(3)[[0, 1, 2]], np.zeros((1, 3))])
    first = np.array([[[1.0, 1, 0], [0, 0, 1]]] * 2)  # a local optimum, in which the lightest row is a cluster
    first[better] = [[1, 0, 0], [0, 1, 0.1]]
    got = SphericalKMeans(2, init=first).fit(x, sample_weight=[10, 10, 1, 1])
    np.testing.assert_array_equal(got.labels_, [0, 1, 1, 0])
    again = SphericalKMeans(2, init=got.cluster_centers_).fit(x, sample_weight=[10, 10, 1, 1])
    assert again.n_iter_ == 1 and again.inertia_ == got.inertia_


def test_equals_stylefast_spherical_k_means():
    x = rows(500, dtype=np.float32)
    first = x[:5].copy()
    ours = SphericalKMeans(5, init=first).fit(x)
    other = stylefast.SphericalKMeans(5, init=first).fit(x)
    np.testing.assert_array_equal(ours.cluster_centers_, other.centroids_)
    np.testing.assert_array_equal(ours.labels_, other.labels_)
    np.testing.assert_allclose(ours.score(x) / -500, 1 - other.objective_, rtol=1e-5)


def test_transform_is_the_cosine_distance():
    x, weight = rows(50, dtype=np.float32), np.linspace(1, 2, 50)
    x[3] = 0
    got = SphericalKMeans(4, random_state=0).fit(x, sample_weight=weight)
    distance = got.transform(x)
    np.testing.assert_allclose(distance, 1 - normalize(x) @ got.cluster_centers_.T, atol=1e-6)
    np.testing.assert_array_equal(distance[3], 1)
    np.testing.assert_array_equal(distance.argmin(1), got.labels_)
    np.testing.assert_allclose(got.inertia_, distance.min(1) @ weight, rtol=1e-5)


def test_pipeline_clone_and_pickle():
    x, weight = rows(120), np.random.default_rng(4).uniform(size=120)
    pipeline = make_pipeline(FunctionTransformer(np.sqrt), SphericalKMeans(4, random_state=3, init="random"))
    labels = pipeline.fit_predict(np.abs(x), sphericalkmeans__sample_weight=weight)
    again = clone(pipeline).fit(np.abs(x), sphericalkmeans__sample_weight=weight)
    np.testing.assert_array_equal(again[-1].labels_, labels)
    loaded = pickle.loads(pickle.dumps(again))
    np.testing.assert_array_equal(loaded.predict(np.abs(x)), labels)
    assert list(loaded[-1].get_feature_names_out()) == [f"sphericalkmeans{k}" for k in range(4)]
    assert clone(loaded[-1]).get_params() == pipeline[-1].get_params()


def test_clusters_that_stay_empty_issue_a_warning():
    with pytest.warns(ConvergenceWarning, match="1 of 3 clusters are empty"):
        SphericalKMeans(3, random_state=0).fit(np.array([[1.0], [2.0], [-1.0]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SphericalKMeans(2, random_state=0).fit(np.array([[1.0], [2.0], [-1.0]]))


@pytest.mark.parametrize(
    "arguments, weight, message",
    [
        ({"n_clusters": 0}, None, "n_clusters must be"),
        ({"tol": -1}, None, "tol must be"),
        ({"init": "k-means"}, None, "init must be one of"),
        ({"init": np.ones((8, 5))}, None, r"init must have 6 features, got shape \(8, 5\)"),
        ({"backend": "none"}, None, "backend must be one of"),
        ({}, [-1.0] + [1.0] * 19, "sample_weight must be >= 0, got -1"),
        ({}, [1.0] * 7 + [0.0] * 13, "n_clusters=8 for 7 of n_samples=20 rows"),
    ],
)
def test_arguments_are_validated_by_fit(arguments, weight, message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        SphericalKMeans(**arguments).fit(rows(20), sample_weight=weight)
