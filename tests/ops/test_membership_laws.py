# SPDX-License-Identifier: Apache-2.0
"""Laws of M of memberships, an independent formula of it, and layers of all sizes, on every backend that has the op."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from agreement import agree
from cells import backends, call, run_op
from hypothesis import given
from hypothesis import strategies as st
from problems import around, labelled, rng, seeds, sizes
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

import stylefast
from stylefast.ops import SOFT_CONTRIBUTION
from stylefast.ops.soft_contribution import RESIZES, sample

pytestmark = pytest.mark.parametrize("backend", [x for x in backends() if x.values[0] in SOFT_CONTRIBUTION.backends])


@st.composite
def shared(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Activations [N, C, H, W] and two memberships [N, K, h, w] of another grid, or of the same one."""
    n, c, h, w, k = draw(sizes)
    grid = draw(st.one_of(st.just((h, w)), st.tuples(st.integers(1, 12), st.integers(1, 12))))
    seed = draw(seeds)
    u, v = torch.rand(2, n, k, *grid, generator=rng(seed))
    return around(n, c, h, w, k, torch.float32, seed)[0], u, v


def contribution(backend: str, x: Tensor, memberships: Tensor, **options: Any) -> Tensor:
    return call(stylefast.contribution, backend, x, memberships, memberships.shape[1], **options)


@given(problem=labelled(), resize=st.sampled_from(RESIZES), standardize=st.booleans(), per_image=st.booleans())
def test_m_of_a_one_hot_is_m_of_its_labels(
    backend: str, problem: tuple[Tensor, Tensor, int], resize: str, standardize: bool, per_image: bool
):
    x, labels, k = problem
    options: dict[str, Any] = {"resize": resize, "standardize": standardize, "per_image": per_image}
    one_hot = F.one_hot(labels.long(), k).movedim(-1, 1).float()
    expected = call(stylefast.contribution, backend, x, labels, k, **options)
    assert_close(contribution(backend, x, one_hot, **options), expected, rtol=1e-5, atol=1e-5)


@given(problem=shared(), resize=st.sampled_from(RESIZES), standardize=st.booleans())
def test_m_equals_its_definition(backend: str, problem: tuple[Tensor, Tensor, Tensor], resize: str, standardize: bool):
    x, u, _ = problem
    wide = x.double()
    if standardize:  # F.instance_norm refuses planes of one position
        wide = F.instance_norm(wide) if x[0, 0].numel() > 1 else wide * 0
    resized = F.interpolate(u, x.shape[2:], mode=resize).double()
    expected = torch.einsum("nchw,nkhw->nkc", wide.square(), resized) / x[0, 0].numel()
    options: dict[str, Any] = {"resize": resize, "standardize": standardize}
    assert_close(contribution(backend, x, u, per_image=True, **options).double(), expected, rtol=1e-4, atol=1e-5)
    assert_close(contribution(backend, x, u, **options).double(), expected.mean(0), rtol=1e-4, atol=1e-5)


@given(problem=shared(), a=st.floats(0, 8), b=st.floats(0, 8))
def test_m_is_linear_in_the_memberships(backend: str, problem: tuple[Tensor, Tensor, Tensor], a: float, b: float):
    x, u, v = problem
    expected = a * contribution(backend, x, u) + b * contribution(backend, x, v)
    assert_close(contribution(backend, x, a * u + b * v), expected, rtol=1e-5, atol=1e-5)


@given(problem=shared(), seed=seeds)
def test_m_follows_a_permutation_of_the_clusters(backend: str, problem: tuple[Tensor, Tensor, Tensor], seed: int):
    x, u, _ = problem
    order = torch.randperm(u.shape[1], generator=rng(seed))
    assert_close(contribution(backend, x, u[:, order]), contribution(backend, x, u)[order], rtol=1e-6, atol=1e-6)


@given(problem=shared(), cut=st.integers(0, 4))
def test_m_adds_over_batches(backend: str, problem: tuple[Tensor, Tensor, Tensor], cut: int):
    x, u, _ = problem
    parts = [contribution(backend, x[rows], u[rows]) * len(x[rows]) for rows in (slice(None, cut), slice(cut, None))]
    assert_close(parts[0] + parts[1], contribution(backend, x, u) * len(x), rtol=1e-5, atol=1e-5)


