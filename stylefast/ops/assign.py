# SPDX-License-Identifier: Apache-2.0
"""Spherical k-means assignment: the label of every point and its cosine to the centroid of that label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.checks import check_activations, check_choice, check_tensor
from ..core.dtypes import DTYPES, accumulator, in_accumulator
from .op import BadCall, Cost, Op

FEATURES = ("raw", "standardized", "squared")
EPSILON = 1e-5  # added to the variance, as in torch.nn.functional.instance_norm


class Assignment(NamedTuple):
    """Result of `assign`.

    Attributes:
        labels: Label of every point, [N, H, W] int32.
        similarity: Inner product of every point and the centroid of its label, divided by the norm of the point. It is
            the cosine if the centroids have unit norm. Shape [N, H, W] float32 or float64.
    """

    labels: Tensor
    similarity: Tensor


def assign(activations: Tensor, centroids: Tensor, *, features: str = "raw", backend: str | None = None) -> Assignment:
    """Assign the C-vector at every position of every image to the centroid with the largest inner product.

    For the point `x_i` and the centroids `c_k`::

        label(i) = argmax_k <x_i, c_k>    (the lowest k on ties)
        similarity(i) = <x_i, c_label(i)> / |x_i|

    The points need not be normalised: `|x|` does not change the argmax. The centroids are not normalised by the op.

    Under `torch.compile` and `torch.export` the op is one node of the graph, which accepts any N, H and W and runs on
    the backend that was selected at compile time. Autocast does not change the computation.

    Args:
        activations: Activations of shape [N, C, H, W]; float32, float64, float16 or bfloat16, any strides.
        centroids: Centroids of shape [K, C], in any of these dtypes. Spherical k-means keeps them at unit norm.
        features: Kind of points. "raw" takes A, "standardized" takes `(A - mean) / sqrt(var + 1e-5)` per image and
            channel with the biased variance, and "squared" takes `A * A`.
        backend: Name of a backend. The default is the backend of the context (`stylefast.backends.use`), or else the
            first backend in `stylefast.backends.BACKENDS` that can run on the device.

    Returns:
        `Assignment(labels, similarity)`, both of shape [N, H, W]. Labels are int32, similarity is float32 (float64 for
        float64 activations). A zero vector has label 0 and similarity 0. A point whose norm is not finite, such as a
        point with NaN or Inf, has label 0 and similarity NaN. A score that is NaN is never the largest.

    Raises:
        TypeError: If `activations` or `centroids` is not a dense tensor of one of these dtypes.
        ValueError: If a shape, the device of `centroids`, `features` or the name of the backend is invalid.
        RuntimeError: If `backend` cannot run on this machine or on the device of the tensors.

    References:
        Collins et al., "Editing in Style: Uncovering the Local Semantics of GANs", CVPR 2020, section 3.2.
        Dhillon and Modha, "Concept decompositions for large sparse text data using clustering", 2001.

    Example:
        >>> import torch
        >>> import stylefast
        >>> activations, centroids = torch.randn(2, 512, 16, 16), torch.randn(8, 512)
        >>> labels, similarity = stylefast.assign(activations, centroids)
        >>> labels.shape, similarity.shape
        (torch.Size([2, 16, 16]), torch.Size([2, 16, 16]))
    """
    check(activations, centroids, features)
    return Assignment(*ASSIGN(backend, activations, in_accumulator(centroids, activations.dtype), features))


def check(activations: Tensor, centroids: Tensor, features: str, ranks: tuple[int, ...] = (2,)) -> None:
    check_activations(activations)
    letters = "[K, C]" if ranks == (2,) else "[K, C] or [B, K, C]"
    check_tensor("centroids", centroids, letters, *ranks, like=activations)
    channels = activations.shape[1]
    if centroids.shape[-1] != channels or 0 in centroids.shape:
        raise ValueError(
            f"centroids must have shape {letters} with K >= 1 and C = {channels} to match activations [N, C, H, W], "
            f"got {tuple(centroids.shape)}"
        )
    check_choice("features", features, FEATURES)


def standardize(x: Tensor) -> Tensor:
    """Return `(x - mean) / sqrt(var + 1e-5)` per image and channel of [N, C, H, W], with the biased variance."""
    centred = x - x.mean((2, 3), keepdim=True)
    return centred / (centred.square().mean((2, 3), keepdim=True) + EPSILON).sqrt()


def points(activations: Tensor, features: str) -> Tensor:
    """Return the tensor [N, C, H, W] whose C-vectors are clustered, in the dtype that the op computes in."""
    x = activations.to(accumulator(activations.dtype))
    if features == "raw":
        return x
    return x.square() if features == "squared" else standardize(x)


def scores(activations: Tensor, centroids: Tensor, features: str) -> Tensor:
    """Return the scores `<x_i, c_k>`, [N, K, H, W]."""
    return torch.einsum("nchw,kc->nkhw", points(activations, features), centroids)


def from_labels(labels: Tensor, activations: Tensor, centroids: Tensor, features: str) -> tuple[Tensor]:
    """Return the similarity [N, H, W] of each point to the centroid of its label."""
    norm = torch.linalg.vector_norm(points(activations, features), dim=1)  # [N, H, W]
    score = scores(activations, centroids, features).gather(1, labels.long().unsqueeze(1)).squeeze(1)
    cosine = torch.where(norm > 0, score / norm, torch.zeros_like(norm))
    return (torch.where(norm.isfinite(), cosine, torch.full_like(norm, torch.nan)),)


def best_labels(activations: Tensor, centroids: Tensor, features: str) -> Tensor:
    """Return `argmax_k <x_i, c_k>`, or 0 where `|x_i|` is zero or not finite: [N, H, W] int32."""
    score = scores(activations, centroids, features)
    norm = torch.linalg.vector_norm(points(activations, features), dim=1)
    labels = score.masked_fill(score.isnan(), -torch.inf).argmax(1)
    return torch.where(norm.isfinite() & (norm > 0), labels, 0).to(torch.int32)


def reference(activations: Tensor, centroids: Tensor, features: str) -> tuple[Tensor, Tensor]:
    labels = best_labels(activations, centroids, features)
    return labels, *from_labels(labels, activations, centroids, features)


def fake(activations: Tensor, centroids: Tensor, features: str) -> tuple[Tensor, Tensor]:
    n, _, h, w = activations.shape
    return (
        activations.new_empty((n, h, w), dtype=torch.int32),
        activations.new_empty((n, h, w), dtype=accumulator(activations.dtype)),
    )


def cost(activations: Tensor, centroids: Tensor, features: str) -> Cost:
    """Count one read of the activations (two if they are standardised), and one write of labels and similarity."""
    reads = 2 if features == "standardized" else 1
    positions = activations.numel() // activations.shape[1]
    return Cost(reads * activations.nbytes + centroids.nbytes + 8 * positions, 2 * activations.numel() * len(centroids))


SIZES = (  # N, C, H, W, K: around tile edges and vector widths, and with dimensions of 1
    (2, 16, 16, 16, 4),
    (1, 1, 1, 1, 1),
    (3, 5, 3, 7, 2),
    (2, 17, 11, 13, 11),
    (1, 15, 16, 17, 12),
    (1, 33, 16, 16, 13),
    (2, 64, 9, 15, 33),
    (5, 7, 1, 1, 3),
    (1, 8, 1, 127, 5),
    (1, 8, 1, 129, 5),
    (1, 8, 1, 257, 100),
    (1, 512, 4, 9, 6),
    (2, 6, 5, 1, 2),
    (3, 3, 64, 131, 2),  # many tiles
    (0, 4, 5, 5, 3),
)


def clustered(n: int, c: int, h: int, w: int, k: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return activations [N, C, H, W] around unit centroids, with a zero point per image, and the centroids [K, C]."""
    rng = torch.Generator().manual_seed(seed)
    centroids = torch.nn.functional.normalize(torch.randn(k, c, generator=rng, dtype=torch.float64), dim=1)
    label = torch.randint(k, (n, h, w), generator=rng)
    x = centroids[label].movedim(-1, 1) * 2 + 0.5 * torch.randn(n, c, h, w, generator=rng, dtype=torch.float64)
    if h * w > 2:
        x.flatten(2)[:, :, 1] = 0
    return x.to(dtype), centroids.to(accumulator(dtype))


