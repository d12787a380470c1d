# SPDX-License-Identifier: Apache-2.0
"""Queries that compare parts: softmax, also for single images, and the split between hair and pose."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import stylefast
from stylefast import query

EIGHTHS = st.integers(0, 8).map(lambda n: n / 8)  # exact in every float dtype, with many ties


def test_softmax_by_hand():
    # At τ = 0.25, a difference of 0.5 in M is a factor of e² between two parts: p = 1 / (1 + e^-2).
    M = torch.tensor([[1.0, 0.5, 0.0], [0.5, 0.5, 0.5]])
    leading = 1 / (1 + math.exp(-2))
    assert query.softmax(M, 0, temperature=0.25, threshold=leading - 1e-6).tolist() == [1, 0, 0]
    assert query.softmax(M, 0, temperature=0.25, threshold=leading + 1e-6).tolist() == [0, 0, 0]
    assert query.softmax(M, 1, temperature=0.25, threshold=leading - 1e-6).tolist() == [0, 0, 1]
    assert query.softmax(M, 0, temperature=0.25, threshold=0.5).tolist() == [1, 0, 0]  # p = θ stays out


def test_softmax_defaults_are_those_of_the_paper():
    above, below = 0.1 * math.log(4) + 1e-6, 0.1 * math.log(4) - 1e-6  # p = 0.8 between two parts at τ = 0.1
    M = torch.tensor([[above, below], [0.0, 0.0]], dtype=torch.float64)
    assert query.softmax(M, 0).tolist() == [1, 0]


@given(st.integers(1, 5), st.integers(0, 6), st.sampled_from([1e-310, 1e-3, 0.1, 1e300]), st.data())
def test_a_channel_belongs_to_one_part_at_most(P, C, temperature, data):
    M = torch.tensor(data.draw(st.lists(st.lists(EIGHTHS, min_size=C, max_size=C), min_size=P, max_size=P)))
    q = torch.stack([query.softmax(M, part, temperature=temperature, threshold=0.5) for part in range(P)])
    assert (q.sum(0) <= 1).all()
    if temperature == 1e-310 and C:  # only the best part has p > 0, and p > 0.5 only if there is no tie
        alone = (M.amax(0) == M).sum(0) == 1
        assert torch.equal(q.sum(0), alone.float())


def test_queries_of_single_images_follow_the_formula():
    rng = torch.Generator().manual_seed(0)
    x, labels = torch.randn(4, 6, 5, 5, generator=rng), torch.randint(3, (4, 5, 5), generator=rng)
    m = stylefast.contribution(x, labels, 3, per_image=True)  # [N, P, C]
    p = (m / 0.1).exp() / (m / 0.1).exp().sum(1, keepdim=True)
    for part in range(3):
        q = query.softmax(m.movedim(1, 0), part)  # [N, C]
        assert torch.equal(q, (p[:, part] > 0.8).float()) and 0 < q.sum() < q.numel()
        edits = torch.tensor([[0, 1, 0], [2, 3, 1]])
        either = torch.maximum(q[edits[:, 0]], q[edits[:, 1]])
        assert torch.equal(either, ((p[[0, 2], part] > 0.8) | (p[[1, 3], part] > 0.8)).float())


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_the_first_channels_are_split_between_hair_and_pose(kind):
    q = kind([[[0.5, 0.25, 1, 0.75]], [[1, 0.5, 0.25, 0]]])  # [P, 1, S]
    got = query.coarse_split(q, 1, channels=2)
    assert type(got) is type(q) and got.dtype == q.dtype
    expected = [[[0, 0, 1, 0.75]], [[1, 0.5, 0.25, 0]], [[0, 0.5, 0, 0]]]
    np.testing.assert_array_equal(np.asarray(got), expected)
    np.testing.assert_array_equal(np.asarray(query.coarse_split(q, 1, channels=0))[:2], np.asarray(q))


@pytest.mark.parametrize(
    "q, hair, channels, message",
    [
        (torch.ones(2, 4), 2, 2, "hair must be an index into the P = 2 parts of q, got 2"),
        (torch.ones(2, 4), 0, 5, r"channels must lie in \[0, 4\], got 5"),
        (torch.ones(4), 0, 2, r"q must have shape \[P, ..., S\]"),
    ],
)
def test_coarse_split_refuses_wrong_arguments(q, hair: int, channels: int, message: str):
    with pytest.raises(ValueError, match=message):
        query.coarse_split(q, hair, channels=channels)
