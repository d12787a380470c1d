# SPDX-License-Identifier: Apache-2.0
"""Laws of the contribution matrix, an independent formula of it, and a case computed by hand, on every backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cells import backends, call
from hypothesis import given
from hypothesis import strategies as st
from problems import labelled, problems, rng, seeds
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

import stylefast
from stylefast.ops.assign import FEATURES
from stylefast.ops.contribution import INTEGERS, RESIZES

EPSILON = 1e-5

pytestmark = pytest.mark.parametrize("backend", backends())


@given(problem=labelled(), resize=st.sampled_from(RESIZES))
def test_m_sums_to_the_energy_of_standardised_channels(backend: str, problem: tuple[Tensor, Tensor, int], resize: str):
    x, labels, k = problem
    m = call(stylefast.contribution, backend, x, labels, k, resize=resize)
    variance = x.double().flatten(2).var(2, correction=0)  # [N, C]
    assert m.shape == (k, x.shape[1]) and m.min() >= 0
    assert_close(m.double().sum(0), (variance / (variance + EPSILON)).mean(0), rtol=1e-5, atol=1e-6)


@given(problem=labelled(), resize=st.sampled_from(RESIZES), standardize=st.booleans())
def test_m_equals_its_definition(backend: str, problem: tuple[Tensor, Tensor, int], resize: str, standardize: bool):
    x, labels, k = problem
    wide = x.double()
    if standardize:  # F.instance_norm refuses planes of one position
        wide = F.instance_norm(wide) if x[0, 0].numel() > 1 else wide * 0
    u = F.interpolate(F.one_hot(labels.long(), k).movedim(-1, 1).float(), x.shape[2:], mode=resize)
    expected = torch.einsum("nchw,nkhw->nkc", wide.square(), u.double()) / x[0, 0].numel()
    per_image = call(
        stylefast.contribution, backend, x, labels, k, standardize=standardize, resize=resize, per_image=True
    )
    assert_close(per_image.double(), expected, rtol=1e-4, atol=1e-5)
    m = call(stylefast.contribution, backend, x, labels, k, standardize=standardize, resize=resize)
    assert_close(m.double(), expected.mean(0), rtol=1e-4, atol=1e-5)


@given(problem=labelled(), cut=st.integers(0, 4))
def test_m_adds_over_batches(backend: str, problem: tuple[Tensor, Tensor, int], cut: int):
    x, labels, k = problem
    total = call(stylefast.contribution, backend, x, labels, k) * len(x)
    parts = [
        call(stylefast.contribution, backend, x[rows], labels[rows], k) * len(x[rows])
        for rows in (slice(None, cut), slice(cut, None))
    ]
    assert_close(parts[0] + parts[1], total, rtol=1e-5, atol=1e-6)


@given(problem=labelled(), resize=st.sampled_from(RESIZES), seed=seeds)
def test_merged_clusters_add_their_rows(backend: str, problem: tuple[Tensor, Tensor, int], resize: str, seed: int):
    x, labels, k = problem
    part = torch.randint(3, (k,), generator=rng(seed), dtype=torch.int32)
    m = call(stylefast.contribution, backend, x, labels, k, resize=resize)
    merged = call(stylefast.contribution, backend, x, part[labels.long()], 3, resize=resize)
    assert_close(merged, torch.zeros_like(merged).index_add(0, part, m), rtol=1e-5, atol=1e-6)


@given(problem=labelled(), scale=st.floats(1, 50), shift=st.floats(-50, 50))
def test_m_ignores_affine_maps_of_channels(
    backend: str, problem: tuple[Tensor, Tensor, int], scale: float, shift: float
):
    x, labels, k = problem
    x = x.double() * 100  # epsilon is negligible against these variances
    factor = torch.linspace(1, scale, x.shape[1], dtype=torch.float64).view(1, -1, 1, 1)
    got, expected = (call(stylefast.contribution, backend, a, labels, k) for a in (x * factor + shift, x))
    varying = x.flatten(2).var(2, correction=0).amin(0) > 1  # [C]
    assert_close(got[:, varying], expected[:, varying], rtol=1e-4, atol=1e-4)


@given(problem=labelled(), up=st.integers(1, 4))
def test_nearest_enlargement_repeats_labels(backend: str, problem: tuple[Tensor, Tensor, int], up: int):
    _, labels, k = problem
    n, h, w = labels.shape
    x = torch.randn(n, 6, h * up, w * up, generator=rng(up))
    repeated = labels.repeat_interleave(up, 1).repeat_interleave(up, 2)
    m = call(stylefast.contribution, backend, x, labels, k, resize="nearest")
    for resize in RESIZES:
        assert_close(m, call(stylefast.contribution, backend, x, repeated, k, resize=resize), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_channels_may_have_any_mean(backend: str, dtype: torch.dtype):
    """The mean of a channel is up to 1000 times its standard deviation, or outliers are close to zero."""
    means = torch.tensor([0.0, 0.5, 2, 4, 8, 16, 100, 1000, 1000])
    x = torch.randn(2, 9, 16, 20, generator=rng(0)) + means.view(-1, 1, 1)
    x[:, 8] = torch.where(torch.rand(16, 20, generator=rng(1)) < 0.05, x[:, 0], x[:, 8])
    x, labels = x.to(dtype), torch.randint(40, (2, 16, 20), generator=rng(2))
    u = F.one_hot(labels, 40).double()
    expected = torch.einsum("nchw,nhwk->kc", F.instance_norm(x.double()).square(), u) / u[..., 0].numel()
    m = call(stylefast.contribution, backend, x, labels, 40)
    assert_close(m.double(), expected, rtol=5e-5, atol=1e-6)


def test_bilinear_resize_by_hand(backend: str):
    """Resize 2 x 2 labels to 4 x 4: the weights of the second cell are 0, 1/4, 3/4, 1 along each axis."""
    weight = [0.0, 0.25, 0.75, 1.0]
    x = torch.randn(1, 3, 4, 4, generator=rng(0))
    expected = torch.zeros(4, 3)
    for c in range(3):
        for i in range(4):
            for j in range(4):
                energy = float(x[0, c, i, j]) ** 2 / 16
                expected[0, c] += energy * (1 - weight[i]) * (1 - weight[j])
                expected[1, c] += energy * (1 - weight[i]) * weight[j]
                expected[2, c] += energy * weight[i] * (1 - weight[j])
                expected[3, c] += energy * weight[i] * weight[j]
    labels = torch.arange(4, dtype=torch.int32).view(1, 2, 2)
    assert_close(call(stylefast.contribution, backend, x, labels, 4, standardize=False), expected)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("axis", [2, 3])
def test_labels_are_resized_as_interpolate_would(backend: str, resize: str, axis: int):
    """Each position has its own channel, so that M is the resized labels U divided by the number of positions."""
    for cells in (1, 2, 3, 4, 5, 6, 7, 11, 16, 31):
        labels = torch.arange(cells, dtype=torch.int32).view(1, cells)
        for size in (*range(1, 36), 63, 64, 65, 141, 164):
            x = torch.eye(size).view(1, size, size, 1).movedim(2, axis)
            u = F.interpolate(torch.eye(cells)[None], size, mode="linear" if resize == "bilinear" else resize)[0]
            got = call(
                stylefast.contribution, backend, x, labels.unsqueeze(4 - axis), cells, standardize=False, resize=resize
            )
            assert_close(got * size, u, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("resize", RESIZES)
def test_the_resize_of_labels_does_not_depend_on_the_dtype(backend: str, resize: str):
    for cells, size in ((4, 164), (6, 141), (5, 35), (64, 166)):
        labels = torch.arange(cells, dtype=torch.int32).view(1, cells, 1)
        x = torch.rand(1, 3, size, 1, generator=rng(0))
        m, wide = (call(stylefast.contribution, backend, a, labels, cells, resize=resize) for a in (x, x.double()))
        assert_close(m.double(), wide, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_labels_may_have_any_integer_dtype(backend: str, dtype: torch.dtype):
    x = torch.randn(2, 5, 6, 6, generator=rng(0))
    labels = torch.randint(4, (2, 6, 6), generator=rng(0), dtype=torch.int32)
    got, expected = (call(stylefast.contribution, backend, x, y, 4) for y in (labels.to(dtype), labels))
    assert torch.equal(got, expected)


@given(problem=problems(), features=st.sampled_from(FEATURES), standardize=st.booleans(), per_image=st.booleans())
def test_assign_contribution_is_assign_then_contribution(
    backend: str, problem: tuple[Tensor, Tensor], features: str, standardize: bool, per_image: bool
):
    x, centroids = problem
    options: dict[str, Any] = {"standardize": standardize, "per_image": per_image}
    labels, m = call(stylefast.assign_contribution, backend, x, centroids, features=features, **options)
    assert torch.equal(labels, call(stylefast.assign, backend, x, centroids, features=features).labels)
    expected = call(stylefast.contribution, backend, x, labels, len(centroids), **options)
    assert_close(m, expected, rtol=1e-5, atol=1e-6)
