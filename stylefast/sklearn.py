# SPDX-License-Identifier: Apache-2.0
"""Spherical k-means as a scikit-learn estimator, on the kernels of this package. Needs scikit-learn 1.6 or later."""

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
    """k-means on the sphere, of rows with weights, in the manner of scikit-learn's `KMeans`.

    minimise sum_i w_i (1 - <x_i / |x_i|, c_label(i)>), label(i) = argmax_k <x_i, c_k>,
    c_k = normalise(sum_{i in k} w_i x_i / |x_i|)

    Rows need not be normalised. Up to rounding, and to draws if init="random", integer weights are repetition of rows
    and the order of rows does not matter. A row of zeros has label 0 and adds nothing to centers. For activations,
    streams of batches, checkpoints or a GPU take `stylefast.SphericalKMeans`, whose steps these are.

    Args:
        n_clusters: K, at most the number of rows other than zero with a weight other than zero.
        init: "k-means++" (greedy) or "random", from a sample of max(4096, 64 K) rows by weight; or centers
            [K, n_features], or [B, K, n_features] for B restarts.
        n_init: restarts, which share every read of the rows; the least inertia wins. Not used if `init` is an array.
        max_iter: maximum number of updates per restart.
        tol: a restart ends when the mean cosine gains less than `tol` of itself.
        random_state: seed of the random choices: None, an int or a `numpy.random.RandomState`.
        backend: as in `stylefast.assign`.

    Attributes:
        cluster_centers_: [K, n_features], unit norm, of the rows' dtype.
        labels_: [n_samples] int32, equal to `predict` of the rows given to `fit`.
        inertia_: sum_i w_i (1 - cos_i): half the weighted squared distance on the sphere.
        n_iter_: updates of the best restart, at least 1.
        n_features_in_, feature_names_in_: of the rows given to `fit`.

    Raises:
        TypeError, ValueError: an argument is of a wrong type or out of range (by `fit`); NaN or Inf in rows or weights,
            a negative weight, fewer rows than clusters.

    Example:
        >>> make_pipeline(StandardScaler(), SphericalKMeans(20, random_state=0)).fit_predict(rows)

    Source: Dhillon and Modha, "Concept decompositions for large sparse text data using clustering", 2001.
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
        """Cluster rows X [n_samples, n_features], float32 or float64 (others become float64), of weights [n_samples].

        Reads X without a copy; weights that are not all equal, and rows that are zero or have the weight 0, cost one.
        Positive weights below 3e-10 of the largest (1e-77 in float64) count as that much; `y` is not used.
        """
        X, sample_weight = self._validated(X, sample_weight, reset=True)
        names = ("n_clusters", "n_init", "init", "max_iter", "tol", "backend")
        parameters = kmeans.SphericalKMeans(**{name: getattr(self, name) for name in names})  # validated by it
        rng = torch.Generator().manual_seed(int(check_random_state(self.random_state).randint(1 << 31)))
        rows, weights = as_tensor("X", X, "[n_samples, n_features]", 2), torch.from_numpy(sample_weight)
        nonzero = (weights > 0) & (torch.linalg.vector_norm(rows, dim=1) > 0)
        if int(nonzero.sum()) < parameters.n_clusters:
            raise ValueError(
                f"n_clusters must be at most the number of rows with a weight and values other than zero, got "
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
        """The label of every row: [n_samples] int32."""
        check_is_fitted(self)
        return self._assign(self._validated(X)[0]).labels.flatten().numpy()

    def transform(self, X: ArrayLike) -> np.ndarray:
        """The cosine distance 1 - <x_i / |x_i|, c_k> of every row to every center: [n_samples, K] of X's dtype."""
        check_is_fitted(self)
        rows = as_tensor("X", self._validated(X)[0], "[n_samples, n_features]", 2)
        norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        scores = rows @ torch.from_numpy(self.cluster_centers_).to(rows.dtype).T  # [n, K]
        return (1 - scores / norm.where(norm > 0, 1)).numpy()

    def score(self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None) -> float:
        """-sum_i w_i (1 - cos_i): the negative inertia of rows X. `y` is not used."""
        check_is_fitted(self)
        X, sample_weight = self._validated(X, sample_weight)
        return -_inertia(self._assign(X), sample_weight)

    def _validated(
        self, X: ArrayLike, sample_weight: ArrayLike | None = None, reset: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and weights as arrays of the dtypes that the kernels and the sums take."""
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
    """Rows with weights, for `BatchedLloyd`.

    A kernel divides a point by its norm. The point (x / |x|, sqrt(1 / w^2 - 1)) has norm 1 / w: it adds w x / |x| to
    sums and w cos to the objective, and has x's label, as centroids have 0 in the last coordinate.
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
        """One Lloyd step of restarts [B, K, C]. In the objective the largest weight is 1."""
        step = self._batch.step(self._padded(centroids))
        return Sums(step.sums[..., : self._channels], step.counts, step.objective)

    def farthest(self, centroids: Tensor, n: int) -> Tensor:
        """The n rows least similar to the centroid most similar to them, at unit norm: [n, C]."""
        cosine = self._batch.assign(self._padded(centroids)).similarity.flatten()
        if self._weight is not None:
            cosine = cosine / self._weight
        return normalize(self._batch.gather(cosine.argsort(stable=True)[:n])[:, : self._channels], dim=1)

    def _padded(self, centroids: Tensor) -> Tensor:
        return centroids if self._weight is None else pad(centroids, (0, 1))


def _initial_centroids(
    rows: Tensor, weights: Tensor, parameters: kmeans.SphericalKMeans, rng: torch.Generator
) -> Tensor:
    """Initial centroids of all restarts, of unit norm: [B, K, n_features]."""
    init, n_clusters = parameters.init, parameters.n_clusters
    if not isinstance(init, Tensor):
        sample, sample_weights = _sample(rows, weights, max(SAMPLE, 64 * n_clusters), rng)
        return centroids_of_sample(sample, init, n_clusters, parameters.n_init, rng, sample_weights)
    if init.shape[-1] != rows.shape[1]:
        raise ValueError(f"init must have {rows.shape[1]} features, got shape {tuple(init.shape)}")
    return unit_centroids(init, rows.dtype)


def _sample(rows: Tensor, weights: Tensor, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows at unit norm and their weights: all rows, if there are at most `size`; otherwise `size` rows of equal
    weight, each as often as its weight requires.

    Rows are taken in the order of their projections onto a random direction, so that neither their order nor whether a
    row is repeated or weighted makes a difference.
    """
    direction = torch.randn(rows.shape[1], generator=rng, dtype=torch.float64).to(rows.dtype)
    order = (rows @ direction).argsort(stable=True)
    cumulative = weights[order].cumsum(0)
    steps = torch.arange(size) + torch.rand((), generator=rng, dtype=torch.float64)
    if len(rows) > size:
        chosen = torch.searchsorted(cumulative, steps * (cumulative[-1] / size), right=True)
        order = order[chosen.clamp(max=len(rows) - 1)]
        weights = torch.ones_like(weights)
    return normalize(rows[order], dim=1), weights[order]


def _inertia(assignment: Assignment, weight: np.ndarray) -> float:
    return float(weight @ (1 - assignment.similarity.flatten().double().numpy()))
