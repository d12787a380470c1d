# SPDX-License-Identifier: Apache-2.0
"""Alternatives to the ops, as a careful user of torch, NumPy, scikit-learn or faiss would write them.

Each alternative returns the first output of the op, or the first few. Images are read as [C, H W] if that avoids a
transposition.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import environment
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def assign_by_matmul(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels and cosines, by batched matrix products that read NCHW in place."""
    flat = x.flatten(2)  # [N, C, P]
    score, labels = torch.matmul(centroids, flat).max(1)  # [N, P]
    return labels, score / flat.square().sum(1).sqrt()


def lloyd_by_matmul(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels and sums, by batched matrix products that read NCHW in place."""
    flat = x.flatten(2)  # [N, C, P]
    labels = torch.matmul(centroids, flat).argmax(1)  # [N, P]
    one_hot = F.one_hot(labels, len(centroids)).to(x.dtype)  # [N, P, K]
    weighted = one_hot / flat.square().sum(1).sqrt().unsqueeze(2)
    return labels, torch.matmul(flat, weighted).sum(0).t()  # [K, C]


def lloyd_by_image(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels and sums, one image at a time, so that the second matrix product reads the image from the cache."""
    labels, sums = torch.empty(len(x), x.shape[2] * x.shape[3], dtype=torch.int64), torch.zeros_like(centroids)
    for image, label in zip(x.flatten(2), labels, strict=True):
        torch.argmax(centroids @ image, 0, out=label)
        weighted = F.one_hot(label, len(centroids)).t() / image.square().sum(0).sqrt()  # [K, P]
        sums += weighted @ image.t()
    return labels, sums


def lloyd_in_numpy(x: np.ndarray, centroids: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return labels and sums, one image at a time, in NumPy."""
    n, c, h, w = x.shape
    labels, sums = np.empty((n, h * w), np.int32), np.zeros_like(centroids)
    positions = np.arange(h * w)
    for image, label in zip(x.reshape(n, c, h * w), labels, strict=True):
        label[:] = np.matmul(image.T, centroids.T).argmax(1)
        weighted = np.zeros((len(centroids), h * w), np.float32)
        weighted[label, positions] = 1 / np.sqrt(np.einsum("cp,cp->p", image, image))
        sums += weighted @ image.T
    return torch.from_numpy(labels), torch.from_numpy(sums)


class SklearnStep:
    """One Lloyd iteration of scikit-learn without the rest of its `fit`, after a transposition and normalisation."""

    def __init__(self, threads: int) -> None:
        lloyd = environment.load("sklearn.cluster._k_means_lloyd")
        pools = environment.load("threadpoolctl")
        if lloyd is None or pools is None:
            raise ImportError("scikit-learn is not installed: pip install stylefast[bench]")
        self.iterate, self.threads, self.pools = lloyd.lloyd_iter_chunked_dense, threads, pools.ThreadpoolController()

    def __call__(self, x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
        rows = F.normalize(x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]), dim=1).numpy()  # [P, C]
        old = centroids.numpy()
        k, new = len(old), np.empty_like(old)
        labels, counts, shift = np.full(len(rows), -1, np.int32), np.zeros(k, np.float32), np.zeros(k, np.float32)
        with self.pools.limit(limits=1, user_api="blas"):  # as in scikit-learn's `fit`: threads share chunks
            self.iterate(rows, np.ones(len(rows), np.float32), old, new, counts, labels, shift, self.threads)
        return torch.from_numpy(labels), torch.from_numpy(new * counts[:, None])


class FaissStep:
    """One iteration of the spherical k-means of faiss, after a transposition and normalisation.

    It returns only the next centroids.
    """

    def __init__(self, threads: int) -> None:
        self.faiss: Any = environment.load("faiss")
        self.faiss.omp_set_num_threads(threads)

    def __call__(self, x: Tensor, centroids: Tensor) -> Tensor:
        rows = F.normalize(x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]), dim=1).numpy()  # [P, C]
        sampling = {"min_points_per_centroid": 1, "max_points_per_centroid": len(rows)}  # use all points
        kmeans = self.faiss.Kmeans(rows.shape[1], len(centroids), niter=1, spherical=True, **sampling)
        kmeans.train(rows, init_centroids=centroids.numpy())
        return torch.from_numpy(kmeans.centroids)


def contribution_by_image(x: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return M from labels of the layer's size, one image at a time, so that the image stays in the cache.

    The division by the variance comes last.
    """
    total, squares = torch.zeros(x.shape[1], k), torch.empty_like(x[0].flatten(1))  # [C, K], [C, P]
    for image, label in zip(x.flatten(2), labels.flatten(1).long(), strict=True):
        torch.sub(image, image.mean(1, keepdim=True), out=squares).square_()
        total += squares @ F.one_hot(label, k).to(x.dtype) / (squares.mean(1, keepdim=True) + 1e-5)
    return total.t() / (len(x) * x.shape[2] * x.shape[3])


def standardized_squares(x: Tensor) -> Tensor:
    """Return the squared, standardised activations, [N, C, H W]."""
    squares = (x.flatten(2) - x.flatten(2).mean(2, keepdim=True)).square_()
    return squares.div_(squares.mean(2, keepdim=True) + 1e-5)


def contribution_by_bmm(x: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return M from labels of the layer's size, by one batched matrix product with the one-hot labels."""
    one_hot = F.one_hot(labels.flatten(1).long(), k).to(x.dtype)  # [N, P, K]
    return torch.bmm(standardized_squares(x), one_hot).mean(0).t() / (x.shape[2] * x.shape[3])


def contribution_by_index_add(x: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return M from labels of the layer's size, by adding the channels of every position to the row of its label."""
    n, c, h, w = x.shape
    index = labels.flatten(1).long() + k * torch.arange(n).unsqueeze(1)  # [N, P]
    columns = standardized_squares(x).transpose(1, 2).reshape(-1, c)  # [N P, C]
    return torch.zeros(n * k, c).index_add_(0, index.flatten(), columns).view(n, k, c).mean(0) / (h * w)


def pooled_by_one_hot(x: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return M of a layer larger than its labels: resize the one-hot labels, then one matrix product per image."""
    one_hot = F.one_hot(labels.long(), k).movedim(-1, 1).to(x.dtype)  # [N, K, h, w]
    total = torch.zeros(k, x.shape[1])
    for image, hot in zip(x, one_hot, strict=True):
        resized = F.interpolate(hot[None], size=image.shape[1:], mode="bilinear")[0].flatten(1)  # [K, P]
        total += resized @ standardized_squares(image[None])[0].t()
    return total / (x.shape[0] * x.shape[2] * x.shape[3])


def pooled_by_adjoint(x: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return M of a layer larger than its labels, by the adjoint of the resize.

    Per image, two matrix products reduce the squares to the grid of the labels, and a third one multiplies them with
    the one-hot labels.
    """
    down, across = (_resize(labels.shape[1 + i], x.shape[2 + i], x) for i in range(2))  # [H, h], [W, w]
    total = torch.zeros(k, x.shape[1], device=x.device)
    for image, label in zip(x, labels.flatten(1).long(), strict=True):
        squares = standardized_squares(image[None])[0].view(image.shape)  # [C, H, W]
        small = torch.matmul(down.t(), torch.matmul(squares, across)).flatten(1)  # [C, h w]
        total += torch.matmul(small, F.one_hot(label, k).to(x.dtype)).t()
    return total / (x.shape[0] * x.shape[2] * x.shape[3])


def soft_by_einsum(x: Tensor, u: Tensor) -> Tensor:
    """Return M of memberships, by torch's own operators on the whole batch."""
    resized = u if u.shape[2:] == x.shape[2:] else F.interpolate(u, size=x.shape[2:], mode="bilinear")
    squares = F.instance_norm(x).square_()
    return torch.einsum("nchw,nkhw->kc", squares, resized) / (x.shape[0] * x.shape[2] * x.shape[3])


def soft_by_image(x: Tensor, u: Tensor) -> Tensor:
    """Return M of memberships of the layer's size, one image at a time, so that the image stays in the cache."""
    total, squares = torch.zeros(x.shape[1], u.shape[1]), torch.empty_like(x[0].flatten(1))  # [C, K], [C, P]
    for image, shares in zip(x.flatten(2), u.flatten(2), strict=True):
        torch.sub(image, image.mean(1, keepdim=True), out=squares).square_()
        total += (squares @ shares.t()) / (squares.mean(1, keepdim=True) + 1e-5)
    return total.t() / (len(x) * x.shape[2] * x.shape[3])


def soft_by_adjoint(x: Tensor, u: Tensor) -> Tensor:
    """Return M of memberships on a smaller grid, by the adjoint of the resize, as `pooled_by_adjoint` does."""
    down, across = (_resize(u.shape[2 + i], x.shape[2 + i], x) for i in range(2))  # [H, h], [W, w]
    total = torch.zeros(u.shape[1], x.shape[1])
    for image, shares in zip(x, u.flatten(2), strict=True):
        squares = standardized_squares(image[None])[0].view(image.shape)  # [C, H, W]
        total += shares @ torch.matmul(down.t(), torch.matmul(squares, across)).flatten(1).t()
    return total / (x.shape[0] * x.shape[2] * x.shape[3])


def _resize(small: int, large: int, x: Tensor) -> Tensor:
    """Return the bilinear resize of a row as a matrix, on the device and in the dtype of x."""
    return F.interpolate(torch.eye(small, device=x.device)[None], size=large, mode="linear")[0].t().to(x.dtype)


def one_torch_op(inputs: dict[str, Any]) -> tuple[str, Callable[[], Any]]:
    """Return the name and the call of one torch op that reads the arguments of an op.

    It is the product with the centroids, the square, or a lerp. It does not compute the op. It only shows how long one
    small torch call takes.
    """
    if "target" in inputs:
        return "torch.lerp", partial(torch.lerp, inputs["target"], inputs["reference"], inputs["query"])
    if "centroids" in inputs:
        return "torch.matmul", partial(torch.matmul, inputs["centroids"], inputs["activations"].flatten(2))
    return "torch.square", partial(torch.square, inputs["activations"])


def blend_in_place(t: Tensor, r: Tensor, q: Tensor, out: Tensor) -> Tensor:
    """Return `t + q (r - t)`, computed in `out` without a temporary tensor."""
    return torch.sub(r, t, out=out).mul_(q).add_(t)
