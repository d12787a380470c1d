# SPDX-License-Identifier: Apache-2.0
"""Sums over images that a build makes, and the files of its workdir that hold tensors of a shard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..io.budget import Budget
from ..io.schema import TensorSpec, check_tensor_table
from ..io.tensors import read_tensors

FORMAT = "stylefast-shard-1"


class Sums(NamedTuple):
    """Sums over images.

    Attributes:
        contributions: Sum of M, [K, S] float64.
        occupancy: Number of images in which a position has the label of a cluster, [K, h, w] int64; or the sum of the
            memberships of a position, [K, h, w] float64.
    """

    contributions: Tensor
    occupancy: Tensor


def sums_specs(occupancy_dtype: torch.dtype) -> dict[str, TensorSpec]:
    """Return the declarations of the tensors of `Sums`."""
    return {
        "contributions": TensorSpec("K S", (torch.float64,)),
        "occupancy": TensorSpec("K h w", (occupancy_dtype,)),
    }


def sum_over_images(assigned: Tensor, n_clusters: int) -> Tensor:
    """Return `Sums.occupancy` of some images.

    Args:
        assigned: Labels in [0, K) of shape [N, h, w], or memberships of shape [N, K, h, w].
        n_clusters: Number of clusters K.
    """
    if assigned.is_floating_point():
        return assigned.sum(0, dtype=torch.float64)
    return torch.stack([(assigned == k).sum(0) for k in range(n_clusters)])


def read_shard(
    path: Path, specs: Mapping[str, TensorSpec], lengths: Mapping[str, int], **options: Any
) -> dict[str, Tensor]:
    """Read the tensors of a file in the workdir, whose size the build determines.

    Raises:
        ValueError: If the file is damaged or belongs to another build. The message names the file.
    """
    tensors, _ = read_tensors(path, FORMAT, budget=Budget(math.inf), **options)
    try:
        check_tensor_table(specs, tensors, **lengths)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    return tensors
