# SPDX-License-Identifier: Apache-2.0
"""What the gallery shows of entries, and the rectangles of crops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from galleries import data, entry, write_folder
from hypothesis import given
from hypothesis import strategies as st

from stylefast.gallery import write_gallery
from stylefast.gallery.data import script_json
from stylefast.gallery.previews import CROP, crop_around
from stylefast.gallery.shown import WHOLE, query_text, shown_edit

SEQUENTIAL = {"kind": "sequential", "epsilon": 0.25, "rho": 0.1, "fractional": False}


@pytest.mark.parametrize(
    "query, strength, text",
    [
        (SEQUENTIAL, 1.0, "sequential, ε 0.25, ρ 0.1"),
        (SEQUENTIAL | {"epsilon": [1, 2], "fractional": True}, 1, "sequential, ε per site, ρ 0.1, fractional true"),
        ({"kind": "simultaneous", "strength": 2.0}, 0.5, "simultaneous, λ 2, strength 0.5"),
        ({"kind": "random", "like": SEQUENTIAL, "seed": 3}, 1, "random, like sequential, ε 0.25, ρ 0.1, seed 3"),
        (None, 1, "unknown"),
    ],
)
def test_a_query_is_described(query: Any, strength: float, text: str):
    assert query_text(query, strength) == text


@pytest.mark.parametrize(
    "box", [None, [], [0, 0, 1], ["a", 0, 1, 1], [0.5, 0, 0.5, 1], {"x": 1}, [float("nan"), 0, 1, 1], [True, 0, 1, 1]]
)
def test_an_invalid_box_is_the_whole_image(tmp_path: Path, box: Any):
    assert shown_edit(tmp_path, entry("a", "b", "c", box=box)).box == WHOLE
    assert shown_edit(tmp_path, entry("a", "b", "c", box=[-1, 0.25, 0.5, 3])).box == (0, 0.25, 0.5, 1)


@pytest.mark.parametrize("file", ["../a.png", "/etc/a.png", "a/b.png", "a.gif", "a", ".png", "gallery.html"])
def test_other_files_are_refused(tmp_path: Path, file: str):
    with pytest.raises(ValueError, match=r"file must be the name of a \.png, \.jpg, \.webp file, got"):
        shown_edit(tmp_path, entry("a", "b", "c", file=file))


def test_fields_of_other_types_are_shown_as_text(tmp_path: Path):
    fields = entry("a", "b", "c", locality={"delta_e_inside": "x", "ratio": float("inf")})
    edit = shown_edit(tmp_path, fields | {"target": 7, "part": None})
    assert edit.names[:3] == ("7", "None", "c") and edit.figures == (None, None, None) and edit.label is None


@pytest.mark.parametrize(
    "field, value, why",
    [
        ("strength", "1" + "0" * 400, "integers must have at most 300 digits, got 401"),
        ("query", '{"kind": "sequential", "epsilon": -1' + "0" * 400 + "}", "integers must have at most 300 digits"),
        ("locality", '{"ratio": 1' + "0" * 400 + "}", "integers must have at most 300 digits"),
        ("box", "[0, 0, 1, 1" + "0" * 400 + "]", "integers must have at most 300 digits"),
        ("query", '{"like": ' * 400 + "1" + "}" * 400, "objects and lists must be nested at most 100 deep"),
        ("query", "[" * 100_000 + "]" * 100_000, "recursion"),
    ],
)
def test_numbers_and_nesting_without_bounds_are_refused(tmp_path: Path, field: str, value: str, why: str):
    first = entry("a", "b", "c")
    odd = json.dumps(entry("a", "b", "d", **{field: "ODD"})).replace('"ODD"', value)
    write_folder(tmp_path, [first])
    (tmp_path / "manifest.jsonl").write_text(f"{json.dumps(first)}\n{odd}\n")
    with pytest.raises(ValueError, match=f"manifest.jsonl, line 2 is not an entry of an edit: .*{why}"):
        write_gallery(tmp_path, progress=False)


def test_the_largest_numbers_and_the_deepest_nesting_are_shown(tmp_path: Path):
    query = SEQUENTIAL
    for _ in range(98):  # in the object of the entry
        query = {"like": query}
    write_folder(tmp_path, [entry("a", "b", "c", strength=10**299, query=query)])
    assert write_gallery(tmp_path, progress=False).n_edits == 1
    (text,) = data(tmp_path)["names"]["queries"]
    assert text.endswith("ρ 0.1, strength 1e+299") and text.count("like") == 98


fractions = st.tuples(st.floats(0, 0.99), st.floats(0, 0.99), st.floats(0.01, 1), st.floats(0.01, 1))


@given(fractions, st.integers(1, 3000), st.integers(1, 3000))
def test_a_crop_shows_the_box_in_its_proportions(numbers: tuple[float, ...], width: int, height: int):
    left, top, w, h = numbers
    box = (left, top, min(1.0, left + w), min(1.0, top + h))
    x0, y0, x1, y1 = crop_around(box, (width, height))
    assert (x1 - x0) / (y1 - y0) == pytest.approx(CROP[0] / CROP[1])
    slack = 1e-6 * (width + height)
    assert x0 <= box[0] * width + slack and x1 >= box[2] * width - slack
    assert y0 <= box[1] * height + slack and y1 >= box[3] * height - slack
    for begin, end, size in ((x0, x1, width), (y0, y1, height)):
        inside = -slack <= begin and end <= size + slack
        assert inside or (begin + end == pytest.approx(size) and end - begin >= size)


def test_data_in_scripts_cannot_end_them():
    text = script_json({"part": "</script><img src=x onerror=alert(1)>\u2028é<!--"})
    assert "<" not in text and text.isascii()


def test_names_are_stored_once_and_odd_files_whole(tmp_path: Path):
    lines = [entry("a", "eyes", "b"), entry("a", "eyes", "c"), entry("a", "eyes", "b", file="other.png")]
    write_folder(tmp_path, lines)
    write_gallery(tmp_path, progress=False)
    stored = data(tmp_path)
    assert stored["names"] == {
        **{"targets": ["a"], "parts": ["eyes"], "references": ["b", "c"]},
        "queries": ["sequential, ε 1, ρ 0.1"],
    }
    assert stored["files"] == {"2": "other"} and stored["columns"]["references"] == [0, 1, 0]
