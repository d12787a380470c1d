# SPDX-License-Identifier: Apache-2.0
"""Contribution matrix M: how much of the standardised energy of each channel lies in each cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..backends.native import out_of_range
from ..core.checks import check_activations, check_choice, check_shape
from ..core.dtypes import DTYPES, accumulator
from . import assign as assignment
from . import soft_contribution as soft
from .op import BadCall, Cost, Op
from .soft_contribution import RESIZES

INTEGERS = (torch.int32, torch.int64, torch.int16, torch.uint8, torch.int8)


def contribution(
    activations: Tensor,
    labels: Tensor,
    n_clusters: int,
    *,
    standardize: bool = True,
    resize: str = "bilinear",
    per_image: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Measure how much each channel of a layer contributes to each cluster.

    For activations A and memberships U, which are the one-hot encoding of the labels unless they are given, resized to
    H x W as by `torch.nn.functional.interpolate` with `align_corners=False`::

        M[k, c] = 1 / (N H W) · sum_{n, h, w} A'[n, c, h, w]^2 · U[n, k, h, w]
        A' = (A - mean) / sqrt(var + 1e-5)    (per image and channel, biased variance)

    M is linear in U.

    To combine batches, add `N * M` of all batches and divide by the total number of images. To get M of a part, add
    the rows of its clusters.

    Under `torch.compile` and `torch.export` the op is one node of the graph, which accepts any N, H and W and runs on
    the backend that was selected at compile time. Autocast does not change the computation.

    Args:
        activations: Activations of shape [N, C, H, W]; float32, float64, float16 or bfloat16, any strides.
        labels: Labels in [0, K) of shape [N, h, w], for any h and w; int64, int32, int16, int8 or uint8. Under
            `torch.compile` and on devices other than the CPU the values are not checked; a label outside [0, K) then
            belongs to no cluster. Or memberships U >= 0 of shape [N, K, h, w], float32, float64, float16 or bfloat16,
            any strides; the op computes with them in float32 (float64 for float64 activations).
        n_clusters: Number of clusters K.
        standardize: Whether to standardise the activations. False sets A' = A, for activations that are already
            normalised (StyleGAN1).
        resize: Interpolation of the memberships: "bilinear" or "nearest".
        per_image: Whether to return one M per image instead of the mean over the N images.
        backend: Name of a backend, as in `stylefast.assign`.

    Returns:
        M of shape [K, C], or [N, K, C] if `per_image` is set; float32 (float64 for float64 activations). All values are
        >= 0; without images they are 0. With `standardize`, the sum over k is the mean over n of `var / (var + 1e-5)`
        for labels, and for memberships whose sum over k is 1.
        With `standardize`, NaN or Inf in a channel makes its M NaN in all clusters. Without it, M is NaN or Inf at
        least in the clusters that contain the value. M of a channel with finite values is undefined, such as NaN, Inf
        or 0, unless the dtype of M holds the sum of their squares over the positions of an image. For float32, this
        needs values up to `5e18 / sqrt(H W)`.

    Raises:
        TypeError: If `activations` is not a dense tensor of one of these dtypes, `labels` is neither an integer tensor
            nor a dense floating-point tensor, or `n_clusters` is not an int.
        ValueError: If a shape, the device of `labels`, a label, a membership, `n_clusters`, `resize` or the name of the
            backend is invalid.
        RuntimeError: If `backend` cannot run on this machine or on the device of the tensors.

    References:
        Collins et al., "Editing in Style: Uncovering the Local Semantics of GANs", CVPR 2020, equation 1.

    Example:
        >>> import torch
        >>> import stylefast
        >>> activations, labels = torch.randn(2, 64, 32, 32), torch.randint(8, (2, 16, 16))
        >>> stylefast.contribution(activations, labels, n_clusters=8).shape
        torch.Size([8, 64])
        >>> memberships = torch.rand(2, 8, 16, 16)
        >>> stylefast.contribution(activations, memberships, n_clusters=8).shape
        torch.Size([8, 64])
    """
    if isinstance(labels, Tensor) and labels.is_floating_point():
        _check_clusters(n_clusters)
        if labels.dim() == 4:
            check_shape("memberships", labels, N=None, K=n_clusters, h=None, w=None)
        options = {"standardize": standardize, "resize": resize, "per_image": per_image, "backend": backend}
        return soft.soft_contribution(activations, labels, **options)
    check(activations, labels, n_clusters, resize)
    labels = labels if labels.dtype == torch.int32 else labels.to(torch.int32)
    return CONTRIBUTION(backend, activations, labels, int(n_clusters), bool(standardize), resize, bool(per_image))


