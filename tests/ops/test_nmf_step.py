# SPDX-License-Identifier: Apache-2.0
"""Edge cases of nmf_step: many components, components of zero, values that are not finite, and sums over batches."""

from __future__ import annotations

import pytest
import torch
from agreement import agree
from cells import bits, run_op, skip_unless
from torch import Tensor

from stylefast.ops import NMF_STEP
from stylefast.ops.assign import clustered
from stylefast.ops.nmf_step import NMFStep, nmf_step

pytestmark = pytest.mark.parametrize("backend", [pytest.param(x, marks=skip_unless(x)) for x in NMF_STEP.backends])


def data(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Activations [N, C, H, W] and sparse components [K, C] >= 0, which overlap little, for a shape (N, C, H, W, K)."""
    x, components = clustered(*shape, dtype)
    kept = torch.rand(components.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    return x, components.clamp(min=0) * kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape", [(1, 20, 9, 9, 257), (3, 600, 7, 23, 41), (1, 6, 90, 201, 5), (9, 130, 5, 5, 64), (2, 2000, 3, 5, 18)]
)
def test_many_components_channels_and_positions(backend: str, shape: tuple[int, ...], dtype: torch.dtype):
    x, components = data(*shape, dtype=dtype)
    inputs = {"activations": x, "components": components, "sweeps": 2}
    agree(NMF_STEP, run_op(NMF_STEP, backend, inputs), inputs)


def test_components_of_zero_have_no_memberships(backend: str):
    x, components = data(2, 24, 7, 9, 19)
    step = nmf_step(x, components, 4, backend=backend)
    longer = torch.cat([components.new_zeros(1, 24), components, components.new_zeros(2, 24)])
    got = nmf_step(x, longer, 4, backend=backend)
    assert got.memberships[:, [0, -2, -1]].count_nonzero() == 0 and got.products[[0, -2, -1]].count_nonzero() == 0
    torch.testing.assert_close(got.memberships[:, 1:-2], step.memberships, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.gram[1:-2, 1:-2], step.gram, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_not_finite_spoils_only_its_point(backend: str, value: float):
    x, components = data(2, 24, 7, 9, 5)
    x[1, 3, 2, 4] = -1
    expected = nmf_step(x, components, 3, backend=backend)
    x[1, 3, 2, 4] = value
    got = nmf_step(x, components, 3, backend=backend)
    spoilt = torch.zeros(2, 5, 7, 9, dtype=torch.bool)
    spoilt[1, :, 2, 4] = value != -torch.inf  # which counts as zero, like other negative values
    assert torch.equal(got.memberships.isnan(), spoilt)
    assert torch.equal(got.memberships[~spoilt], expected.memberships[~spoilt])
    for name in ("products", "gram", "energy"):
        assert getattr(got, name).isnan().all() == bool(spoilt.any()), name


@pytest.mark.parametrize("threads", [1, 2])
def test_memberships_of_a_point_do_not_depend_on_others(backend: str, threads: int):
    x, components = data(5, 40, 17, 19, 21)
    whole = nmf_step(x, components, 5, backend=backend)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        parts = [nmf_step(piece, components, 5, backend=backend) for piece in (x[:1], x[1:4], x[4:])]
    finally:
        torch.set_num_threads(before)
    memberships = torch.cat([part.memberships for part in parts])
    if backend == "cpu":
        assert torch.equal(bits(memberships), bits(whole.memberships))
    torch.testing.assert_close(memberships, whole.memberships, rtol=1e-4, atol=1e-5)
    for name in NMFStep._fields[1:]:
        total = sum(getattr(part, name) for part in parts)
        torch.testing.assert_close(total, getattr(whole, name), rtol=1e-5, atol=1e-5)


def test_the_squared_error_follows_from_the_sums(backend: str):
    x, components = data(2, 24, 7, 9, 5)
    u, products, gram, energy = nmf_step(x, components, 6, backend=backend)
    h, points = components.double(), x.double().clamp(min=0)
    error = energy - 2 * (products * h).sum() + (gram * (h @ h.T)).sum()
    expected = (points - torch.einsum("nkhw,kc->nchw", u.double(), h)).square().sum()
    torch.testing.assert_close(error, expected, rtol=1e-5, atol=0)
