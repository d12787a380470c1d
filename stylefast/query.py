# SPDX-License-Identifier: Apache-2.0
"""Which channels an edit may change, and how much: the contribution M of a part becomes a query q in [0, 1].

Every function takes a torch tensor or a NumPy array (shared, not copied) and returns the same kind, shape, dtype and
device; it computes in float64. M is clamped to [0, 1]. NaN is refused, except under `torch.compile`, where no check
that depends on data is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, TypeVar, cast, get_args

import numpy as np
import torch
from torch import Tensor

from .core.checks import check_choice, check_no_nan, check_tensor, to_tensor

__all__ = ["coarse_split", "running_cost", "sequential", "simultaneous", "softmax"]

Array = TypeVar("Array", Tensor, np.ndarray)
PerRow: TypeAlias = float | Sequence[float] | np.ndarray | Tensor
RhoMode: TypeAlias = Literal["released", "paper"]


def simultaneous(m: Array, strength: PerRow) -> Array:
    """Move every channel in proportion to its contribution.

    q_c = min(1, λ·m_c)

    Args:
        m: [..., C] floating; the contribution of one part to the channels of one site, or of many: rows do not mix.
        strength: λ >= 0, a number or one value per row: broadcast against [...].

    Returns:
        q: [..., C], like m.

    Raises:
        TypeError: m is not a floating tensor or array.
        ValueError: m holds NaN; strength is negative, not finite, or does not fit m's rows.

    Source: "Editing in Style" (CVPR 2020), Eq. 4.
    """
    values = _checked("m", m)
    weight = _per_row("strength", strength, values)
    return _like(m, (weight * _clamped(values)).clamp(max=1), values.dtype)


def running_cost(m: Array) -> Array:
    """Give the budget that the sequential query has spent once it has taken channel c.

    cost_c = Σ (1 − m_j) over all j up to and including c, in descending order of m (equal m: lower index first)

    One call, hence one sort, serves every (ε, ρ): `q = (cost < epsilon) & (m > rho)` is `sequential(m, epsilon, rho)`.

    Args:
        m: [..., C] floating.

    Returns:
        cost: [..., C] float64, in the channels' own order.

    Raises:
        TypeError: m is not a floating tensor or array.
        ValueError: m holds NaN.
    """
    return _like(m, _running_cost(_clamped(_checked("m", m))), torch.float64)


def sequential(
    m: Array, epsilon: PerRow, rho: PerRow, *, fractional: bool = False, rho_mode: RhoMode = "released"
) -> Array:
    """Take the channels with the largest contribution until the budget for changes elsewhere is spent.

    q_c = 1 where cost_c < ε and m_c > ρ, else 0, with cost = `running_cost(m)`

    ε = 0 selects nothing, not even channels with m = 1, which cost nothing. ρ is rounded to m's dtype, so that a
    channel with m = ρ stays out in every precision.

    Args:
        m: [..., C] floating; the contribution of one part to the channels of one site, or of many: rows do not mix.
        epsilon: budget ε >= 0, in channels; a number or one value per row: broadcast against [...].
        rho: threshold ρ in [0, 1]; a number or one value per row.
        fractional: the optimum of the linear program `max Σ q_c·[m_c − ρ(1 − m_c)]`, `Σ q_c·(1 − m_c) <= ε`,
            `0 <= q_c <= 1`, over the channels that pass ρ: the first channel over the budget gets the rest of it.
        rho_mode: "released" for m > ρ as in the authors' code, "paper" for m > ρ/(1 + ρ), where the gain in the linear
            program changes sign.

    Returns:
        q: [..., C], like m.

    Raises:
        TypeError: m is not a floating tensor or array.
        ValueError: m holds NaN; epsilon or rho is out of range or does not fit m's rows; rho_mode is unknown.

    Source: "Editing in Style" (CVPR 2020), Eq. 5, with the edge cases of the released code.
    """
    check_choice("rho_mode", rho_mode, get_args(RhoMode))
    values = _checked("m", m)
    budget = _per_row("epsilon", epsilon, values)
    threshold = _per_row("rho", rho, values, highest=1.0)
    if rho_mode == "paper":
        threshold = threshold / (1 + threshold)
    clamped = _clamped(values)
    cost = _running_cost(clamped)
    passes = (clamped > threshold.to(values.dtype)) & (budget > 0)
    if not fractional:
        return _like(m, (cost < budget) & passes, values.dtype)
    channel_cost = 1 - clamped
    remaining = budget - (cost - channel_cost)
    fraction = (remaining / channel_cost).clamp(0, 1)  # 0/0 only where m = 1, and there cost = 0 <= budget
    return _like(m, torch.where(cost <= budget, 1.0, fraction) * passes, values.dtype)


def softmax(M: Array, part: int, *, temperature: float = 0.1, threshold: float = 0.8) -> Array:
    """Take the channels that belong to one part clearly more than to any other.

    q_c = 1[p_c > θ], p = softmax over parts of M/τ, at `part`

    Of one image's M this is that image's query; an edit's query is the maximum of its target's and its reference's:
    `torch.maximum(softmax(M_target, part), softmax(M_reference, part))`. With M of `contribution(per_image=True)`,
    parts first, one call serves all images. Sites that shall not move (toRGB) are the caller's to zero.

    Args:
        M: [P, ..., C] floating, parts first.
        part: index of the part, 0 <= part < P.
        temperature: τ > 0.
        threshold: θ in [0, 1]; from 0.5 up, a channel belongs to one part at most.

    Returns:
        q: [..., C] of zeros and ones, otherwise like M.

    Raises:
        TypeError: M is not a floating tensor or array.
        ValueError: M has fewer than two dimensions or holds NaN; part, temperature or threshold is out of range.

    Source: "Retrieve in Style" (ICCV 2021).
    """
    values = _checked("M", M, "[P, ..., C]", min_rank=2)
    _check_part("part", part, "M", values)
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be a finite number > 0, got {temperature}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be a number in [0, 1], got {threshold}")
    clamped = _clamped(values)
    below_best = clamped - clamped.amax(0)  # <= 0 before the division, so no temperature overflows
    p = torch.softmax(below_best / temperature, dim=0)  # [P, ..., C]
    return _like(M, p[part] > threshold, values.dtype)


def coarse_split(q: Array, hair: int, *, channels: int = 2048) -> Array:
    """Keep the first channels, which carry pose and hair, for hair and for a part of their own, the pose.

    For c < channels: q_hair,c stays, q_pose,c = 1 − q_hair,c, and all other parts get 0. From there on q_pose,c = 0.

    Args:
        q: [P, ..., S] floating: queries of all parts in [0, 1], parts first.
        hair: index of the part that keeps the first channels, 0 <= hair < P.
        channels: 2,048 are the first four sites of StyleGAN2, one of them toRGB. Sites that shall not move are to be
            zeroed after the split, which gives them to the pose.

    Returns:
        q: [P + 1, ..., S], the pose last; otherwise like q.

    Raises:
        TypeError: q is not a floating tensor or array.
        ValueError: q has fewer than two dimensions or holds NaN; hair or channels is out of range.

    Source: the released code of "Retrieve in Style" (ICCV 2021).
    """
    values = _checked("q", q, "[P, ..., S]", min_rank=2)
    _check_part("hair", hair, "q", values)
    if not 0 <= channels <= values.shape[-1]:
        raise ValueError(f"channels must lie in [0, {values.shape[-1]}], got {channels}")
    is_first = torch.arange(values.shape[-1], device=values.device) < channels
    is_hair = torch.arange(values.shape[0], device=values.device) == hair
    is_kept = is_hair.view(-1, *[1] * (values.ndim - 1)) | ~is_first
    split = torch.cat((values * is_kept, ((1 - values[hair]) * is_first)[None]))
    return _like(q, split, values.dtype)


def _running_cost(m: Tensor) -> Tensor:
    descending, order = torch.sort(m, dim=-1, descending=True, stable=True)
    return torch.empty_like(m).scatter(-1, order, torch.cumsum(1 - descending, dim=-1))


def _clamped(values: Tensor) -> Tensor:
    return values.double().clamp(0, 1)


def _checked(name: str, m: Tensor | np.ndarray, letters: str = "[..., C]", min_rank: int = 1) -> Tensor:
    """The tensor or array as a tensor, checked."""
    tensor = to_tensor(name, m)
    check_tensor(name, tensor)
    if tensor.ndim < min_rank:
        raise ValueError(f"{name} must have shape {letters}, got {tuple(tensor.shape)}")
    if not torch.compiler.is_compiling():
        check_no_nan(name, tensor)
    return tensor


def _check_part(name: str, part: int, tensor_name: str, tensor: Tensor) -> None:
    if not 0 <= part < len(tensor):
        raise ValueError(f"{name} must be an index into the P = {len(tensor)} parts of {tensor_name}, got {part}")


def _per_row(name: str, value: PerRow, m: Tensor, highest: float = math.inf) -> Tensor:
    """The value in float64, shaped to broadcast against m: [..., 1] or [1]."""
    if isinstance(value, int | float):
        values = torch.full((), value, dtype=torch.float64, device=m.device)
    elif isinstance(value, Tensor) and value.device != m.device:
        raise ValueError(f"{name} must be on the device of m, {m.device}, got {value.device}")
    else:
        values = torch.as_tensor(value, dtype=torch.float64, device=m.device)
    rows = m.shape[:-1]
    fits = values.ndim <= len(rows) and all(
        length in (1, row_length) for length, row_length in zip(reversed(values.shape), reversed(rows), strict=False)
    )
    if not fits:
        expected = f"be a number or broadcast to {tuple(rows)}, one value per row of m"
        raise ValueError(f"{name} must {expected}, got shape {tuple(values.shape)}")
    if not torch.compiler.is_compiling():
        wrong = ~(values.isfinite() & (values >= 0) & (values <= highest))
        if wrong.any():
            expected = "a finite number >= 0" if highest == math.inf else f"a number in [0, {highest:g}]"
            raise ValueError(f"{name} must be {expected}, got {values[wrong][0].item()}")
    return values[..., None]


def _like(m: Array, q: Tensor, dtype: torch.dtype) -> Array:
    q = q.to(dtype)
    return cast(Array, q.numpy() if isinstance(m, np.ndarray) else q)
