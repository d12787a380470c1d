# SPDX-License-Identifier: Apache-2.0
"""Edge cases of the ops: exact ties, NaN and Inf, no images, many clusters, and tensors larger than a tile or a cache.

Some tensors also have more tiles than a kernel adds up in float32 before it flushes the sums to float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from agreement import agree
from cells import Cell, backends, call, place, run, run_op
from torch import Tensor

import stylefast
from stylefast.core.dtypes import DTYPES, accumulator
from stylefast.ops import OPS
from stylefast.ops.assign import clustered
from stylefast.ops.blend import BLEND
from stylefast.ops.contribution import CONTRIBUTION
from stylefast.ops.op import Op

ASSIGNING = [op for op in OPS if op.from_labels is not None]

pytestmark = pytest.mark.parametrize("backend", backends())


def assigning_inputs(op: Op, activations: Tensor, centroids: Tensor, features: str = "raw") -> dict[str, Any]:
    """The op's first sample with other activations and centroids.

    If the op takes restarts, there are two, and the second has the centroids in reverse order.
    """
    inputs = next(op.samples())[1]
    if inputs["centroids"].dim() == 3:
        centroids = torch.stack([centroids, centroids.flip(0)])
    return {**inputs, "activations": activations, "centroids": centroids, "features": features}


def tied(k: int, c: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Activations and centroids of small integers, so that all sums are exact.

    Every centroid occurs about three times. The centroids on both sides of every border of a block are equal.
    """
    rng = torch.Generator().manual_seed(k)
    rows = torch.randint(-1, 2, (k // 3 + 1, c), generator=rng)
    index = torch.randint(len(rows), (k,), generator=rng)
    for border in (4, 5, 8, 10, 12, 16, 24, 32, 64, 128):
        if border < k:
            index[border] = index[border - 1]
    points = rows[torch.randint(len(rows), (2, 9, 15), generator=rng)] * torch.randint(
        1, 4, (2, 9, 15, 1), generator=rng
    )
    return points.movedim(-1, 1).to(dtype), rows[index].to(accumulator(dtype))


@pytest.mark.parametrize("op", ASSIGNING, ids=lambda op: op.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("features", ["raw", "squared"])
def test_exact_ties_go_to_the_lowest_index(backend: str, op: Op, dtype: torch.dtype, features: str):
    for k, c in ((2, 3), (5, 1), (9, 16), (13, 5), (17, 31), (33, 8), (65, 17), (130, 16)):
        inputs = assigning_inputs(op, *tied(k, c, dtype), features)
        got = run_op(op, backend, inputs)
        x = inputs["activations"].movedim(1, -1).long().numpy()
        centroids = inputs["centroids"].long().reshape(-1, k, c).numpy()
        score = np.einsum("nhwc,bkc->bnhwk", x * x if features == "squared" else x, centroids)
        expected = score.argmax(-1)  # the first of equal scores
        assert np.array_equal(got[0].reshape(expected.shape).numpy(), expected), (k, c)
        agree(op, got, inputs, exact=True)


def test_negative_zero_ties_with_zero(backend: str):
    x = torch.tensor([-1.0, 1.0, -2.0, 0.0]).reshape(1, 1, 2, 2)
    for centroids in ([[0.0], [-0.0]], [[-0.0], [0.0]], [[-0.0], [0.0], [-0.0]]):
        labels, similarity = call(stylefast.assign, backend, x, torch.tensor(centroids))
        assert not labels.any() and not similarity.any()


def spoiled(value: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Activations with `value` in one channel of three positions, and centroids.

    Returns:
        The activations, the same with zeros at these positions, the mask of these positions, and the centroids.
    """
    x, centroids = clustered(2, 19, 5, 7, 6, torch.float32)
    bad = torch.zeros(2, 5, 7, dtype=torch.bool)
    bad[0, 1, 2] = bad[1, 0, 0] = bad[1, 4, 6] = True
    clean = x.masked_fill(bad[:, None], 0)
    x[:, 7] = torch.where(bad, value, x[:, 7])
    return x, clean, bad, centroids


@pytest.mark.parametrize("features", ["raw", "squared"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_a_point_without_a_finite_norm_is_left_out(backend: str, value: float, features: str):
    x, clean, bad, centroids = spoiled(value)
    got, expected = (call(stylefast.assign, backend, a, centroids, features=features) for a in (x, clean))
    assert torch.equal(got.labels, expected.labels) and not got.labels[bad].any()
    assert got.similarity[bad].isnan().all()
    torch.testing.assert_close(got.similarity[~bad], expected.similarity[~bad])
    got, expected = (call(stylefast.lloyd_step, backend, a, centroids, features=features) for a in (x, clean))
    assert torch.equal(got.labels, expected.labels) and torch.equal(got.counts, expected.counts)
    torch.testing.assert_close(got.sums, expected.sums)
    assert got.objective.isnan() and got.counts.sum() == 2 * 35 - 3 - 2  # without 3 bad points and 2 zero points
    got = call(stylefast.assign_contribution, backend, x, centroids, features=features)
    assert torch.equal(got.labels, expected.labels)


def test_a_nan_spoils_only_its_own_image_when_standardised(backend: str):
    x, _, _, centroids = spoiled(torch.nan)
    x[0] = clustered(1, 19, 5, 7, 6, torch.float32, seed=1)[0][0]
    labels, similarity = call(stylefast.assign, backend, x, centroids, features="standardized")
    assert not labels[1].any() and similarity[1].isnan().all()
    alone = call(stylefast.assign, backend, x[:1], centroids, features="standardized")
    assert torch.equal(labels[:1], alone.labels)
    torch.testing.assert_close(similarity[:1], alone.similarity)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("grid", [(5, 7), (2, 3)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_not_finite_spoils_its_own_channel_of_m(
    backend: str, value: float, grid: tuple[int, int], standardize: bool
):
    x, clean, _, _ = spoiled(value)
    clean[:, :7], clean[:, 8:] = x[:, :7], x[:, 8:]
    labels = torch.zeros(2, *grid, dtype=torch.int32)
    labels[:, 0] = 1
    got, expected = (call(stylefast.contribution, backend, a, labels, 3, standardize=standardize) for a in (x, clean))
    clean_channels = torch.arange(19) != 7
    torch.testing.assert_close(got[:, clean_channels], expected[:, clean_channels])
    if standardize:  # it spreads NaN to all clusters, even to cluster 2, which has no position
        assert got[:, 7].isnan().all()
    else:
        assert not got[:2, 7].isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("standardize", [True, False])
def test_m_of_the_largest_documented_values_is_finite(backend: str, standardize: bool, dtype: torch.dtype):
    x = clustered(2, 19, 5, 7, 6, torch.float32)[0].mul(4).to(dtype)
    scale = 2.0 ** math.floor(math.log2(5e18 / 35**0.5 / x.abs().max().item()))
    labels = torch.arange(2 * 2 * 3, dtype=torch.int32).view(2, 2, 3) % 3
    for u in (labels, torch.nn.functional.one_hot(labels.long(), 3).movedim(3, 1).float()):
        small, large = (
            call(stylefast.contribution, backend, a, u, 3, standardize=standardize).double() for a in (x, x * scale)
        )
        torch.testing.assert_close(large, small if standardize else small * scale**2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("resize", ["nearest", "bilinear"])
def test_a_nan_spoils_only_m_of_its_own_image(backend: str, resize: str, standardize: bool):
    x = torch.rand(2, 3, 2, 3)
    x[0, 1, 0, 0] = torch.nan
    labels = torch.arange(4 * 7, dtype=torch.int32).view(4, 7)  # most cells contain no position
    labels = torch.stack([labels, labels.roll(1, 1)])
    got = call(stylefast.contribution, backend, x, labels, 28, resize=resize, standardize=standardize, per_image=True)
    assert got[0, :, 1].isnan().any() and got[0, :, ::2].isfinite().all() and got[1].isfinite().all()


def test_a_nan_score_never_wins(backend: str):
    x, centroids = clustered(2, 8, 4, 6, 5, torch.float32)
    with_nan = centroids.clone()
    with_nan[[0, 3], 2] = torch.nan
    labels, similarity = call(stylefast.assign, backend, x, with_nan)
    expected = call(stylefast.assign, backend, x, centroids[[1, 2, 4]])
    zero = x.eq(0).all(1)
    assert torch.equal(labels[~zero], torch.tensor([1, 2, 4], dtype=torch.int32)[expected.labels.long()][~zero])
    torch.testing.assert_close(similarity, expected.similarity)
    assert not labels[zero].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_infinite_centroid_wins_where_its_score_is_infinite(backend: str, dtype: torch.dtype):
    x = torch.ones(1, 7, 1, 4, dtype=dtype)
    x[..., 3] = -1
    centroids = torch.full((3, 7), 0.5)
    centroids[1, 2] = torch.inf
    labels, similarity = call(stylefast.assign, backend, x, centroids)
    assert labels.flatten().tolist() == [1, 1, 1, 0] and similarity.flatten()[:3].isinf().all()


def test_huge_centroids_do_not_overflow(backend: str):
    x, centroids = clustered(2, 8, 4, 6, 5, torch.float32)
    got, expected = (call(stylefast.assign, backend, x, c) for c in (centroids * 2.0**119, centroids))
    assert torch.equal(got.labels, expected.labels)
    torch.testing.assert_close(got.similarity * 2.0**-119, expected.similarity)


@pytest.mark.parametrize("k", [1, 3, 40])
def test_all_nan_scores_give_label_zero_and_similarity_nan(backend: str, k: int):
    x, _ = clustered(2, 8, 4, 6, 5, torch.float32)
    zero = x.eq(0).all(1)
    labels, similarity = call(stylefast.assign, backend, x, torch.full((k, 8), torch.nan))
    assert not labels.any() and similarity[~zero].isnan().all() and not similarity[zero].any()
    assert call(stylefast.lloyd_step, backend, x, torch.full((k, 8), torch.nan)).objective.isnan()


def test_no_images_give_empty_labels_and_zero_sums(backend: str):
    x, centroids = torch.empty(0, 4, 5, 5), torch.ones(3, 4)
    step = call(stylefast.lloyd_step, backend, x, centroids)
    assert step.labels.shape == (0, 5, 5) and step.sums.shape == (3, 4) and step.counts.dtype == torch.int64
    assert not step.sums.any() and not step.counts.any() and step.objective == 0
    assert call(stylefast.assign, backend, x, centroids).similarity.shape == (0, 5, 5)
    labels = torch.empty(0, 2, 2, dtype=torch.int64)
    for per_image, expected in ((False, torch.zeros(3, 4)), (True, torch.empty(0, 3, 4))):
        assert torch.equal(call(stylefast.contribution, backend, x, labels, 3, per_image=per_image), expected)
        assert torch.equal(
            call(stylefast.assign_contribution, backend, x, centroids, per_image=per_image).contribution, expected
        )


@pytest.mark.parametrize("op", ASSIGNING, ids=lambda op: op.name)
@pytest.mark.parametrize(
    "n, c, h, w, k", [(1, 8, 4, 16, 3000), (1, 512, 32, 40, 24), (2, 3, 210, 200, 5), (1, 2100, 3, 11, 3)]
)
@pytest.mark.parametrize("features", ["raw", "standardized"])
def test_many_clusters_channels_and_positions(
    backend: str, op: Op, n: int, c: int, h: int, w: int, k: int, features: str
):
    inputs = assigning_inputs(op, *clustered(n, c, h, w, k, torch.float32), features)
    agree(op, run_op(op, backend, inputs), inputs)


@pytest.mark.parametrize(
    "shape, grid, k",
    [((2, 3, 210, 200), (210, 200), 5), ((1, 20, 256, 256), (32, 32), 100), ((2, 19, 35, 33), (35, 33), 9)],
)
def test_contribution_of_large_layers(backend: str, shape: tuple[int, ...], grid: tuple[int, int], k: int):
    n, c, h, w = shape
    x = clustered(n, c, h, w, k, torch.float32)[0].contiguous()
    labels = torch.randint(k, (n, *grid), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    inputs = {**next(CONTRIBUTION.samples())[1], "activations": x, "labels": labels, "n_clusters": k}
    agree(CONTRIBUTION, run_op(CONTRIBUTION, backend, inputs), inputs)


def test_a_label_outside_the_clusters_belongs_to_none(backend: str):
    x, _ = clustered(2, 5, 6, 6, 4, torch.float32)
    for grid in ((6, 6), (3, 2)):
        labels = torch.randint(4, (2, *grid), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
        outside = torch.where(labels == 1, -1, torch.where(labels == 2, 2**31 - 1, labels))
        cell = CONTRIBUTION.cells[backend]
        got, expected = (
            cell(*(place(t, backend) for t in (x, y)), 4, True, "bilinear", False).cpu() for y in (outside, labels)
        )
        assert not got[1:3].any()
        torch.testing.assert_close(got[[0, 3]], expected[[0, 3]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_blend_of_more_than_the_caches_hold(backend: str, dtype: torch.dtype):
    rng = torch.Generator().manual_seed(0)
    target, reference, query = torch.rand(3, 3, 4099, generator=rng).to(dtype)
    edits = torch.randint(3, (2200 // dtype.itemsize, 3), generator=rng)
    inputs = {"target": target, "reference": reference, "query": query, "edits": edits, "strength": None}
    for key in (backend, f"{backend}.out"):
        agree(BLEND, run(Cell(BLEND, key, inputs)), inputs)
