# SPDX-License-Identifier: Apache-2.0
"""Definitions of the ops in NumPy, in float64, and bounds on the errors of a computation at a working precision.

With eps of the working precision, a sum of n rounded terms t differs from its value by at most `n eps sum |t|`. The
sums over C channels use this bound. The errors of long sums over positions are independent of each other, and their
bound is `(8 + 2 sqrt(n)) eps sum |t|`. For float64 input, the formulas themselves have such errors, and eps is doubled.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor


def epsilon(dtype: torch.dtype) -> float:
    """Return eps of the precision that the ops compute in for input of a dtype."""
    return 2 * float(np.finfo(np.float64).eps) if dtype == torch.float64 else float(np.finfo(np.float32).eps)


def exact(tensor: Tensor) -> ndarray:
    return tensor.detach().double().numpy()


def long_sum(n: float) -> float:
    """Return the bound on the relative error, in eps, of a sum of n terms that are not negative."""
    return 8 + 2 * math.sqrt(n)


class Points(NamedTuple):
    """Points that are clustered, [N, C, H, W].

    Attributes:
        values: Values.
        noise: Bound on the errors of the values.
        amplitude: Sum of the magnitudes of the terms that the values are computed from.
        eps: Working precision.
    """

    values: ndarray
    noise: ndarray
    amplitude: ndarray
    eps: float


def points(a: ndarray, features: str, eps: float) -> Points:
    """Return A, `A * A` or `(A - mean) / sqrt(var + 1e-5)`.

    The mean of n values has an error of `long_sum(n) eps max |A|`. This is also the error of every centred value, and
    its square is an error of the variance.
    """
    if features == "raw":
        return Points(a, np.zeros_like(a), np.abs(a), eps)
    if features == "squared":
        return Points(a * a, eps * a * a, a * a, eps)
    n = a.shape[2] * a.shape[3]
    mean = a.mean((2, 3), keepdims=True)
    centred = a - mean
    rstd = 1 / np.sqrt((centred * centred).mean((2, 3), keepdims=True) + 1e-5)
    values = centred * rstd
    shift = long_sum(n) * eps * np.abs(a).max((2, 3), keepdims=True) * rstd
    noise = shift + np.abs(values) * (long_sum(n) * eps + shift * shift)
    return Points(values, noise, (np.abs(a) + np.abs(mean)) * rstd + np.abs(values), eps)


class Norms(NamedTuple):
    """Norms of points, [N, H, W], bounds on their errors, and which are not finite, zero, or less than noise."""

    values: ndarray
    noise: ndarray
    is_infinite: ndarray
    is_zero: ndarray
    is_vague: ndarray


def norms(x: Points) -> Norms:
    values = np.sqrt((x.values * x.values).sum(1))
    noise = (x.values.shape[1] + 8) * x.eps * values + np.sqrt((x.noise * x.noise).sum(1))
    is_infinite, is_zero = ~np.isfinite(values), (values == 0) & (noise == 0)
    return Norms(values, noise, is_infinite, is_zero, ~is_zero & ~is_infinite & (values <= 4 * noise))


class Scores(NamedTuple):
    """Scores `<x, c_k>`, [N, K, H, W], and bounds on their errors."""

    values: ndarray
    noise: ndarray


def scores(x: Points, c: ndarray) -> Scores:
    rounding = (len(c[0]) + 12) * x.eps * np.einsum("nchw,kc->nkhw", x.amplitude, np.abs(c))
    noise = rounding + np.einsum("nchw,kc->nkhw", x.noise, np.abs(c))
    return Scores(np.einsum("nchw,kc->nkhw", x.values, c), noise)


def of_label(x: ndarray, labels: ndarray) -> ndarray:
    """Return the values [N, H, W] of an array [N, K, H, W] at the labels [N, H, W]."""
    return np.take_along_axis(x, labels[:, None].astype(np.int64), 1)[:, 0]


def label_faults(labels: ndarray, score: Scores, norm: Norms) -> ndarray:
    """Return at which points, [N, H, W], a label is wrong.

    A label is right if its score is the largest within the errors of both. Points without a finite norm and zero points
    have label 0.
    """
    chosen, noise = of_label(score.values, labels), of_label(score.noise, labels)
    with np.errstate(invalid="ignore"):
        is_low = (chosen + noise < (score.values - score.noise).max(1)) & ~norm.is_vague
    return np.where(norm.is_infinite | norm.is_zero, labels != 0, is_low)


def cosines(labels: ndarray, score: Scores, norm: Norms) -> tuple[ndarray, ndarray]:
    """Return similarities [N, H, W] and bounds on their errors, which are infinite for vague points."""
    chosen, noise = of_label(score.values, labels), of_label(score.noise, labels)
    with np.errstate(all="ignore"):
        cosine = np.where(norm.is_zero, 0, chosen / norm.values)
        error = 1.5 * (noise + np.abs(cosine) * norm.noise) / norm.values
    cosine = np.where(norm.is_infinite, np.nan, cosine)
    return cosine, np.where(norm.is_vague, np.inf, np.where(norm.is_infinite | norm.is_zero, 0, error))


def bilinear_weights(size: int, cells: int) -> ndarray:
    """Return the weights [size, cells] of linear interpolation between cell centres, clamped at the borders."""
    position = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
    lower = np.floor(position).astype(int)
    weights = np.zeros((size, cells))
    weights[np.arange(size), lower] += 1 - (position - lower)
    weights[np.arange(size), np.minimum(lower + 1, cells - 1)] += position - lower
    return weights


def nearest_weights(size: int, cells: int) -> ndarray:
    """Return the weights [size, cells] that take cell `floor(i cells / size)`, in float32 as torch computes it."""
    cell = np.floor(np.arange(size, dtype=np.float32) * (np.float32(cells) / np.float32(size))).astype(int)
    return np.eye(cells)[np.minimum(cell, cells - 1)]


def one_hot(labels: ndarray, k: int) -> ndarray:
    """Return the memberships [N, K, h, w] of labels [N, h, w]."""
    return (labels[:, None] == np.arange(k)[:, None, None]).astype(np.float64)


def contribution(
    a: ndarray, u: ndarray, standardize: bool, resize: str, per_image: bool, eps: float
) -> tuple[ndarray, ndarray]:
    """Return M of memberships u [N, K, h, w], which is [K, C] or [N, K, C], and bounds on its errors."""
    x = points(a, "standardized" if standardize else "raw", eps)
    n, _, h, w = a.shape
    weights = bilinear_weights if resize == "bilinear" else nearest_weights
    rows, columns = weights(h, u.shape[2]), weights(w, u.shape[3])
    resized = np.einsum("nkij,hi,wj->nkhw", u, rows, columns, optimize=True)
    squares = x.values * x.values
    noise = 2 * np.abs(x.values) * x.noise + x.noise * x.noise
    m = np.einsum("nchw,nkhw->nkc", squares, resized, optimize=True) / (h * w)
    budget = np.einsum("nchw,nkhw->nkc", noise, resized, optimize=True) / (h * w) + long_sum(n * h * w) * eps * m
    if resize == "bilinear" and u.shape[2:] != (h, w):  # errors of positions between cells
        largest = u.max((2, 3))[:, :, None]  # [N, K, 1]
        budget = budget + 2 * eps * sum(u.shape[2:]) * largest * squares.mean((2, 3))[:, None]
    if per_image:
        return m, budget
    return m.sum(0) / max(1, n), budget.sum(0) / max(1, n)
