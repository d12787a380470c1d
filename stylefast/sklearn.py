# SPDX-License-Identifier: Apache-2.0
"""Spherical k-means as an estimator of scikit-learn, on this package's kernels. Needs scikit-learn 1.6 or later."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor
from torch.nn.functional import normalize, pad

from . import kmeans
from .core.checks import as_tensor
from .kmeans.data import Batch, Sums
from .kmeans.initialization import SAMPLE, chosen
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
        max_iter: most updates of a restart.
        tol: a restart ends when the mean cosine gains less than `tol` of itself.
        random_state: of the random choices: None, an int or a `numpy.random.RandomState`.
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

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> SphericalKMeans:
        """Cluster rows X [n_samples, n_features], float32 or float64 (others become float64), of weights [n_samples].

        Reads X where it is; weights that are not all equal and rows that do not count cost a copy. Weights below
        3e-10 of the largest (1e-77 in float64) count as that much; those that are 0 count as 0.
        """
        X, weight = self._rows(X, sample_weight, reset=True)
        names = ("n_clusters", "n_init", "init", "max_iter", "tol", "backend")
        settings = kmeans.SphericalKMeans(**{name: getattr(self, name) for name in names})  # checks them
        rng = torch.Generator().manual_seed(int(check_random_state(self.random_state).randint(1 << 31)))
        rows, weights = as_tensor("X", X, "[n_samples, n_features]", 2), torch.from_numpy(weight)
        counted = (weights > 0) & (torch.linalg.vector_norm(rows, dim=1) > 0)
        if int(counted.sum()) < settings.n_clusters:
            raise ValueError(
                f"n_clusters must be at most the number of rows with a weight and values other than zero, got "
                f"n_clusters={settings.n_clusters} for {int(counted.sum())} of n_samples={len(rows)} rows"
            )
        if not counted.all():
            rows, weights = rows[counted], weights[counted]
        weighted = _Weighted(rows, weights, self.backend)
        if isinstance(settings.init, Tensor):
            if settings.init.shape[-1] != rows.shape[1]:
                raise ValueError(f"init must have {rows.shape[1]} features, got shape {tuple(settings.init.shape)}")
            first = normalize(settings.init.double(), dim=-1).reshape(-1, *settings.init.shape[-2:]).to(rows.dtype)
        else:
            sample, shares = _sample(rows, weights, max(SAMPLE, 64 * settings.n_clusters), rng)
            first = chosen(sample, settings.init, settings.n_clusters, settings.n_init, rng, shares)
        state = BatchedLloyd(first)
        while state.going:
            state.advance(weighted, settings.tol, settings.max_iter)
        best = max(state.runs, key=lambda run: run.objective)
        if best.n_empty:
            warnings.warn(f"{best.n_empty} of {settings.n_clusters} clusters are empty", ConvergenceWarning, 2)
        self.cluster_centers_, self.n_iter_ = best.centroids.numpy(), max(1, best.n_iter)
        found = self._assign(X)
        self.labels_, self.inertia_ = found.labels.flatten().numpy(), _inertia(found, weight)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The label of every row: [n_samples] int32."""
        check_is_fitted(self)
        return self._assign(self._rows(X)[0]).labels.flatten().numpy()

    def transform(self, X: Any) -> np.ndarray:
        """The cosine distance 1 - <x_i / |x_i|, c_k> of every row to every center: [n_samples, K] of X's dtype."""
        check_is_fitted(self)
        rows = as_tensor("X", self._rows(X)[0], "[n_samples, n_features]", 2)
        norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        scores = rows @ torch.from_numpy(self.cluster_centers_).to(rows.dtype).T  # [n, K]
        return (1 - scores / norm.where(norm > 0, 1)).numpy()

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """-sum_i w_i (1 - cos_i): the negative inertia of rows X."""
        check_is_fitted(self)
        X, weight = self._rows(X, sample_weight)
        return -_inertia(self._assign(X), weight)

    def _rows(self, X: Any, sample_weight: Any = None, reset: bool = False) -> tuple[np.ndarray, np.ndarray]:
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=reset)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
        if weight.min(initial=0) < 0:
            raise ValueError(f"sample_weight must be >= 0, got {weight.min()}")
        return X, weight

    def _assign(self, X: np.ndarray) -> Assignment:
        return Batch.of(X, "raw", self.backend, "X").assign(torch.from_numpy(self.cluster_centers_))

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class _Weighted:
    """Rows with weights, as Lloyd iterations read them.

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
        self._batch = Batch.of(points, "raw", backend, "X")

    def step(self, centroids: Tensor) -> Sums:
        """One Lloyd step of restarts [B, K, C]; the objective is that of weights that are 1 at most."""
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


def _sample(rows: Tensor, weights: Tensor, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows at unit norm and their weights: all rows, if they are at most `size`; else so many of equal weight, each as
    often as its weight says.

    Rows are taken in the order of their projections onto a random direction, so that neither their order nor whether a
    row is repeated or weighted makes a difference.
    """
    direction = torch.randn(rows.shape[1], generator=rng, dtype=torch.float64).to(rows.dtype)
    order = (rows @ direction).argsort(stable=True)
    running = weights[order].cumsum(0)
    steps = torch.arange(size) + torch.rand((), generator=rng, dtype=torch.float64)
    if len(rows) > size:
        order = order[torch.searchsorted(running, steps * (running[-1] / size), right=True).clamp(max=len(rows) - 1)]
        weights = torch.ones_like(weights)
    return normalize(rows[order], dim=1), weights[order]


def _inertia(found: Assignment, weight: np.ndarray) -> float:
    return float(weight @ (1 - found.similarity.flatten().double().numpy()))