def check(activations: Tensor, labels: Tensor, n_clusters: int, resize: str) -> None:
    check_activations(activations)
    if not isinstance(labels, Tensor) or labels.dtype not in INTEGERS:
        kind = getattr(labels, "dtype", type(labels))
        raise TypeError(f"labels must be an integer tensor [N, h, w] or memberships [N, K, h, w], got {kind}")
    n = activations.shape[0]
    if labels.dim() != 3 or labels.shape[0] != n or 0 in labels.shape[1:]:
        raise ValueError(f"labels must have shape [N, h, w] with N = {n} and h, w >= 1, got {tuple(labels.shape)}")
    if labels.device != activations.device:
        raise ValueError(f"labels must be on {activations.device} like the first argument, got {labels.device}")
    _check_clusters(n_clusters)
    check_choice("resize", resize, RESIZES)
    if (limits := out_of_range(labels, n_clusters)) is not None:
        (low,), (high,) = limits
        raise ValueError(f"labels must lie in [0, {n_clusters}), got values from {low} to {high}")


def _check_clusters(n_clusters: int) -> None:
    if isinstance(n_clusters, bool) or not isinstance(n_clusters, int):
        raise TypeError(f"n_clusters must be an int, got {type(n_clusters).__name__}")
    if n_clusters < 1:
        raise ValueError(f"n_clusters must be >= 1, got {n_clusters}")


def reference(
    activations: Tensor, labels: Tensor, n_clusters: int, standardize: bool, resize: str, per_image: bool
) -> Tensor:
    clusters = torch.arange(n_clusters, device=labels.device).view(1, -1, 1, 1)
    one_hot = (labels.unsqueeze(1) == clusters).to(accumulator(activations.dtype))  # [N, K, h, w]
    return soft.reference(activations, one_hot, standardize, resize, per_image)


def fake(
    activations: Tensor, labels: Tensor, n_clusters: int, standardize: bool, resize: str, per_image: bool
) -> Tensor:
    n, c, _, _ = activations.shape
    shape = (n, n_clusters, c) if per_image else (n_clusters, c)
    return activations.new_empty(shape, dtype=accumulator(activations.dtype))


def cost(activations: Tensor, labels: Tensor, n_clusters: int, standardize: bool, resize: str, per_image: bool) -> Cost:
    """Count one read of the activations and of the labels, whatever K is, and one write of M."""
    taps = 1 if labels.shape[1:] == activations.shape[2:] or resize == "nearest" else 2
    rows = len(activations) if per_image else 1
    written = rows * n_clusters * activations.shape[1] * activations.itemsize
    return Cost(activations.nbytes + 4 * labels.numel() + written, (2 + 2 * taps) * activations.numel())


