# SPDX-License-Identifier: Apache-2.0
"""Labels at the resolution of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..core.checks import check_integer
from ..core.dtypes import in_accumulator
from ..ops.assign import points


def check_size(size: Sequence[int]) -> tuple[int, int]:
    """Return the size (H, W) of a label map. Raise ValueError unless it is two integers >= 1."""
    if len(size) != 2:
        raise ValueError(f"size must be (H, W), got {tuple(size)}")
    return check_integer("size[0]", size[0], 1), check_integer("size[1]", size[1], 1)


def smooth_labels(activations: Tensor, centroids: Tensor, features: str, size: tuple[int, int]) -> Tensor:
    """Label the interpolated points of a layer at any size.

    With the points `x_j` of the layer and the weights `r_ij` of the bilinear resize (`align_corners=False`)::

        label(i) = argmax_k <sum_j r_ij x_j, c_k> = argmax_k sum_j r_ij <x_j, c_k>    (the lowest k on ties)

    So it is enough to resize the K scores per position, one image and one cluster at a time: memory holds a few planes
    [H, W].

    Args:
        activations: Activations of the layer, [N, C, h, w].
        centroids: Centroids of shape [K, C], in any floating-point dtype.
        features: Kind of points, as in `stylefast.assign`.
        size: Height H and width W of the result.

    Returns:
        Labels of shape [N, H, W], int32. An interpolated point that is zero or not finite has label 0.
    """
    x = points(activations, features)
    x = x.masked_fill(~torch.linalg.vector_norm(x, dim=1, keepdim=True).isfinite(), torch.nan)
    scores = torch.einsum("nchw,kc->nkhw", x, in_accumulator(centroids, x.dtype))
    return resized_argmax(scores, size)


def resized_argmax(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize scores bilinearly, and return the cluster with the largest score at every position.

    Args:
        scores: Scores of the clusters, [N, K, h, w].
        size: Height H and width W of the result.

    Returns:
        Labels of shape [N, H, W], int32: the lowest on ties.
    """
    labels = torch.zeros((len(scores), *size), dtype=torch.int32, device=scores.device)
    for label, score in zip(labels, scores, strict=True):  # one image at a time, because its planes fit into the cache
        best = _resize(score[0], size)
        for k in range(1, len(score)):
            other = _resize(score[k], size)
            label.masked_fill_(other > best, k)
            best = torch.maximum(best, other)
    return labels


def _resize(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize the scores of one cluster on one image, [h, w] to [H, W]."""
    return interpolate(scores[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
