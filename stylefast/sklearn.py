# SPDX-License-Identifier: Apache-2.0
"""Spherical k-means as a scikit-learn estimator on the kernels of this package. It needs scikit-learn 1.6 or later."""

from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags, check_array, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from . import kmeans
from .core.checks import as_tensor, to_tensor
from .kmeans.batch import NARROW, Batch, unit_vectors
from .kmeans.weighted import fit_weighted_rows

__all__ = ["SphericalKMeans"]

FLOATS: Any = (np.float64, np.float32)  # dtypes of rows; others are converted to the first
DIRECT = "donot_use_mm_for_euclid_dist"  # mode of torch.cdist that subtracts before it squares


class SphericalKMeans(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """Spherical k-means of rows with weights, with the interface of scikit-learn's `KMeans`.

    For rows `x_i` with weights `w_i`, the estimator minimises the inertia::

        inertia = sum_i w_i (1 - <x_i / |x_i|, c_label(i)>)
        label(i) = argmax_k <x_i, c_k>
        c_k = normalise(sum_{i in k} w_i x_i / |x_i|)

    Rows need not be normalised. A row of zeros has label 0 and is not added to centers. A row with an integer weight
    has the same effect as that many copies of the row, and the order of rows does not matter. Both hold up to rounding
    and, with `init="random"`, up to the random choices. For activations, streams of batches, checkpoints or a GPU, use
    `stylefast.SphericalKMeans`, which runs the same steps.

    Args:
        n_clusters: Number of clusters K, at most the number of nonzero rows with a nonzero weight.
        init: "k-means++" (greedy) or "random", to choose centers from a sample of max(4096, 64 K) rows drawn by weight.
            Alternatively, initial centers of shape [K, n_features], or [B, K, n_features] for B restarts.
        n_init: Number of restarts, which share every read of the rows. The restart with the least inertia is used.
            Ignored if `init` is an array.
        max_iter: Maximum number of updates per restart.
        tol: Relative gain of the mean cosine below which a restart ends.
        random_state: Random seed: None, an int or a `numpy.random.RandomState`.
        backend: Name of a backend, as in `stylefast.assign`.

    Attributes:
        cluster_centers_: Centers of unit norm, [K, n_features], in the dtype of the rows; float64 for rows in narrow
            cones, see `stylefast.kmeans`.
        labels_: Labels of the rows given to `fit`, [n_samples] int32, as `predict` returns them.
        inertia_: Inertia of the rows given to `fit`. It is half the weighted sum of the squared distances between the
            unit-normalised rows and their centers.
        n_iter_: Number of updates of the best restart, at least 1.
        n_features_in_: Number of features of the rows given to `fit`.
        feature_names_in_: Names of the features, if the rows given to `fit` have names.

    References:
        Dhillon and Modha, "Concept decompositions for large sparse text data using clustering", 2001.

    Example:
        >>> import numpy as np
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> from stylefast.sklearn import SphericalKMeans
        >>> rows = np.random.default_rng(0).normal(size=(1000, 16))
        >>> make_pipeline(StandardScaler(), SphericalKMeans(20, random_state=0)).fit_predict(rows).shape
        (1000,)
    """

    cluster_centers_: np.ndarray
    labels_: np.ndarray
    inertia_: float
    n_iter_: int
    n_features_in_: int
    feature_names_in_: np.ndarray

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: str | ArrayLike = "k-means++",
        n_init: int = 10,
        max_iter: int = 300,
        tol: float = 1e-5,
        random_state: int | np.random.RandomState | None = None,
        backend: str | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.backend = backend

    def fit(self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None) -> SphericalKMeans:
        """Cluster rows.

        X is not copied unless the weights differ, a row or a weight is zero, or the rows lie in narrow cones. A
        positive weight below 3e-10 of the largest weight (1e-77 in float64) is raised to that bound.

        Args:
            X: Rows of shape [n_samples, n_features]; float32 or float64. Other dtypes are converted to float64.
            y: Not used.
            sample_weight: Weights >= 0 of the rows, [n_samples]. The default is equal weights.

        Returns:
            The fitted estimator itself.

        Raises:
            TypeError: If an argument of the constructor has a wrong type.
            ValueError: If an argument of the constructor is out of range, rows or weights contain NaN or Inf, the norm
                of a row overflows or underflows, a weight is negative, or there are fewer nonzero rows with a nonzero
                weight than clusters.
        """
        X, sample_weight = self._validated(X, sample_weight, reset=True)
        names = ("n_clusters", "n_init", "max_iter", "tol", "backend")
        init = (
            self.init if isinstance(self.init, (str, Tensor)) else check_array(self.init, dtype=FLOATS, allow_nd=True)
        )
        parameters = kmeans.SphericalKMeans(init=init, **{name: getattr(self, name) for name in names})  # validates
        seed = int(check_random_state(self.random_state).randint(1 << 31))
        rows, weights = as_tensor("X", X, "[n_samples, n_features]", 2), to_tensor("sample_weight", sample_weight)
        nonzero = (weights > 0) & (_norms(rows) > 0)
        if int(nonzero.sum()) < parameters.n_clusters:
            raise ValueError(
                f"n_clusters must be at most the number of nonzero rows with a nonzero weight, got "
                f"n_clusters={parameters.n_clusters} for {int(nonzero.sum())} of n_samples={len(rows)} rows"
            )
        if not nonzero.all():
            rows, weights = rows[nonzero], weights[nonzero]
        runs = fit_weighted_rows(rows, weights, parameters, seed)
        best = max(runs, key=lambda run: run.objective)
        if best.n_empty:
            warnings.warn(f"{best.n_empty} of {parameters.n_clusters} clusters are empty", ConvergenceWarning, 2)
        self.cluster_centers_, self.n_iter_ = np.asarray(best.centroids), max(1, best.n_iter)
        self.labels_, self.inertia_ = self._labels_and_inertia(X, sample_weight)
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Return the label of every row.

        Args:
            X: Rows of shape [n_samples, n_features].

        Returns:
            Labels of shape [n_samples], int32.

        Raises:
            NotFittedError: If `fit` was not called.
            ValueError: If X has another number of features, or contains NaN or Inf.
        """
        check_is_fitted(self)
        return self._batch(self._validated(X)[0]).assign(self._centers()).labels.flatten().numpy()

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Return the cosine distance of every row to every center.

        For row i and center k it is `1 - <x_i / |x_i|, c_k>`. Small distances have the same relative precision as large
        ones.

        Args:
            X: Rows of shape [n_samples, n_features].

        Returns:
            Distances of shape [n_samples, K], in the dtype of X.

        Raises:
            NotFittedError: If `fit` was not called.
            ValueError: If X has another number of features, or contains NaN or Inf.
        """
        check_is_fitted(self)
        rows = as_tensor("X", self._validated(X)[0], "[n_samples, n_features]", 2)
        norm, centers = _norms(rows)[:, None], self._centers()
        distances = 1 - rows @ centers.to(rows.dtype).T / norm.where(norm > 0, 1)  # [n, K]
        small = (distances < NARROW).any(1)
        exact = torch.cdist(unit_vectors(rows[small].double()), unit_vectors(centers.double()), compute_mode=DIRECT)
        distances[small] = (exact.square() / 2).to(rows.dtype)
        return distances.numpy()

    def score(self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None) -> float:
        """Return the negative inertia of rows, `-sum_i w_i (1 - cos_i)`.

        Args:
            X: Rows of shape [n_samples, n_features].
            y: Not used.
            sample_weight: Weights >= 0 of the rows, [n_samples]. The default is equal weights.

        Returns:
            Negative inertia.

        Raises:
            NotFittedError: If `fit` was not called.
            ValueError: If X has another number of features, rows or weights contain NaN or Inf, or a weight is
                negative.
        """
        check_is_fitted(self)
        X, sample_weight = self._validated(X, sample_weight)
        return -self._labels_and_inertia(X, sample_weight)[1]

    def _validated(
        self, X: ArrayLike, sample_weight: ArrayLike | None = None, reset: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and weights as arrays of the dtypes that the kernels and the sums accept."""
        rows = np.asarray(validate_data(self, cast(Any, X), dtype=FLOATS, reset=reset))
        weight = _check_sample_weight(sample_weight, rows, dtype=np.float64)
        if weight.min(initial=0) < 0:
            raise ValueError(f"sample_weight must be >= 0, got {weight.min()}")
        return rows, weight

    def _batch(self, X: np.ndarray) -> Batch:
        return Batch.from_array(X, "raw", self.backend, "X")

    def _centers(self) -> Tensor:
        return to_tensor("cluster_centers_", self.cluster_centers_)

    def _labels_and_inertia(self, X: np.ndarray, sample_weight: np.ndarray) -> tuple[np.ndarray, float]:
        weights = to_tensor("sample_weight", sample_weight)[
            None, :, None
        ]  # [1, n_samples, 1], as the shape of the labels
        labels, distances = self._batch(X).distances(self._centers(), weights)
        return labels.flatten().numpy(), float((weights * distances).sum())

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _norms(rows: Tensor) -> Tensor:
    """Return the norms of rows, [n]. Raise ValueError if the square of a norm overflows or underflows."""
    norm = torch.linalg.vector_norm(rows, dim=1)
    small = (norm < torch.finfo(rows.dtype).tiny ** 0.5).nonzero().squeeze(1)
    wrong = torch.cat(((~norm.isfinite()).nonzero().squeeze(1), small[rows[small].any(1)]))
    if len(wrong):
        raise ValueError(
            f"X must have rows whose squared norms are zero or normal numbers of {rows.dtype}, got {len(wrong)} of "
            f"{len(rows)} rows with a norm that overflows or underflows, the first at row {int(wrong.min())}"
        )
    return norm
