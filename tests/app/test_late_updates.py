# SPDX-License-Identifier: Apache-2.0
"""A page that gets a catalog late keeps what its user has chosen meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest
from editors import catalog_of

pytest.importorskip("gradio")

from stylefast.app import batch_tab, edit_tab  # noqa: E402

CATALOG = catalog_of("sg2")  # with the parts eyes, nose and mouth
ONLY_NOSE = replace(CATALOG, parts={"nose": [1]})


def test_valid_choices_of_a_batch_are_not_sent_again():
    boxes, chosen = batch_tab._choose(CATALOG, ["nose"])
    assert boxes["choices"] == ["eyes", "nose", "mouth"] and "value" not in boxes and "value" not in chosen
    boxes, chosen = batch_tab._choose(ONLY_NOSE, ["eyes", "nose"])
    assert boxes["choices"] == boxes["value"] == chosen == ["nose"]


def test_rows_with_valid_parts_are_not_sent_again():
    n_refreshed, parts, add, *rows = edit_tab._refresh(4, CATALOG, ["nose", "eyes", None])
    assert (
        n_refreshed == 5
        and add["interactive"]
        and not {"value", "visible"} & {key for row in [parts, *rows] for key in row}
    )
    assert [row["choices"] for row in rows[2::3]] == [["eyes", "nose", "mouth"]] * 3
    _, parts, add, *rows = edit_tab._refresh(4, ONLY_NOSE, ["nose", "eyes", None])
    assert parts == ["nose", None, None] and not add["interactive"]
    assert [row["value"] for row in rows[2::3]] == parts and [row["visible"] for row in rows[::3]] == [
        True,
        False,
        False,
    ]