@given(problem=shared())
def test_memberships_of_sum_one_share_the_energy(backend: str, problem: tuple[Tensor, Tensor, Tensor]):
    x, u, _ = problem
    u = (u + 0.1) / (u + 0.1).sum(1, keepdim=True)
    variance = x.double().flatten(2).var(2, correction=0)  # [N, C]
    expected = (variance / (variance + 1e-5)).mean(0)
    assert_close(contribution(backend, x, u).double().sum(0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grid", [(16, 20), (5, 6), (30, 21)])
def test_a_mean_far_above_the_deviation_loses_no_digits(backend: str, grid: tuple[int, int]):
    means = torch.tensor([0.0, 1, 10, 100, 1000, -1000]).view(-1, 1, 1)
    x = torch.randn(2, 6, 16, 20, generator=rng(0)) + means
    x[:, 1] = 3.0  # a constant channel
    u = torch.rand(2, 9, *grid, generator=rng(1))
    resized = F.interpolate(u, x.shape[2:], mode="bilinear").double()
    expected = torch.einsum("nchw,nkhw->kc", F.instance_norm(x.double()).square(), resized) / (2 * 16 * 20)
    got = contribution(backend, x, u)
    assert_close(got.double(), expected, rtol=1e-5, atol=1e-9)
    assert not got[:, 1].any()


@pytest.mark.parametrize("grid", [(5, 7), (2, 3), (9, 8)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_value_that_is_not_finite_spoils_its_own_channel(backend: str, value: float, grid: tuple[int, int]):
    x = torch.randn(2, 19, 5, 7, generator=rng(0))
    u = torch.rand(2, 3, *grid, generator=rng(1))
    spoiled = x.clone()
    spoiled[1, 7, 2, 3] = value
    got, expected = (contribution(backend, a, u, per_image=True) for a in (spoiled, x))
    assert got[1, :, 7].isnan().all()
    got[1, :, 7] = expected[1, :, 7]
    assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_memberships_may_have_any_dtype_and_strides(backend: str, dtype: torch.dtype):
    x = torch.randn(2, 5, 6, 6, generator=rng(0))
    u = torch.rand(2, 6, 6, 4, generator=rng(1)).to(dtype).movedim(3, 1)
    got, expected = (contribution(backend, x, y) for y in (u, u.float().contiguous()))
    assert torch.equal(got, expected)


@pytest.mark.parametrize(
    "shape, grid, k",
    [
        ((1, 20, 256, 256), (32, 32), 30),  # one pass over a large layer
        ((2, 3, 210, 200), (210, 200), 5),  # two passes
        ((1, 19, 90, 100), (95, 101), 4),  # resized memberships
        ((2, 40, 35, 33), (17, 20), 100),  # a layer that stays in the cache
        ((1, 5, 3, 300), (2, 280), 13),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_layers_of_all_sizes(
    backend: str, shape: tuple[int, ...], grid: tuple[int, int], k: int, layout: torch.memory_format
):
    n, c, h, w = shape
    inputs = sample(n, c, h, w, k, grid)
    inputs["activations"] = inputs["activations"].contiguous(memory_format=layout)
    agree(SOFT_CONTRIBUTION, run_op(SOFT_CONTRIBUTION, backend, inputs), inputs)


@pytest.mark.parametrize(
    "shape, grid", [((3, 9, 12, 11), (12, 11)), ((2, 33, 16, 17), (4, 5)), ((3, 70, 130, 120), (16, 16))]
)
@pytest.mark.parametrize("per_image", [True, False])
def test_assign_contribution_of_memberships_is_the_sequence(
    backend: str, shape: tuple[int, ...], grid: tuple[int, int], per_image: bool
):
    """The last shape has more bytes than a chunk of images."""
    x, centroids = around(*shape, 5, torch.float32, 0)
    u = torch.rand(shape[0], 7, *grid, generator=rng(1))
    labels, m = call(
        stylefast.assign_contribution,
        backend,
        x,
        centroids,
        memberships=u,
        features="standardized",
        per_image=per_image,
    )
    expected = call(stylefast.assign, backend, x, centroids, features="standardized").labels
    assert torch.equal(labels, expected)
    assert_close(m, contribution(backend, x, u, per_image=per_image), rtol=1e-5, atol=1e-6)


def test_no_images_give_zero_m(backend: str):
    x, centroids, u = torch.empty(0, 4, 5, 5), torch.ones(3, 4), torch.empty(0, 6, 2, 2)
    for per_image, expected in ((False, torch.zeros(6, 4)), (True, torch.empty(0, 6, 4))):
        assert torch.equal(contribution(backend, x, u, per_image=per_image), expected)
        got = call(stylefast.assign_contribution, backend, x, centroids, memberships=u, per_image=per_image)
        assert torch.equal(got.contribution, expected) and got.labels.shape == (0, 5, 5)
