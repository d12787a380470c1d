# SPDX-License-Identifier: Apache-2.0
"""Computation of queries from contributions: the M of a part gives the query q, which has values in [0, 1].

Every function takes a torch tensor or a NumPy array, which is copied only if torch cannot represent it, and returns a
result of the same kind and device. It computes in float64 and clamps M to [0, 1]. NaN in an input raises ValueError,
except under `torch.compile`, where values are not checked.
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
    """Compute a query that is proportional to the contribution.

    For the contribution m of channel c and the strength λ::

        q_c = min(1, λ·m_c)

    Args:
        m: Contribution of a part to the channels of one or several sites, of shape [..., C]; floating-point. Rows are
            independent.
        strength: Strength λ >= 0: a number, or one value per row, of a shape that broadcasts to [...].

    Returns:
        Query q of the shape and dtype of m.

    Raises:
        TypeError: If m is not a floating-point tensor or array.
        ValueError: If m contains NaN, or strength is negative, not finite, or does not broadcast to the rows of m.

    References:
        Collins et al., "Editing in Style: Uncovering the Local Semantics of GANs", CVPR 2020, equation 4.

    Example:
        >>> import numpy as np
        >>> from stylefast.query import simultaneous
        >>> simultaneous(np.array([0.0, 0.25, 0.75]), strength=2.0)
        array([0. , 0.5, 1. ])
    """
    values = _checked("m", m)
    weight = _per_row("strength", strength, values)
    return _like(m, (weight * _clamped(values)).clamp(max=1), values.dtype)


def running_cost(m: Array) -> Array:
    """Compute the budget that the sequential query has spent after it has taken channel c.

    The sum is over the channels j up to and including c, in descending order of m. On ties, the lower index comes
    first::

        cost_c = Σ_j (1 − m_j)

    One call, and so one sort, serves all budgets ε and thresholds ρ: `q = (cost < epsilon) & (m > rho)` is
    `sequential(m, epsilon, rho)`.

    Args:
        m: Contribution of a part, of shape [..., C]; floating-point.

    Returns:
        Cost of shape [..., C], float64, in the order of the channels of m.

    Raises:
        TypeError: If m is not a floating-point tensor or array.
        ValueError: If m contains NaN.
    """
    return _like(m, _running_cost(_clamped(_checked("m", m))), torch.float64)


def sequential(
    m: Array,
    epsilon: PerRow,
    rho: PerRow,
    *,
    fractional: bool = False,
    rho_mode: RhoMode = "released",
    cost: Array | None = None,
) -> Array:
    """Select the channels with the largest contribution until the budget ε is spent.

    With `cost = running_cost(m)`::

        q_c = 1 if cost_c < ε and m_c > ρ, else 0

    ε = 0 selects nothing, not even channels with m = 1, whose cost is 0. ρ is rounded to the dtype of m, so that a
    channel with m = ρ is not selected in any precision.

    Args:
        m: Contribution of a part to the channels of one or several sites, of shape [..., C]; floating-point. Rows are
            independent.
        epsilon: Budget ε >= 0 in channels: a number, or one value per row, of a shape that broadcasts to [...].
        rho: Threshold ρ in [0, 1]: a number, or one value per row, as for epsilon.
        fractional: Whether to return the optimum of the linear program `max Σ q_c·[m_c − ρ(1 − m_c)]` subject to
            `Σ q_c·(1 − m_c) <= ε` and `0 <= q_c <= 1`, over the channels that pass ρ. The first channel over the budget
            then gets the fraction that fits into the remaining budget.
        rho_mode: Test of the threshold. "released" tests m > ρ, as in the authors' code. "paper" tests m > ρ/(1 + ρ),
            that is, whether the gain of the channel in the linear program is positive.
        cost: `running_cost(m)`, of the shape of m, if it is known. It saves the sort, and its rows may be costs of
            several sites end to end.

    Returns:
        Query q of the shape and dtype of m.

    Raises:
        TypeError: If m is not a floating-point tensor or array.
        ValueError: If m contains NaN, epsilon or rho is out of range or does not broadcast to the rows of m, cost has
            another shape, or `rho_mode` is unknown.

    References:
        Collins et al., "Editing in Style: Uncovering the Local Semantics of GANs", CVPR 2020, equation 5, with the edge
        cases of the released code.

    Example:
        >>> import numpy as np
        >>> from stylefast.query import sequential
        >>> sequential(np.array([0.5, 0.9, 0.75]), epsilon=0.5, rho=0.1)
        array([0., 1., 1.])
    """
    check_choice("rho_mode", rho_mode, get_args(RhoMode))
    values = _checked("m", m)
    budget = _per_row("epsilon", epsilon, values)
    threshold = _per_row("rho", rho, values, highest=1.0)
    if rho_mode == "paper":
        threshold = threshold / (1 + threshold)
    clamped = _clamped(values)
    spent = _running_cost(clamped) if cost is None else _checked("cost", cost).double()
    if spent.shape != values.shape:
        raise ValueError(f"cost must have the shape of m, {tuple(values.shape)}, got {tuple(spent.shape)}")
    passes = (clamped > threshold.to(values.dtype)) & (budget > 0)
    if not fractional:
        return _like(m, (spent < budget) & passes, values.dtype)
    channel_cost = 1 - clamped
    remaining = budget - (spent - channel_cost)
    fraction = (remaining / channel_cost).clamp(0, 1)  # 0/0 only if m = 1, and then spent = 0 <= budget
    return _like(m, torch.where(spent <= budget, 1.0, fraction) * passes, values.dtype)


def softmax(M: Array, part: int, *, temperature: float = 0.1, threshold: float = 0.8) -> Array:
    """Select the channels that belong to one part clearly more than to any other.

    The softmax is over the parts, and p is its row for `part`::

        p = softmax(M / τ)[part]
        q_c = 1 if p_c > θ, else 0

    With M of one image, the result is the query of that image. The query of an edit is the maximum over its two images:
    `torch.maximum(softmax(M_target, part), softmax(M_reference, part))`. With M of `contribution(per_image=True)`,
    transposed to [P, N, C], one call computes the queries of all images. The caller has to set q to zero at sites that
    must not change, such as toRGB.

    Args:
        M: Contribution of all parts, of shape [P, ..., C]; floating-point.
        part: Index of the part, 0 <= part < P.
        temperature: Temperature τ > 0.
        threshold: Threshold θ in [0, 1]. At 0.5 or above, a channel belongs to at most one part.

    Returns:
        Query q of shape [..., C] in the dtype of M. All values are 0 or 1.

    Raises:
        TypeError: If M is not a floating-point tensor or array.
        ValueError: If M has fewer than two dimensions or contains NaN, or part, temperature or threshold is out of
            range.

    References:
        Chong et al., "Retrieve in Style: Unsupervised Facial Feature Transfer and Retrieval", ICCV 2021.
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
    """Assign the first channels, which carry pose and hair, to the hair and to a new part, the pose.

    In the first channels, the hair keeps its query, the pose gets the rest, and all other parts get 0. In the remaining
    channels, the pose gets 0, and all other parts keep their queries::

        q_pose,c = 1 − q_hair,c  and  q_part,c = 0 for all parts but hair    (c < channels)
        q_pose,c = 0                                                         (c >= channels)

    Args:
        q: Queries of all parts in [0, 1], of shape [P, ..., S]; floating-point.
        hair: Index of the part that keeps the first channels, 0 <= hair < P.
        channels: Number of first channels. The first 2,048 channels are the first four sites of StyleGAN2, one of
            which is toRGB. Sites that must not change have to be set to zero after the split, because the split gives
            them to the pose.

    Returns:
        Queries of shape [P + 1, ..., S] in the dtype of q, with the pose last.

    Raises:
        TypeError: If q is not a floating-point tensor or array.
        ValueError: If q has fewer than two dimensions or contains NaN, or hair or channels is out of range.

    References:
        Released code of Chong et al., "Retrieve in Style: Unsupervised Facial Feature Transfer and Retrieval",
        ICCV 2021.
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
    """Return the tensor or array as a checked tensor."""
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
    """Return the value in float64, shaped to broadcast against m: [..., 1] or [1]."""
    if isinstance(value, int | float):
        values = torch.full((), value, dtype=torch.float64, device=m.device)
    elif isinstance(value, Tensor) and value.device != m.device:
        raise ValueError(f"{name} must be on the device of m, {m.device}, got {value.device}")
    else:
        value = to_tensor(name, value) if isinstance(value, np.ndarray) else value
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
