# SPDX-License-Identifier: Apache-2.0
"""Boxes around regions: edges, margins, strays, empty regions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylefast.core.boxes import MARGIN, box_around


def box_of(region: torch.Tensor) -> list[float] | None:
    return box_around(region.sum(0).tolist(), region.sum(1).tolist())


def test_a_box_has_a_margin_and_stays_in_the_image():
    region = torch.zeros(10, 20, dtype=torch.bool)
    region[0:2, 4:8] = True
    assert box_of(region) == pytest.approx([(4 - 4 * MARGIN) / 20, 0, (8 + 4 * MARGIN) / 20, (2 + 2 * MARGIN) / 10])


def test_a_single_cell_far_away_does_not_enlarge_the_box():
    region = torch.zeros(40, 40, dtype=torch.bool)
    region[10:20, 10:20] = True
    alone = box_of(region)
    region[39, 0] = True
    assert box_of(region) == alone


def test_an_empty_region_has_no_box_and_a_full_one_the_image():
    assert box_of(torch.zeros(4, 4)) is None
    assert box_of(torch.ones(4, 4)) == [0, 0, 1, 1]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_a_box_is_within_the_image_and_not_empty(columns: list[float], rows: list[float]):
    region = torch.tensor(rows, dtype=torch.float64)[:, None] * torch.tensor(columns, dtype=torch.float64)
    box = box_of(region)
    if box is None:
        assert not region.sum()
    else:
        assert 0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1
