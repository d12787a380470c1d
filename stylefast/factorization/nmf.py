# SPDX-License-Identifier: Apache-2.0
"""Estimator of the factorisation. Mini-batches share every read of the data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from ..core.checks import as_tensor, check_integer, to_tensor
from ..core.dtypes import Array, accumulator
from ..core.progress import Progress, progress_bar
from ..kmeans.prefetch import Stream, array_of, check_stream, prefetch
from ..ops.nmf_step import NMFStep, nmf_step
from .nndsvd import initial_components

BATCH_POINTS = 2048  # of a mini-batch of an array
FINAL_SWEEPS = 20  # of the memberships that `transform` returns


class NMF:
    """Non-negative matrix factorisation of the rectified C-vectors `x_i = max(a_i, 0)` at all positions of activations.

    It minimises the squared error by coordinate descent::

        sum_i |x_i - sum_k U_ik h_k|^2    with memberships U >= 0 and components h_k >= 0

    Data are activations [N, C, H, W] or points [M, C] with any strides: tensors (float32, float64, float16 or bfloat16)
    or NumPy arrays (no bfloat16). `fit` also takes a stream, an iterable of batches that can be read again. An epoch
    reads every mini-batch once: its memberships are computed anew from the components, the sums `P = U^T X` and
    `Q = U^T U` replace those of the mini-batch's last epoch in the sums over all data, and every component is updated::

        h_k <- max(0, h_k + (P_k - sum_j Q_kj h_j) / Q_kk)

    Multiplicative updates reach the same error in several times as many epochs.

    Args:
        n_components: Number of components K, from 1 to C.
        max_iter: Maximum number of epochs.
        tol: The fit ends when an epoch reduces the squared error by less than `tol` times the squared norm of the data.
        sweeps: Sweeps of the coordinate descent over the memberships of a point per epoch. With fewer than 5, the fit
            may end with a larger error; more than 8 hardly reduce the number of epochs.
        backend: Name of a backend, as in `stylefast.assign`; the op exists on "cpu" and "reference".

    Attributes:
        components_: Components H of unit norm, [K, C] float32 (float64 for float64 data), in the order of the singular
            vectors from which they start.
        error_: Squared error of the last epoch, relative to the squared norm of the data: 0 if the data are zero.
        n_iter_: Number of epochs.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Cichocki and Phan, "Fast local algorithms for large scale nonnegative matrix and tensor factorizations", 2009;
        Mairal et al., "Online learning for matrix factorization and sparse coding", JMLR 2010; Collins et al., "Deep
        feature factorization for concept discovery", ECCV 2018.

    Example:
        >>> import stylefast, torch
        >>> stylefast.NMF(4).fit(torch.rand(2, 8, 16, 16)).components_.shape
        torch.Size([4, 8])
    """

    components_: Array
    error_: float
    n_iter_: int

    def __init__(
        self,
        n_components: int,
        *,
        max_iter: int = 100,
        tol: float = 1e-4,
        sweeps: int = 8,
        backend: str | None = None,
    ) -> None:
        if not isinstance(tol, Real) or not (0 <= tol < math.inf):
            raise ValueError(f"tol must be a finite number >= 0, got {tol!r}")
        self.n_components: int = check_integer("n_components", n_components, 1)
        self.max_iter: int = check_integer("max_iter", max_iter, 1)
        self.tol: float = float(tol)
        self.sweeps: int = check_integer("sweeps", sweeps, 1)
        self.backend = backend

    def fit(self, activations: Array | Stream, *, progress: Progress = True) -> NMF:
        """Factorise the data from scratch.

        Args:
            activations: Data of shape [N, C, H, W] or [M, C], or a stream that gives the same batches on every pass.
                Memory holds K·(C + K) numbers per mini-batch.
            progress: Whether to show a progress bar, which appears after two seconds; or a function that is called
                after every epoch with "factorisation", the number of epochs that are done, and `max_iter`.

        Returns:
            The fitted estimator itself.

        Raises:
            TypeError: If the data have a wrong type or dtype, or are an iterator, which can be read only once.
            ValueError: If a shape is wrong, there are fewer channels than components, there is no point, a point
                contains NaN or Inf, or the sums of the squares of the data are too large or too small for the dtype of
                the components. For float32, the largest value must be between about 1e-19 and 1e18.
        """
        if not isinstance(activations, (Tensor, np.ndarray)):
            check_stream("activations", activations)
        self._check_channels(activations)
        initial = initial_components(lambda: map(_points, _batches(activations)), self.n_components)
        if not initial.in_range:
            raise ValueError(_out_of_range(activations))
        components, energy = initial.components, initial.energy
        first = next(_batches(activations))
        components = components.to(accumulator(first.dtype))
        n_epochs, total, parts, error = 0, _zeros(components), list[tuple[Tensor, Tensor]](), math.inf
        with progress_bar(self.max_iter, "factorisation", "epoch", shown=progress) as bar:
            for _ in range(self.max_iter):
                former, error = error, energy
                for i, batch in enumerate(_batches(activations)):
                    step = nmf_step(batch, components, self.sweeps, backend=self.backend)
                    error += _change(step, components)
                    if i == len(parts):
                        parts.append(_zeros(components))
                    total = tuple(a + (b - c) for a, b, c in zip(total, step[1:3], parts[i], strict=True))
                    parts[i] = step.products, step.gram
                    components = _updated(components, *total)
                n_epochs += 1
                bar.update(1)
                if former - error <= self.tol * energy:
                    break
        self.n_iter_ = n_epochs
        norms = torch.linalg.vector_norm(components, dim=1, keepdim=True)
        self.error_ = max(0.0, error / energy) if energy else 0.0
        self.components_ = _like(activations, torch.where(norms > 0, components / norms, components))
        return self

    def transform(self, activations: Array) -> Array:
        """Return the memberships U of all points for the fitted components, [N, K, H, W] or [M, K].

        Args:
            activations: Data of shape [N, C, H, W] or [M, C], with as many channels as the components.

        Raises:
            RuntimeError: If `fit` was not called.
            TypeError, ValueError: As in `fit`.
        """
        if not hasattr(self, "components_"):
            raise RuntimeError("NMF has no components yet: call fit first")
        x = as_tensor("activations", activations, "[N, C, H, W] or [M, C]", 4, 2)
        u = memberships(_view(x), to_tensor("components_", self.components_), backend=self.backend)
        return _like(activations, u if x.dim() == 4 else u.flatten(2).transpose(1, 2).flatten(0, 1))

    def _check_channels(self, activations: Array | Stream) -> None:
        """Raise ValueError unless there is a batch, and all batches have the same C, which is at least K."""
        channels = {batch.shape[1] for batch in _batches(activations)}
        if len(channels) != 1:
            raise ValueError(f"activations must have points with equally many channels, got C in {sorted(channels)}")
        if (c := channels.pop()) < self.n_components:
            raise ValueError(f"n_components must be at most C = {c}, got {self.n_components}")


def memberships(activations: Tensor, components: Tensor, *, backend: str | None = None) -> Tensor:
    """Return the memberships U of all points of [N, C, H, W] for components H [K, C], [N, K, H, W].

    Raises:
        TypeError, ValueError: As in `nmf_step`, and ValueError if a point contains NaN or Inf, or a membership is too
            large for its dtype.
    """
    u = nmf_step(activations, components, FINAL_SWEEPS, backend=backend).memberships
    if not u.isfinite().all():
        raise ValueError(_out_of_range(activations))
    return u


def _view(x: Tensor) -> Tensor:
    """View [N, C, H, W] or [M, C] as images; the rows become the positions of one image, or of none if M = 0."""
    return x if x.dim() == 4 else x.t()[None, :, :, None] if len(x) else x[:, :, None, None]


def _batches(activations: Array | Stream) -> Iterator[Tensor]:
    """Yield the mini-batches of the data, [n, C, h, w], without those that are empty."""
    is_array = isinstance(activations, (Tensor, np.ndarray))
    for data in [activations] if is_array else prefetch(activations):
        x = as_tensor("activations", array_of(data), "[N, C, H, W] or [M, C]", 4, 2)
        if not x.numel():
            continue
        positions = x.shape[2:].numel()  # 1 for rows
        for piece in x.split(max(1, BATCH_POINTS // positions)) if is_array else [x]:
            yield _view(piece)


def _points(batch: Tensor) -> Tensor:
    """Return the points of a mini-batch, [n, C, h w] >= 0, in the dtype that the op computes in."""
    return batch.to(accumulator(batch.dtype)).clamp(min=0).flatten(2)


def _zeros(components: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums over no points, [K, C] and [K, K]."""
    k, c = components.shape
    products, gram = (torch.zeros(k, n, dtype=torch.float64, device=components.device) for n in (c, k))
    return products, gram


