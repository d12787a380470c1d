# SPDX-License-Identifier: Apache-2.0
"""`StyleInterpolator`, with the signature that existing code uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core.checks import check_choice, check_no_nan, check_shape, check_tensor
from ..ops.blend import blend


class AnnotatedCatalog(Protocol):
    """Attributes of a catalog that `StyleInterpolator` reads: the parts, and one tensor M [P, C] per layer."""

    @property
    def annotations(self) -> Mapping[str, Sequence[int]]: ...

    @property
    def M(self) -> Sequence[Tensor]: ...


class StyleInterpolator:
    """Interpolator that blends lists of per-layer styles in the channels that belong to a part.

    The query q and the blended style y are::

        q_c = 1 if cost_c < epsilon and m_c > rho, else 0
        y = y1 + q o (y2 - y1)

    Here `m = M[layer][part]`, and the cost is the running sum of `1 - m`, in the dtype of m, in descending order of m.

    q equals the q of the released code bit for bit wherever that code defines it. Each of the following differences
    avoids a fault of the released code:

    - Channels of equal m are taken in the order of their index. The sort of the released code is not stable and takes
      them in any order.
    - A channel with q = 0 equals y1 bit for bit. The released code gives NaN where y2 is Inf or NaN, and turns -0 into
      0.
    - NaN in M is refused. The released code selects no channels if M contains NaN.
    - 16-bit styles keep their dtype with a 32-bit M. The released code converts 2-D styles to 32 bits.
    - `rho` and `epsilon` may be any real numbers, including NumPy's, or one number per layer. Any other number of
      values is refused.
    - y1 or y2 may require gradients. A style that is neither 2-D nor 5-D is refused with an error that names its shape.

    `stylefast.query.sequential` also clamps m to [0, 1] and sums in float64. Its q may therefore differ in a channel
    whose cost is within rounding of epsilon.

    Args:
        catalog: A `FactorCatalog`, or another object with `annotations` and `M`. Both are read once, by the
            constructor.
        bias: Whether to blend the second half of 5-D styles, too.

    Raises:
        TypeError: If an element of `M` is not a floating-point tensor.
        ValueError: If a tensor of `M` does not have shape [P, C] for the P parts, or contains NaN.

    References:
        Collins et al., "Editing in Style: Uncovering the Local Semantics of GANs", CVPR 2020, equations 3 and 5, with
        the edge cases of the released code.
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
        """Return q [C], zeros and ones in the dtype of M.

        Args:
            layer: Index of the layer.
            label: Name of a part.
            rho: Threshold of m.
            epsilon: Budget of the cost.

        Raises:
            ValueError: If `label` is not the name of a part.
        """
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
        """Move the styles `ys1` towards `ys2` in the channels of a part.

        Args:
            ys1: Target styles: one tensor per layer, [N, C] (scale) or [N, 2, C, 1, 1] (scale, bias).
            ys2: Reference styles in the same form. A single row of `ys1` or `ys2` is paired with all rows of the other.
            label: Name of a part.
            rho: Threshold of m: one number for all layers, or one per layer.
            epsilon: Budget of the cost: one number for all layers, or one per layer.

        Returns:
            One new tensor per layer, in the form of `ys1`.

        Raises:
            TypeError: If two styles of a layer have different dtypes.
            ValueError: If `label` is not the name of a part, a list does not have the length of M, or a style has
                another shape.
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
