# SPDX-License-Identifier: Apache-2.0
"""Spherical k-means: the estimator, its initial centroids, Lloyd iterations, and the data that they read.

Initialisation:
    "k-means++" and "random" choose the initial centroids of all restarts from one random sample of max(4096, 64 K)
    points. "random" draws distinct points. "k-means++" is greedy: it draws candidates with probability proportional
    to 1 - max cosine to the points chosen before, and keeps the best candidate. With at least 40 points per sampled
    point, each restart draws 16 k-means++ initialisations, runs the best four for five steps on the sample, and keeps
    the best. With at least 24 points per sampled point, restarts then converge on a sample that is four times as large,
    if this gives at least C points per cluster.

Iterations:
    Restarts run in lockstep: all restarts that have not ended share one read of the data. A restart ends when no
    centroid moves, or when the objective gains less than `tol` of its value, but not while relocation still fills empty
    clusters. Steps of the "cpu" backend over float32, float16 or bfloat16 arrays skip the points whose labels cannot
    change, which does not change the result. They keep 12 bytes per point and restart, at most a quarter of the data,
    and take twice as much during a step.

Relocation:
    The new centroid of an empty cluster is the point that is least similar to its own centroid after the update.
    Several empty clusters get distinct points. Each call that relocates clusters issues one `EmptyClusterWarning`.
    Clusters that become empty on the sample of the initialisation are relocated, too, to a point of the sample. This
    only changes the initial centroids of a run. It is neither counted in `n_relocated` nor a reason for a warning.

Precision:
    The ops compute in float32 unless the data are float64. A float32 cosine has an error of about 1e-7, which hides the
    differences between points in a narrow cone, such as points with a large common offset. A fit therefore starts
    again in float64 when the mean of `1 - cos` over the nonzero points and `1 - cos` of two centroids are less than
    1e-3. Its centroids are float64, later calls compute in float64, and all of them take about twice the time. The data
    are converted in pieces. Objectives and scores compute small distances as `|x / |x| - c|^2 / 2`, so that they are
    never above 1.
"""

from .estimator import SphericalKMeans
from .lloyd import EmptyClusterWarning, Run

__all__ = ["EmptyClusterWarning", "Run", "SphericalKMeans"]