def samples() -> Iterator[tuple[str, dict[str, Any]]]:
    for n, c, h, w, k in assignment.SIZES:
        yield f"same-{n}x{c}x{h}x{w}-K{k}", _sample(n, c, h, w, k, (h, w))
    for grid in ((4, 4), (9, 14), (5, 3), (1, 1), (18, 28), (27, 7), (2, 40), (16, 16)):
        for resize in RESIZES:
            name = f"{resize}-{grid[0]}x{grid[1]}-to-9x14"
            yield name, _sample(2, 18, 9, 14, 6, grid, resize=resize)
    yield "bilinear-8x8-to-64x64", _sample(1, 20, 64, 64, 5, (8, 8))
    yield "bilinear-4x6-to-33x259", _sample(1, 3, 33, 259, 5, (4, 6))
    for dtype in DTYPES[1:]:
        yield f"{dtype}"[6:], _sample(2, 18, 9, 14, 6, (4, 4), dtype=dtype)
    for dtype in (torch.float64, torch.bfloat16):  # enough work for two threads
        yield f"threads-{dtype}".replace("torch.", ""), _sample(2, 20, 30, 31, 6, (7, 8), dtype=dtype)
    for standardize in (True, False):
        yield f"per-image-{standardize}", _sample(3, 18, 9, 14, 6, (9, 14), standardize=standardize, per_image=True)
        yield f"resized-{standardize}", _sample(3, 18, 9, 14, 6, (4, 5), standardize=standardize, per_image=True)
    for name, grid in (("same", (16, 16)), ("resized", (5, 7))):
        planes = _sample(1, 33, 16, 16, 6, grid)
        yield f"planes-{name}", {**planes, "activations": planes["activations"].contiguous()}
    base = _sample(2, 18, 12, 20, 6, (5, 6))
    for layout, view in assignment.strided(base["activations"]):
        yield layout, {**base, "activations": view}
        yield f"{layout}-same", {**_sample(2, 18, 12, 20, 6, (12, 20)), "activations": view.bfloat16()}
    offset = base["activations"] * 1e-3 + 1.0  # |mean| is about 1000 times std
    offset[:, 2] = 5.0
    yield "far-from-zero", {**base, "activations": offset}
    yield "strided-labels", {**base, "labels": base["labels"].repeat(1, 2, 3)[:, ::2, 1::3]}


def _sample(
    n: int, c: int, h: int, w: int, k: int, grid: tuple[int, int], *, dtype: torch.dtype = torch.float32, **options: Any
) -> dict[str, Any]:
    activations, _ = assignment.clustered(n, c, h, w, k, dtype)
    rng = torch.Generator().manual_seed(1)
    labels = torch.randint(k, (n, *grid), generator=rng, dtype=torch.int32)
    defaults = {"standardize": True, "resize": "bilinear", "per_image": False}
    return {"activations": activations, "labels": labels, "n_clusters": k, **defaults, **options}


def errors() -> Iterator[BadCall]:
    x, labels = torch.ones(2, 4, 3, 3), torch.zeros(2, 3, 3, dtype=torch.int32)
    yield BadCall((x[0], labels, 2), {}, ValueError, r"activations must have shape \[N, C, H, W\]")
    yield BadCall((x, labels.bool(), 2), {}, TypeError, "labels must be an integer tensor .* got torch.bool")
    yield BadCall(
        (x, x, 5), {}, ValueError, r"memberships must have shape \[N, K, h, w\] with K = 5, got \(2, 4, 3, 3\)"
    )
    for bad in soft.membership_errors(x):
        if bad.args[1].is_floating_point():
            yield BadCall((*bad.args, 5), {}, bad.error, bad.match)
    yield BadCall((x, labels[0], 2), {}, ValueError, r"labels must have shape \[N, h, w\] with N = 2 .* got \(3, 3\)")
    yield BadCall((x, labels[:1], 2), {}, ValueError, r"with N = 2 .* got \(1, 3, 3\)")
    yield BadCall((x, labels.to("meta"), 2), {}, ValueError, "labels must be on cpu")
    yield BadCall((x, labels, 0), {}, ValueError, "n_clusters must be >= 1, got 0")
    yield BadCall((x, labels, 2.0), {}, TypeError, "n_clusters must be an int, got float")
    yield BadCall((x, labels + 2, 2), {}, ValueError, r"labels must lie in \[0, 2\), got values from 2 to 2")
    yield BadCall((x, labels - 1, 2), {}, ValueError, r"got values from -1 to -1")
    yield BadCall((x, labels, 2), {"resize": "bicubic"}, ValueError, "resize must be one of 'bilinear', 'nearest'")


CONTRIBUTION = Op(
    name="contribution",
    schema=(
        "(Tensor activations, Tensor labels, int n_clusters, bool standardize, str resize, bool per_image) -> Tensor"
    ),
    public=contribution,
    reference=reference,
    fake=fake,
    cost=cost,
    samples=samples,
    errors=errors,
)
