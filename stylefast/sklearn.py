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
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor
from torch.nn.functional import normalize, pad

from . import kmeans
from .core.checks import as_tensor
from .kmeans.data import Batch, Sums
from .kmeans.initialization import SAMPLE, centroids_of_sample, unit_centroids
from .kmeans.lloyd import BatchedLloyd
from .ops.assign import Assignment

__all__ = ["SphericalKMeans"]


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
        cluster_centers_: Centers of unit norm, [K, n_features], in the dtype of the rows.
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
        init: str | np.ndarray = "k-means++",
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

        X is not copied unless the weights differ or a row or a weight is zero. A positive weight below 3e-10 of the
        largest weight (1e-77 in float64) is raised to that bound.

        Args:
            X: Rows of shape [n_samples, n_features]; float32 or float64. Other dtypes are converted to float64.
            y: Not used.
            sample_weight: Weights >= 0 of the rows, [n_samples]. The default is equal weights.

        Returns:
            The fitted estimator itself.

        Raises:
            TypeError: If an argument of the constructor has a wrong type.
            ValueError: If an argument of the constructor is out of range, rows or weights contain NaN or Inf, a weight
                is negative, or there are fewer nonzero rows with a nonzero weight than clusters.
        """
        X, sample_weight = self._validated(X, sample_weight, reset=True)
        names = ("n_clusters", "n_init", "init", "max_iter", "tol", "backend")
        parameters = kmeans.SphericalKMeans(**{name: getattr(self, name) for name in names})  # validated by it
        rng = torch.Generator().manual_seed(int(check_random_state(self.random_state).randint(1 << 31)))
        rows, weights = as_tensor("X", X, "[n_samples, n_features]", 2), torch.from_numpy(sample_weight)
        nonzero = (weights > 0) & (torch.linalg.vector_norm(rows, dim=1) > 0)
        if int(nonzero.sum()) < parameters.n_clusters:
            raise ValueError(
                f"n_clusters must be at most the number of nonzero rows with a nonzero weight, got "
                f"n_clusters={parameters.n_clusters} for {int(nonzero.sum())} of n_samples={len(rows)} rows"
            )
        if not nonzero.all():
            rows, weights = rows[nonzero], weights[nonzero]
        points = _WeightedRows(rows, weights, self.backend)
        state = BatchedLloyd(_initial_centroids(rows, weights, parameters, rng))
        while state.active:
            state.advance(points, parameters.tol, parameters.max_iter)
        best = max(state.runs, key=lambda run: run.objective)
        if best.n_empty:
            warnings.warn(f"{best.n_empty} of {parameters.n_clusters} clusters are empty", ConvergenceWarning, 2)
        self.cluster_centers_, self.n_iter_ = np.asarray(best.centroids), max(1, best.n_iter)
        assignment = self._assign(X)
        self.labels_, self.inertia_ = assignment.labels.flatten().numpy(), _inertia(assignment, sample_weight)
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
        return self._assign(self._validated(X)[0]).labels.flatten().numpy()

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Return the cosine distance of every row to every center.

        For row i and center k it is `1 - <x_i / |x_i|, c_k>`.

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
        norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        scores = rows @ torch.from_numpy(self.cluster_centers_).to(rows.dtype).T  # [n, K]
        return (1 - scores / norm.where(norm > 0, 1)).numpy()

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
        return -_inertia(self._assign(X), sample_weight)

    def _validated(
        self, X: ArrayLike, sample_weight: ArrayLike | None = None, reset: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and weights as arrays of the dtypes that the kernels and the sums accept."""
        rows = np.asarray(validate_data(self, cast(Any, X), dtype=(np.float64, np.float32), reset=reset))
        weight = _check_sample_weight(sample_weight, rows, dtype=np.float64)
        if weight.min(initial=0) < 0:
            raise ValueError(f"sample_weight must be >= 0, got {weight.min()}")
        return rows, weight

    def _assign(self, X: np.ndarray) -> Assignment:
        return Batch.from_array(X, "raw", self.backend, "X").assign(torch.from_numpy(self.cluster_centers_))

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class _WeightedRows:
    """Rows with weights for `BatchedLloyd`.

    A kernel divides a point by its norm. The point `(x / |x|, sqrt(1 / w^2 - 1))` has norm `1 / w`, so it adds
    `w x / |x|` to the sums and `w cos` to the objective. It has the same label as x, because the last coordinate of
    every centroid is 0.
    """

    def __init__(self, rows: Tensor, weights: Tensor, backend: str | None) -> None:
        self._channels, self._weight, points = rows.shape[1], None, rows
        if not (weights == weights[0]).all():
            weight = (weights / weights.max()).to(rows.dtype).clamp(min=torch.finfo(rows.dtype).tiny ** 0.25)
            points = rows.new_empty(len(rows), self._channels + 1)
            norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            torch.div(rows, norm, out=points[:, :-1])
            points[:, -1] = (1 / weight.square() - 1).sqrt()
            self._weight = weight
        self._batch = Batch.from_array(points, "raw", backend, "X")

    def step(self, centroids: Tensor) -> Sums:
        """Run one Lloyd step of restarts [B, K, C]. In the objective, weights are relative to the largest weight."""
        step = self._batch.step(self._padded(centroids))
        return Sums(step.sums[..., : self._channels], step.counts, step.objective)

    def farthest(self, centroids: Tensor, n: int) -> Tensor:
        """Return the n rows with the lowest cosine to their most similar centroid, at unit norm: [n, C]."""
        cosine = self._batch.assign(self._padded(centroids)).similarity.flatten()
        if self._weight is not None:
            cosine = cosine / self._weight
        return normalize(self._batch.gather(cosine.argsort(stable=True)[:n])[:, : self._channels], dim=1)

    def _padded(self, centroids: Tensor) -> Tensor:
        return centroids if self._weight is None else pad(centroids, (0, 1))


