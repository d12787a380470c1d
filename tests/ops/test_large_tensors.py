# SPDX-License-Identifier: Apache-2.0
"""Ops on more than 2^31 elements, 4.3 GB of bfloat16. Images repeat, so that the results are known.

`-m "not large"` deselects these tests.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from problems import around
from torch import Tensor

import stylefast

pytestmark = pytest.mark.large

DISTINCT, C, SIDE, K = 3, 512, 32, 4
N = 2**31 // (C * SIDE * SIDE) + 2  # 4098 images


def test_blend_beyond_32_bit_indices():
    width = 2**14
    edits = torch.cartesian_prod(torch.arange(257), torch.arange(511), torch.arange(1))  # [E, 3]
    target, reference, query = (torch.rand(rows, width).bfloat16() for rows in (257, 511, 1))
    out = stylefast.blend(target, reference, query, edits=edits, backend="cpu")
    assert out.numel() > 2**31
    for last in (1, 2, 70_000, len(edits)):
        t, r, _ = edits[-last]
        assert torch.equal(out[-last], stylefast.blend(target[t], reference[r], query[0], backend="cpu")[0])


@pytest.fixture(scope="module", autouse=True)
def unfilled_memory() -> Iterator[None]:
    """Leave new tensors as they are: to fill them takes as long as some of the ops."""
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    """Distinct images [DISTINCT, C, H, W] bfloat16 and centroids [K, C]."""
    x, centroids = around(DISTINCT, C, SIDE, SIDE, K, torch.float32, seed=0)
    return x.bfloat16().contiguous(), centroids


@pytest.fixture(scope="module", params=["images", "channels"])
def repeated_images(request: pytest.FixtureRequest, images: tuple[Tensor, Tensor]) -> Iterator[Tensor]:
    """The distinct images repeated, [N, C, H, W]; stored image by image or channel by channel."""
    shape = (N, C, SIDE, SIDE) if request.param == "images" else (C, N, SIDE, SIDE)
    memory = torch.empty(shape, dtype=torch.bfloat16)
    x = memory if request.param == "images" else memory.transpose(0, 1)
    for i in range(DISTINCT):
        x[i::DISTINCT] = images[0][i]
    assert x.numel() > 2**31
    yield x


def repeated(results: Tensor) -> Tensor:
    """The results [DISTINCT, ...] of the distinct images repeated, [N, ...]."""
    return results[torch.arange(N) % DISTINCT]


def mean(results: Tensor) -> Tensor:
    """The mean over all images of the results [DISTINCT, ...] of the distinct images."""
    return repeated(results.double()).mean(0).float()


def test_assign_beyond_32_bit_indices(repeated_images: Tensor, images: tuple[Tensor, Tensor]):
    x, centroids = images
    expected = stylefast.assign(x, centroids, backend="cpu")
    got = stylefast.assign(repeated_images, centroids, backend="cpu")
    assert torch.equal(got.labels, repeated(expected.labels))
    assert torch.equal(got.similarity, repeated(expected.similarity))


def test_lloyd_step_beyond_32_bit_indices(repeated_images: Tensor, images: tuple[Tensor, Tensor]):
    x, centroids = images
    expected = [stylefast.lloyd_step(image[None], centroids, backend="cpu") for image in x]
    got = stylefast.lloyd_step(repeated_images, centroids, backend="cpu")
    assert torch.equal(got.labels, repeated(torch.cat([step.labels for step in expected])))
    assert torch.equal(got.counts, repeated(torch.stack([step.counts for step in expected])).sum(0))
    torch.testing.assert_close(got.sums, N * mean(torch.stack([step.sums for step in expected])), rtol=1e-5, atol=1e-2)


def test_contribution_beyond_32_bit_indices(repeated_images: Tensor, images: tuple[Tensor, Tensor]):
    x, centroids = images
    labels = stylefast.assign(x, centroids, backend="cpu").labels
    for grid in (1, 2):  # the grid of the layer, and a coarser one
        expected = stylefast.contribution(x, labels[:, ::grid, ::grid], K, per_image=True, backend="cpu")
        got = stylefast.contribution(repeated_images, repeated(labels[:, ::grid, ::grid]), K, backend="cpu")
        torch.testing.assert_close(got, mean(expected), rtol=1e-5, atol=1e-6)


def test_assign_contribution_beyond_32_bit_indices(repeated_images: Tensor, images: tuple[Tensor, Tensor]):
    x, centroids = images
    labels, expected = stylefast.assign_contribution(x, centroids, per_image=True, backend="cpu")
    got_labels, got = stylefast.assign_contribution(repeated_images, centroids, backend="cpu")
    assert torch.equal(got_labels, repeated(labels))
    torch.testing.assert_close(got, mean(expected), rtol=1e-5, atol=1e-6)
