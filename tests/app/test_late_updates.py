# SPDX-License-Identifier: Apache-2.0
"""A page that gets a catalog late keeps what its user has chosen meanwhile."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from editors import catalog_of

gr = pytest.importorskip("gradio")

from stylefast.app import batch_tab, edit_tab  # noqa: E402
from stylefast.app.build_view import BuildView  # noqa: E402
from stylefast.app.building import Built, Cancellation  # noqa: E402
from stylefast.app.naming import Naming  # noqa: E402
from stylefast.app.page import create_page  # noqa: E402

if TYPE_CHECKING:
    from stylefast.app.workspace import Workspace

CATALOG = catalog_of("sg2")  # with the parts eyes, nose and mouth
ONLY_NOSE = replace(CATALOG, parts={"nose": [1]})


def test_nothing_can_be_saved_before_the_catalog_arrives(workspace: Workspace):
    page = create_page(workspace)
    (save,) = (block for block in page.blocks.values() if block.elem_id == "parts-save")
    assert not save.interactive


def test_valid_choices_of_a_batch_are_not_sent_again():
    boxes, chosen = batch_tab._choose(CATALOG, ["nose"])
    assert boxes["choices"] == ["eyes", "nose", "mouth"] and "value" not in boxes and "value" not in chosen
    boxes, chosen = batch_tab._choose(ONLY_NOSE, ["eyes", "nose"])
    assert boxes["choices"] == boxes["value"] == chosen == ["nose"]


def test_rows_with_valid_parts_are_not_sent_again():
    n_refreshed, parts, add, *rows = edit_tab._refresh(4, CATALOG, ["nose", "eyes", None])
    assert n_refreshed == 5 and add["interactive"]
    sent = {key for row in [parts, *rows] for key in row}
    assert "value" not in sent and "visible" not in sent
    assert [row["choices"] for row in rows[2::3]] == [["eyes", "nose", "mouth"]] * 3


def test_a_row_whose_part_is_gone_is_hidden():
    _, parts, add, *rows = edit_tab._refresh(4, ONLY_NOSE, ["eyes", "nose", None])
    assert parts == [None, "nose", None]
    assert not add["interactive"] and [row.get("value", "as it is") for row in rows[2::3]] == [None] + ["as it is"] * 2
    assert [row["visible"] for row in rows[::3]] == [part is not None for part in parts]


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_built_catalog_gets_the_parts_of_the_page(workspace: Workspace, is_cancelled: bool):
    with gr.Blocks():
        view = BuildView(workspace)
    former = Naming.start(workspace)
    overlap = torch.eye(6, dtype=torch.float64, device="cpu")
    built = Built(replace(CATALOG, parts={}), former.catalog, overlap, workspace.generator, workspace.w(None))
    cancellation, adopted = Cancellation(), []
    cancellation.requested = is_cancelled
    present = former.toggle(3).name("hair")
    values = view._take(lambda *arguments: adopted.append(arguments) or {}, present, built, cancellation, "shown")
    assert values[view._built] is None
    if is_cancelled:
        assert not adopted and "was cancelled" in values[view._status]
    else:
        ((naming, catalog, message, shown),) = adopted
        assert naming is present and catalog.parts == present.catalog.parts and shown == ("shown",)
        assert message.startswith("The new catalog has 6 clusters. 4 of 4 parts kept their names.")


def test_a_new_row_does_not_send_the_parts_of_the_others():
    parts, _, *rows = edit_tab._add_row(CATALOG, ["mouth", None, None])
    assert parts == ["mouth", "eyes", None]
    assert [row.get("value", "as it is") for row in rows[2::3]] == ["as it is", "eyes", "as it is"]
    parts, _, *rows = edit_tab._remove_row(0, CATALOG, parts)
    assert parts == [None, "eyes", None]
    assert [row.get("value", "as it is") for row in rows[2::3]] == [None, "as it is", "as it is"]


def test_events_of_rows_are_handled_in_turn_and_none_is_dropped(workspace: Workspace):
    page = create_page(workspace)
    ids = {key: block.elem_id or "" for key, block in page.blocks.items()}
    listeners = defaultdict(list)
    for function in page.fns.values():
        for key, event in function.targets:
            listeners[f"{ids.get(key)} {event}"].append(function)
    for name in ("edit-add click", "edit-part-0 input", "edit-part-4 input", "edit-remove-0 click"):
        assert {(f.trigger_mode, f.concurrency_id) for f in listeners[name]} == {("multiple", "edit-rows")}
    for name in ("edit-look input", "edit-target-seed input"):
        assert {f.trigger_mode for f in listeners[name]} == {"always_last"}
    assert {f.trigger_mode for f in listeners["batch-gallery select"]} == {"multiple"}
    assert [f.fn.__name__ for f in listeners["edit-target-seed change"]] == ["run"]  # no slider follows its own number


def test_events_of_the_tab_parts_are_handled_one_at_a_time(workspace: Workspace):
    functions = create_page(workspace).fns.values()
    limits = [function.concurrency_limit for function in functions if function.concurrency_id == "parts"]
    assert len(limits) > 20 and set(limits) == {1}
