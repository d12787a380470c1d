# SPDX-License-Identifier: Apache-2.0
"""`StyleInterpolator`, with the signature that existing code calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core.checks import check_choice, check_no_nan, check_shape, check_tensor
from ..ops.blend import blend


class AnnotatedCatalog(Protocol):
    """What `StyleInterpolator` reads of a catalog: its parts, and per layer their contributions [P, C]."""

    @property
    def annotations(self) -> Mapping[str, Sequence[int]]: ...

    @property
    def M(self) -> Sequence[Tensor]: ...


class StyleInterpolator:
    """Blends lists of per-layer styles, in the channels that belong to a part.

    q_c = 1 where cost_c < epsilon and m_c > rho, else 0, m = M[layer][part], cost = the running sum of 1 - m, in m's
    dtype, in descending order of m; y = y1 + q o (y2 - y1)

    q has the bits of the released code wherever that is defined. Each difference avoids a fault of that code:
    - channels of equal m are taken in the order of their index; its sort is not stable and takes them in any order;
    - a channel with q = 0 equals y1 bit for bit; it gives NaN where y2 is Inf or NaN, and turns -0 into 0;
    - NaN in M is refused; it selects nothing;
    - 16-bit styles keep their dtype with a 32-bit M; it converts 2-D ones to 32 bits;
    - rho and epsilon may be any real numbers, also NumPy's, or one per layer; another number of them is refused;
    - y1 or y2 may require gradients; a style that is neither 2-D nor 5-D is refused by name.
    `stylefast.query.sequential` also clamps m to [0, 1] and sums in float64, so that a cost within rounding of epsilon
    may fall on its other side.

    Args:
        catalog: a `FactorCatalog`, or another object with `annotations` and `M`. Both are read once, here.
        bias: also blend the second half of 5-D styles.

    Raises:
        ValueError: an M that is not [P, C] for the P parts, or holds NaN.

    Source: "Editing in Style" (Collins et al., CVPR 2020), equations 3 and 5, with the edge cases of the released code.
    """

    def __init__(self, catalog: AnnotatedCatalog, bias: bool = False) -> None:
        self._parts: list[str] = list(catalog.annotations)
        self._bias = bias
        self._M: list[Tensor] = list(catalog.M)
        self._costs: list[Tensor] = []
        for layer, m in enumerate(self._M):
            check_tensor(f"M[{layer}]", m)
            check_shape(f"M[{layer}]", m, P=len(self._parts), C=None)
            check_no_nan(f"M[{layer}]", m)
            descending, order = m.sort(dim=1, descending=True, stable=True)
            self._costs.append(torch.empty_like(m).scatter(1, order, (1 - descending).cumsum(1)))

    def query(self, layer: int, label: str, rho: float, epsilon: float) -> Tensor:
        """q [C] of zeros and ones, of M's dtype. Raises ValueError if `label` is not a part."""
        check_choice("label", label, tuple(self._parts))
        row = self._parts.index(label)
        m = self._M[layer][row]
        return ((self._costs[layer][row] < epsilon) & (m > rho)).to(m.dtype)

    def interpolate_ys(
        self,
        ys1: Sequence[Tensor],
        ys2: Sequence[Tensor],
        label: str,
        rho: float | Sequence[float],
        epsilon: float | Sequence[float],
    ) -> list[Tensor]:
        """Moves the styles ys1 towards ys2 in the channels of a part.

        Args:
            ys1: one tensor per layer, [N, C] (scale) or [N, 2, C, 1, 1] (scale, bias).
            ys2: likewise; a single row of one is paired with all rows of the other.
            label: a part.
            rho, epsilon: one number for all layers, or one per layer.

        Returns:
            One new tensor per layer, like that of ys1.

        Raises:
            ValueError: an unknown label; a list of another length than M; a style of another shape.
            TypeError: y1 and y2 of different dtypes.
        """
        n = len(self._M)
        rhos, epsilons = _per_layer(rho, n), _per_layer(epsilon, n)
        for name, values in (("ys1", ys1), ("ys2", ys2), ("rho", rhos), ("epsilon", epsilons)):
            if len(values) != n:
                raise ValueError(f"{name} must have one entry for each of the {n} layers of M, got {len(values)}")
        queries = [self.query(i, label, rhos[i], epsilons[i]) for i in range(n)]
        return [self._blend(y1, y2, q) for y1, y2, q in zip(ys1, ys2, queries, strict=True)]

    def _blend(self, y1: Tensor, y2: Tensor, q: Tensor) -> Tensor:
        if y1.dim() in (2, 5):
            if y1.dim() == 5:
                q = torch.cat((q, q if self._bias else torch.zeros_like(q)))
            blended = blend(y1.flatten(1), y2.flatten(1), q.to(y1.device))
            return blended.unflatten(1, y1.shape[1:])
        raise ValueError(f"a style must have shape [N, C] or [N, 2, C, 1, 1] with C = {len(q)}, got {tuple(y1.shape)}")


def _per_layer(value: Any, n: int) -> list[Any]:
    return [value] * n if isinstance(value, Real) else list(value)
