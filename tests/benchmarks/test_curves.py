# SPDX-License-Identifier: Apache-2.0
"""Comparison of curves of the change inside a part at equal change outside."""

import curves
import pytest


def record(setting, points, default=1.0, part="eyes"):
    keys = ("value", "inside", "outside", "channels")
    curve = [dict(zip(keys, point, strict=True)) for point in points]
    return {"setting": setting, "part": part, "default": default, "points": curve}


FORMER = record("former", [(0.5, 1.0, 0.1, 3), (1.0, 2.0, 0.4, 9), (4.0, 8.0, 1.6, 30)])
CURRENT = record("default", [(0.4, 9.0, 1.6, 50), (0.55, 3.0, 0.2, 20)], default=0.55)


@pytest.mark.parametrize(
    "outside, inside",
    [(0.1, 1.0), (0.2, 2**0.5), (0.4, 2.0), (0.8, 4.0), (1.6, 8.0), (0.099, None), (1.7, None)],
)
def test_curves_are_interpolated_in_logarithms(outside, inside):
    assert curves.inside_at(FORMER["points"], outside) == (None if inside is None else pytest.approx(inside))


def test_points_without_a_change_outside_are_left_out():
    empty = {"value": 0.1, "inside": 0.0, "outside": 0.0, "channels": 0}
    assert curves.inside_at([empty, *FORMER["points"]], 0.2) == pytest.approx(2**0.5)


def test_the_gain_compares_at_equal_change_outside():
    assert curves.gain(FORMER, CURRENT, 0.2) == pytest.approx(3 / 2**0.5)
    assert curves.gain(FORMER, CURRENT, 0.1) is None


def test_the_table_has_both_defaults_and_both_gains():
    row = curves.table([FORMER, CURRENT]).splitlines()[2]
    between = 3 * 3 ** (1 / 3) / 2  # of CURRENT at an outside of 0.4: a third of the way from 0.2 to 1.6
    expected = "| eyes | 2.00 / 0.40 (9 channels) | 3.00 / 0.20 (20 channels) "
    assert row == expected + f"| {between:.2f}x | {3 / 2**0.5:.2f}x |"


def test_alternatives_are_compared_with_the_defaults():
    other = record("other", [(0.4, 9.0, 1.6, 50), (0.55, 1.5, 0.2, 20)], default=0.55)
    far = record("far", [(0.55, 9.0, 1.6, 50)], default=0.55)
    assert curves.alternatives([FORMER, CURRENT, other, far]).splitlines() == [
        "| clusters | eyes |",
        "| --- | --- |",
        "| other | 0.50x |",
        "| far |  |",
    ]


def test_the_figure_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "FIGURE", tmp_path / "folder" / "curves.png")
    curves.draw([FORMER, CURRENT])
    assert (tmp_path / "folder" / "curves.png").read_bytes().startswith(b"\x89PNG")