def strided(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the same values in other layouts: slices of a larger buffer, channels_last, and transposed."""
    n, c, h, w = x.shape
    buffer = torch.full((n + 1, c + 2, h + 1, w + 3), torch.nan, dtype=x.dtype, device=x.device)
    buffer[:n, 1 : c + 1, 1:, 2 : w + 2] = x
    yield "slice", buffer[:n, 1 : c + 1, 1:, 2 : w + 2]
    yield "channels_last", x.contiguous(memory_format=torch.channels_last)
    buffer = torch.full((n, h, w, c + 3), torch.nan, dtype=x.dtype, device=x.device)
    buffer[..., 2 : c + 2] = x.movedim(1, -1)
    yield "channels_last_slice", buffer[..., 2 : c + 2].movedim(-1, 1)
    yield "transposed", x.transpose(2, 3).contiguous().transpose(2, 3)


def activation_samples() -> Iterator[tuple[str, Tensor, Tensor, str]]:
    """Yield (id, activations, centroids, features), the test inputs of every op that computes labels."""
    for n, c, h, w, k in SIZES:
        yield f"f32-{n}x{c}x{h}x{w}-K{k}", *clustered(n, c, h, w, k, torch.float32), "raw"
    for dtype in DTYPES[1:]:
        yield f"{dtype}"[6:], *clustered(2, 37, 9, 14, 7, dtype), "raw"
    for dtype in (torch.float64, torch.bfloat16):  # enough work for two threads
        yield f"threads-{dtype}".replace("torch.", ""), *clustered(2, 40, 13, 21, 12, dtype), "raw"
    for dtype in (torch.float16, torch.bfloat16):  # contiguous planes, for the loads of tensor boxes on Hopper
        x, centroids = clustered(1, 128, 8, 17, 9, dtype)
        yield f"planes-{dtype}".replace("torch.", ""), x.contiguous(), centroids, "raw"
    x, centroids = clustered(2, 37, 9, 14, 7, torch.float32)
    for features in FEATURES[1:]:
        yield features, x, centroids, features
        yield f"{features}-bfloat16", x.bfloat16(), centroids, features
    for layout, view in strided(x):
        yield layout, view, centroids, "raw"
        yield f"{layout}-float16", _half(view), centroids, "standardized"
    constant = x.clone()
    constant[:, 3] = 7.0
    yield "constant-channel", constant, centroids, "standardized"


def _half(view: Tensor) -> Tensor:
    """Return the view in float16, with the same strides."""
    half = torch.empty_strided(view.shape, view.stride(), dtype=torch.float16, device=view.device)
    return half.copy_(view)


def samples() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, activations, centroids, features in activation_samples():
        yield name, {"activations": activations, "centroids": centroids, "features": features}


def errors(letters: str = r"\[K, C\]") -> Iterator[BadCall]:
    x, c = torch.ones(2, 4, 3, 3), torch.ones(5, 4)
    yield BadCall((x[0], c), {}, ValueError, r"activations must have shape \[N, C, H, W\], got \(4, 3, 3\)")
    yield BadCall((x.int(), c), {}, TypeError, "activations must be float32, .* got torch.int32")
    yield BadCall((x.numpy(), c), {}, TypeError, "activations must be a torch.Tensor, got ndarray")
    yield BadCall((x.to_sparse(), c), {}, TypeError, "activations must be a dense")
    yield BadCall((x[:, :, :0], c), {}, ValueError, "C, H and W >= 1")
    yield BadCall((x, c[:, :3]), {}, ValueError, rf"centroids must have shape {letters}.* C = 4 .* got \(5, 3\)")
    yield BadCall((x, c[:0]), {}, ValueError, r"K >= 1 .* got \(0, 4\)")
    yield BadCall((x, c[0]), {}, ValueError, rf"centroids must have shape {letters}")
    yield BadCall((x, c.to("meta")), {}, ValueError, "centroids must be on cpu")
    yield BadCall((x, c), {"features": "cosine"}, ValueError, "features must be one of 'raw'")
    yield BadCall((x, c), {"backend": "abacus"}, ValueError, "backend must be one of")


ASSIGN = Op(
    name="assign",
    schema="(Tensor activations, Tensor centroids, str features) -> (Tensor, Tensor)",
    public=assign,
    reference=reference,
    from_labels=from_labels,
    fake=fake,
    cost=cost,
    samples=samples,
    errors=errors,
)
