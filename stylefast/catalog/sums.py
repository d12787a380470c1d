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
SUMS = {"contributions": TensorSpec("K S", (torch.float64,)), "occupancy": TensorSpec("K h w", (torch.int64,))}


class Sums(NamedTuple):
    """Sums over images.

    Attributes:
        contributions: Sum of M, [K, S] float64.
        occupancy: Number of images in which a position has the label of a cluster, [K, h, w] int64.
    """

    contributions: Tensor
    occupancy: Tensor


def count_labels(labels: Tensor, n_clusters: int) -> Tensor:
    """Return the number of images in which a position has the label of a cluster, [K, h, w] int64.

    Args:
        labels: Labels of shape [N, h, w], in [0, K).
        n_clusters: Number of clusters K.
    """
    return torch.stack([(labels == k).sum(0) for k in range(n_clusters)])


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
