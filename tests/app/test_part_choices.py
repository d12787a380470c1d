# SPDX-License-Identifier: Apache-2.0
"""Choices of the tab Parts, without a browser."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("gradio")

from stylefast.app.naming import Naming  # noqa: E402
from stylefast.app.parts_tab import NEW, choices, leave_choices  # noqa: E402
from stylefast.app.workspace import Workspace  # noqa: E402
from stylefast.catalog.regions import check_part_name  # noqa: E402


def test_a_part_can_have_the_name_of_the_choice_of_a_new_one(workspace: Workspace):
    label, value = NEW
    parts = {label: [0], "eyes": [1]}
    naming = Naming.start(workspace).use(replace(workspace.catalog, parts=parts), "")
    offered = choices(naming.catalog)
    assert offered == [(label, value), (label, label), ("eyes", "eyes")]
    assert naming.edit(offered[1][1]).remove().catalog.parts == {"eyes": [1]}
    with pytest.raises(ValueError, match="names of parts must be texts"):
        check_part_name(value)


def test_a_choice_that_is_reported_twice_is_one_step(workspace: Workspace):
    once = Naming.start(workspace).edit("eyes")
    twice = once.edit("eyes")
    assert twice.draft == once.draft and twice.undo().draft.part == "" and not twice.undo().past
    assert once.toggle(5).edit("eyes").draft.clusters == once.draft.clusters  # another choice takes the clusters back


def test_leaving_a_choice_older_than_the_state_is_no_step(workspace: Workspace):
    cleared = Naming.start(workspace).edit("eyes").edit("")
    assert leave_choices(cleared, "eyes", {"part": "eyes"}) is cleared  # the page does not show the last step yet
    assert leave_choices(cleared, "nose", {"part": "eyes"}).draft.part == "nose"
