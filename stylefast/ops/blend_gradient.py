# SPDX-License-Identifier: Apache-2.0
"""Derivatives of the blend: its gradient for autograd, and its rules for the transforms of `torch.func`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .blend_rows import gathered


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of target, reference, query and strength, summed over the edits that share a row.

    For the gradient g of an edit::

        dt = g (1 - a q)
        dr = g a q
        dq = g a (r - t)
        da = sum_s g q (r - t)
    """
    target, reference, query, edits, strength = ctx.saved_tensors
    t, r, q = gathered(target, reference, query, edits, strength)
    g = grad.to(q.dtype)
    query_gradient = g * (r - t)  # [E, S]
    strength_gradient = None
    if strength is not None:
        _, _, unscaled = gathered(target, reference, query, edits, None)
        strength_gradient = (query_gradient * unscaled).sum(1)
        query_gradient = query_gradient * strength.unsqueeze(1)
    sums = (
        _sum_to_rows(gradient, None if edits is None else edits[:, i], x)
        for i, (gradient, x) in enumerate(((g * (1 - q), target), (g * q, reference), (query_gradient, query)))
    )
    return *sums, None, strength_gradient


def _sum_to_rows(gradient: Tensor, rows: Tensor | None, like: Tensor) -> Tensor:
    """Sum the gradient of edits [E, S] over the edits that use the same row."""
    if rows is not None:
        total = torch.zeros(like.shape, dtype=gradient.dtype, device=like.device).index_add(0, rows, gradient)
    else:
        total = gradient.sum(0, keepdim=True) if like.shape[0] == 1 else gradient
    return total.to(like.dtype)


class Transformed(torch.autograd.Function):
    """The op under `torch.func`, which ignores the gradient that a custom op registers.

    The first argument of `apply` is a function that calls the op; the others are the inputs of the op.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(call: Callable[..., Tensor], *inputs: Any) -> Tensor:
        return call(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *backward(ctx, grad)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Any) -> Tensor:
        target, reference, query, edits, strength = ctx.saved_tensors
        t, r, q = gathered(target, reference, query, edits, strength)
        dt, dr, dq = gathered(tangents[0], tangents[1], tangents[2], edits, strength)
        tangent = dt + q * (dr - dt) + dq * (r - t)
        if strength is not None:
            tangent = tangent + tangents[4].unsqueeze(1) * gathered(target, reference, query, edits, None)[2] * (r - t)
        return tangent.to(target.dtype)
