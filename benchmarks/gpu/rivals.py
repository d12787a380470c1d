# SPDX-License-Identifier: Apache-2.0
"""Rivals, which are the peers on a GPU: the op as torch users write it, eager and compiled, and flash-kmeans."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import environment
import formulations
import torch
from torch import Tensor
from torch.nn import functional as F

from stylefast.ops import ASSIGN, BLEND, CONTRIBUTION, LLOYD_STEP, SOFT, SOFT_CONTRIBUTION

from .workloads import GpuWorkload

EAGER, COMPILED = "torch, eager", "torch.compile"
FLASH, STEADY = "flash-kmeans", "flash-kmeans, rows already normalised"
ORDER = (EAGER, FLASH, STEADY, COMPILED)  # most informative first


def names(workload: GpuWorkload) -> list[str]:
    """Return the names of a workload's rivals."""
    if formulation(workload) is None:
        return []
    flash = workload.op is LLOYD_STEP and environment.is_installed("flash_kmeans")
    return [EAGER, *((FLASH, STEADY) if flash else ()), COMPILED]


def call(workload: GpuWorkload, rival: str, inputs: dict[str, Any]) -> Callable[[], Any]:
    """Return a rival's call on these inputs."""
    function, arguments = formulation(workload), _arguments(workload, inputs)
    assert function is not None
    if rival == COMPILED:
        torch.compiler.reset()  # otherwise a function runs eagerly after eight recompilations
        return partial(torch.compile(function, dynamic=False), *arguments)
    if rival in (FLASH, STEADY):
        x, centroids = arguments
        rows = x.permute(0, 2, 3, 1)  # [N, H, W, C]
        if rival == FLASH:
            return partial(_flash_fit, rows, centroids)
        return partial(_flash_step, F.normalize(rows.reshape(1, -1, x.shape[1]), dim=2), centroids[None])
    return partial(function, *arguments)


def formulation(workload: GpuWorkload) -> Callable[..., Any] | None:
    """Return the op as torch users write it, or None if they would write something quite different."""
    if workload.op is BLEND:
        return _gathered_lerp if workload.gathered else torch.lerp
    if workload.op is CONTRIBUTION:
        return formulations.pooled_by_adjoint if workload.is_pooled else formulations.contribution_by_bmm
    if workload.op is SOFT_CONTRIBUTION:
        return formulations.soft_by_einsum
    if workload.op in SOFT or workload.restarts > 1 or workload.features != "raw":
        return None
    steps = {ASSIGN.name: formulations.assign_by_matmul, LLOYD_STEP.name: formulations.lloyd_by_matmul}
    return steps.get(workload.op.name, _assign_then_bmm)


def _arguments(workload: GpuWorkload, inputs: dict[str, Any]) -> tuple[Any, ...]:
    if workload.op is BLEND:
        t, r, q = (inputs[name] for name in ("target", "reference", "query"))
        return (t, r, q.to(t.dtype), inputs["edits"].t()) if workload.gathered else (t, r, q.to(t.dtype))
    x = inputs["activations"]
    if workload.op is CONTRIBUTION:
        return x, inputs["labels"], workload.k
    if workload.op is SOFT_CONTRIBUTION:
        return x, inputs["memberships"].to(x.dtype)
    return x, inputs["centroids"].reshape(workload.k, -1).to(x.dtype)


def _gathered_lerp(t: Tensor, r: Tensor, q: Tensor, edits: Tensor) -> Tensor:
    return torch.lerp(t[edits[0]], r[edits[1]], q[edits[2]])


def _assign_then_bmm(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    labels, _ = formulations.assign_by_matmul(x, centroids)
    labels = labels.view(len(x), *x.shape[2:])
    return labels, formulations.contribution_by_bmm(x, labels, len(centroids))


def _flash_fit(rows: Tensor, centroids: Tensor) -> tuple[Tensor, ...]:
    """Return the labels of one iteration that includes the normalisation of the rows."""
    flash: Any = environment.load("flash_kmeans")
    points = rows.reshape(1, -1, rows.shape[3])
    return flash.batch_kmeans_Cosine(points, len(centroids), max_iters=1, init_centroids=centroids[None])[:1]


def _flash_step(points: Tensor, centroids: Tensor) -> tuple[Tensor, ...]:
    """Return the labels of one iteration on normalised rows."""
    implementation: Any = environment.load("flash_kmeans.kmeans_triton_impl")
    return (implementation._cosine_iter_compiled(points, centroids)[2],)
