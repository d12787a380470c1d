# SPDX-License-Identifier: Apache-2.0
"""Random cases of `blend`: values, equal bits where the query is 0 or 1, and gradients."""

from __future__ import annotations

from typing import Any

import drawing
import numpy as np
import torch
import truth
from check import Check
from drawing import Sizes
from numpy import ndarray
from numpy.random import Generator
from torch import Tensor

import stylefast


def run(rng: Generator, sizes: Sizes, backend: str, check: Check) -> None:
    width, dtype = drawing.choose(rng, sizes.styles), drawing.choose(rng, drawing.DTYPES)
    n_edits = drawing.choose(rng, sizes.edits)
    counts = [int(rng.integers(1, 6)) for _ in range(3)]
    edits = torch.from_numpy(np.stack([rng.integers(0, count, n_edits) for count in counts], 1))
    if is_paired := drawing.chance(rng, 0.4):
        counts = [drawing.choose(rng, (1, n_edits, n_edits)) for _ in range(3)]
        n_edits = next((count for count in counts if count != 1), 1)
        edits = torch.from_numpy(np.stack([np.arange(n_edits) % max(1, count) for count in counts], 1))
    inputs = [_styles(rng, counts[0], width, dtype), _styles(rng, counts[1], width, dtype)]
    inputs.append(_queries(rng, counts[2], width))
    mode = "norm_preserving" if drawing.chance(rng, 0.25) else "linear"
    options: dict[str, Any] = {"mode": mode}
    if not is_paired:
        options["edits"] = drawing.any_layout(rng, edits.to(drawing.choose(rng, (torch.int64, torch.int32))))
    if drawing.chance(rng, 0.4):
        options["strength"] = drawing.choose(rng, (float(rng.uniform(-2, 2)), _strengths(rng, n_edits)))
    check.note(target=inputs[0], reference=inputs[1], query=inputs[2], **options)
    if drawing.chance(rng, 0.2):
        options["out"] = torch.full((n_edits, width), torch.nan, dtype=dtype)
    got = stylefast.blend(*inputs, backend=backend, **options)
    assert options.get("out", got) is got, "the result must be out"
    check.form("blend", got, (n_edits, width), dtype)
    accumulator = drawing.accumulator(dtype)
    rows = [x.to(accumulator)[index] for x, index in zip(inputs, edits.T, strict=True)]
    strength = torch.as_tensor(options.get("strength", 1.0), dtype=torch.float64).to(accumulator).reshape(-1, 1)
    _check_values(check, got, rows, strength, mode)
    is_linear = mode == "linear" and "out" not in options
    if is_linear and dtype in (torch.float32, torch.float64) and drawing.chance(rng, 0.4):
        _check_gradients(
            rng, check, inputs, edits, strength, lambda *x: stylefast.blend(*x, backend=backend, **options)
        )


def _styles(rng: Generator, n: int, width: int, dtype: torch.dtype) -> Tensor:
    x = rng.standard_normal((n, width)) * 10 ** rng.uniform(-3, 2 if dtype == torch.float16 else 4)
    return drawing.any_layout(rng, torch.from_numpy(x).to(dtype))


def _queries(rng: Generator, n: int, width: int) -> Tensor:
    q = np.clip(rng.uniform(-0.3, 1.3, (n, width)), 0, 1)  # with many exact zeros and ones
    return drawing.any_layout(rng, torch.from_numpy(q).to(drawing.choose(rng, drawing.DTYPES)))


def _strengths(rng: Generator, n: int) -> Tensor:
    return torch.from_numpy(rng.choice([0, 1, 0.5, 1.3, -0.7], n)).to(drawing.choose(rng, drawing.DTYPES))


def _check_values(check: Check, got: Tensor, rows: list[Tensor], strength: Tensor, mode: str) -> None:
    """Compare with `t + a q (r - t)`, where `a q` is rounded once and r is scaled if norms are preserved."""
    eps, dtype = truth.epsilon(got.dtype), got.dtype
    t, r, q = map(truth.exact, rows)
    aq = truth.exact(rows[2] * strength)  # [E, S]
    noise = np.zeros_like(r)
    rounding = float(torch.finfo(dtype).eps)
    if mode == "norm_preserving":
        norm_t, norm_r = (np.sqrt((q * q * x * x).sum(1, keepdims=True)) for x in (t, r))
        r = r * norm_t / np.where(norm_r > 0, norm_r, 1)
        noise = np.abs(r) * ((t.shape[1] + 16) * eps + rounding) + float(torch.finfo(dtype).smallest_normal) * rounding
    want = np.where(aq == 0, t, np.where(aq == 1, r, t + aq * (r - t)))
    budget = 4 * eps * (np.abs(t) + np.abs(aq) * (np.abs(t) + np.abs(r))) + np.abs(aq) * noise
    if dtype not in (torch.float32, torch.float64):
        budget = budget + rounding / 2 * np.abs(want) + float(torch.finfo(dtype).smallest_normal) * rounding
    budget = np.where((aq == 0) | ((aq == 1) & (mode == "linear")), 0, budget)
    check.within("blend", got, want, budget)


def _check_gradients(
    rng: Generator, check: Check, inputs: list[Tensor], edits: Tensor, strength: Tensor, function: Any
) -> None:
    """Compare the gradients of `sum(g * blend)` with the sums of their terms over the edits that use a row."""
    leaves = [x.detach().to(inputs[0].dtype).clone().requires_grad_() for x in inputs]
    result = function(*leaves)
    g = torch.from_numpy(rng.standard_normal(tuple(result.shape))).to(result.dtype)
    got = torch.autograd.grad(result, leaves, g)
    eps, a, weight = truth.epsilon(result.dtype), truth.exact(strength), truth.exact(g)
    t, r, q = (truth.exact(x)[index] for x, index in zip(leaves, edits.T.numpy(), strict=True))
    terms = (weight * (1 - a * q), weight * a * q, weight * a * (r - t))
    sizes = (np.abs(weight) * (1 + np.abs(a * q)), np.abs(terms[1]), np.abs(weight * a) * (np.abs(r) + np.abs(t)))
    for i, name in enumerate(("target", "reference", "query")):
        want, size = (_add_rows(x[i], edits[:, i].numpy(), len(leaves[i])) for x in (terms, sizes))
        check.within(f"gradient of {name}", got[i], want, (len(edits) + 6) * eps * size)


def _add_rows(terms: ndarray, rows: ndarray, n: int) -> ndarray:
    total = np.zeros((n, terms.shape[1]))
    np.add.at(total, rows, terms)
    return total