def _change(step: NMFStep, components: Tensor) -> float:
    """Return the squared error of the points of a step minus their squared norm."""
    h = components.double()
    return float(((step.gram @ h - 2 * step.products) * h).sum())


def _updated(components: Tensor, products: Tensor, gram: Tensor) -> Tensor:
    """Return the components after one sweep of their updates. A component without memberships is kept."""
    h = components.double().clone()
    for k in range(len(h)):
        if gram[k, k] > 0:
            h[k] = (h[k] + (products[k] - gram[k] @ h) / gram[k, k]).clamp(min=0)
    return h.to(components.dtype)


def _out_of_range(activations: Array | Stream) -> str:
    """Return the message for data with NaN or Inf, or else for data whose squares over- or underflow."""
    count, first, begin, largest, dtype = 0, None, 0, 0.0, torch.float32
    for batch in _batches(activations):
        largest, dtype = max(largest, batch.max().item()), accumulator(batch.dtype)
        bad = (~batch.isfinite()).any(1)  # [n, h, w]
        count += int(bad.sum())
        if first is None and bad.any():
            first = [begin + int(bad.nonzero()[0, 0]), *bad.nonzero()[0, 1:].tolist()]
        begin += len(batch)
    if count:
        return f"activations must be finite, got NaN or Inf in {count} points, first at image {first}"
    squares = f"sums of squares that {str(dtype).removeprefix('torch.')} holds"
    return f"activations must have {squares}, got values up to {largest:g}: multiply all by the same factor"


def _like(data: Array | Stream, result: Tensor) -> Array:
    """Return the result as a NumPy array if the data are one, otherwise as a tensor."""
    return result.numpy() if isinstance(data, np.ndarray) else result