def _initial_centroids(
    rows: Tensor, weights: Tensor, parameters: kmeans.SphericalKMeans, rng: torch.Generator
) -> Tensor:
    """Return the initial centroids of all restarts at unit norm, [B, K, n_features]."""
    init, n_clusters = parameters.init, parameters.n_clusters
    if not isinstance(init, Tensor):
        sample, sample_weights = _sample(rows, weights, max(SAMPLE, 64 * n_clusters), rng)
        return centroids_of_sample(sample, init, n_clusters, parameters.n_init, rng, sample_weights)
    if init.shape[-1] != rows.shape[1]:
        raise ValueError(f"init must have {rows.shape[1]} features, got shape {tuple(init.shape)}")
    return unit_centroids(init, rows.dtype)


def _sample(rows: Tensor, weights: Tensor, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample rows and return them at unit norm with their weights.

    If there are at most `size` rows, all are returned. Otherwise `size` rows of equal weight are returned, each row as
    often as its weight requires. Rows are taken in the order of their projections onto a random direction, so that
    the result does not depend on their order, nor on whether a row is repeated or has a larger weight.
    """
    direction = torch.randn(rows.shape[1], generator=rng, dtype=torch.float64, device="cpu").to(rows.dtype)
    order = (rows @ direction).argsort(stable=True)
    cumulative = weights[order].cumsum(0)
    steps = torch.arange(size, device="cpu") + torch.rand((), generator=rng, dtype=torch.float64, device="cpu")
    if len(rows) > size:
        chosen = torch.searchsorted(cumulative, steps * (cumulative[-1] / size), right=True)
        order = order[chosen.clamp(max=len(rows) - 1)]
        weights = torch.ones_like(weights)
    return normalize(rows[order], dim=1), weights[order]


def _inertia(assignment: Assignment, weight: np.ndarray) -> float:
    return float(weight @ (1 - assignment.similarity.flatten().double().numpy()))
