# SPDX-License-Identifier: Apache-2.0
"""Spherical k-means: the estimator, its initial centroids, Lloyd iterations, and the data that they read."""

from .estimator import EmptyClusterWarning, SphericalKMeans
from .lloyd import Run

__all__ = ["EmptyClusterWarning", "Run", "SphericalKMeans"]
