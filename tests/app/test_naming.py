# SPDX-License-Identifier: Apache-2.0
"""The tab Parts without a browser: selecting, naming, suggestions, undo, saving, and what is drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from editors import catalog_of
from networks import shared

from stylefast import Catalog
from stylefast.app.naming import MAX_STEPS, Draft, Naming, Offer
from stylefast.app.overlays import View, Views, draw_clusters, find_anchors, sheet, spotlight
from stylefast.app.workspace import ChangedFileError, Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    catalog_of("sg2").save(tmp_path / "toy.safetensors")  # eyes [0], nose [1, 4], mouth [2], and the clusters 3 and 5
    return Workspace(shared("sg2"), tmp_path / "toy.safetensors", network="toy:sg2", truncation=0.7)


@pytest.fixture
def naming(workspace: Workspace) -> Naming:
    return Naming.load(workspace)


def test_a_page_starts_with_the_catalog_as_it_was_opened(naming: Naming, workspace: Workspace):
    start = Naming.start(workspace)
    assert start.catalog is workspace.catalog and start.is_saved and start.digest == naming.digest
    assert start.toggle(5).name("neck").save(workspace).is_saved


def test_clicks_toggle_clusters(naming: Naming):
    first = naming.toggle(5).toggle(0)
    assert first.draft.clusters == (0, 5) and first.picked == 0
    assert first.message.startswith("Cluster 0 was added.") and first.message.endswith("It belongs to eyes.")
    assert first.toggle(5).draft.clusters == (0,)
    assert naming.draft.clusters == () and first.catalog is naming.catalog


def test_a_new_part_takes_its_clusters_from_other_parts(naming: Naming):
    named = naming.toggle(1).toggle(0).toggle(3).name("  brow ")
    assert named.catalog.parts == {"nose": [4], "mouth": [2], "brow": [0, 1, 3]}
    assert named.message == "brow has 3 clusters. eyes had no other cluster and was removed."
    assert named.draft.clusters == () and naming.catalog.parts["eyes"] == [0]
    assert named.catalog.centroids is naming.catalog.centroids


def test_a_part_is_edited_renamed_and_removed(naming: Naming):
    edited = naming.edit("nose")
    assert edited.draft.clusters == (1, 4)
    renamed = edited.toggle(4).toggle(5).name("tip")
    assert list(renamed.catalog.parts.items()) == [("eyes", [0]), ("tip", [1, 5]), ("mouth", [2])]
    assert renamed.edit("tip").remove().catalog.parts == {"eyes": [0], "mouth": [2]}
    assert naming.toggle(5).name("nose").catalog.parts["nose"] == [5]


def test_a_name_of_another_part_says_what_it_replaces(naming: Naming):
    replaced = naming.toggle(3).toggle(1).name("nose")
    assert replaced.catalog.parts["nose"] == [1, 3]
    assert replaced.message == "nose has 2 clusters. 1 of its former clusters has no name now."
    expected = "nose has 1 cluster. 2 of its former clusters have no name now."
    assert naming.toggle(3).name("nose").message == expected
    assert naming.edit("nose").toggle(4).name("nose").message == "nose has 1 cluster."


@pytest.mark.parametrize(
    "step, message",
    [
        (lambda naming: naming.name("eyes"), "a part must have at least one cluster"),
        (lambda naming: naming.toggle(3).name("a,b"), "names of parts must be texts"),
        (lambda naming: naming.toggle(3).name(" "), "names of parts must be texts"),
        (lambda naming: naming.edit("nose").name("eyes"), "'nose' must get a name of its own, got .*: 'eyes'"),
        (lambda naming: naming.edit("ears"), "part must be one of 'eyes', 'nose', 'mouth', got 'ears'"),
        (lambda naming: naming.remove(), "a part must be chosen"),
        (lambda naming: naming.corner(0.5, 0.5).corner(0.5, 0.9), "the corners of a box must differ"),
    ],
)
def test_steps_that_are_impossible_are_refused(naming: Naming, step, message: str):
    with pytest.raises(ValueError, match=message):
        step(naming)


def test_every_step_can_be_undone_and_redone(naming: Naming):
    states = [naming, naming.toggle(3)]
    states.append(states[-1].name("hair"))
    states.append(states[-1].edit("eyes").remove())
    undone = states[-1].undo()
    assert undone.draft.part == "eyes" and undone.catalog.parts == states[2].catalog.parts
    back = undone.undo().undo().undo()
    assert back.draft is naming.draft and back.is_saved and back.undo().message == "There is nothing to undo."
    forth = back.redo().redo().redo().redo()
    assert forth.draft is states[-1].draft and forth.redo().message == "There is nothing to redo."
    assert back.toggle(1).redo().draft.clusters == (1,)


def test_a_bounded_number_of_steps_is_kept(naming: Naming):
    for _ in range(MAX_STEPS + 5):
        naming = naming.toggle(3)
    assert len(naming.past) == MAX_STEPS


def test_a_box_suggests_the_clusters_that_lie_mostly_in_it(naming: Naming):
    occupancy = torch.zeros(6, 4, 4)
    for k, (rows, columns) in enumerate([(slice(0, 2), slice(0, 2)), (slice(2, 4), slice(0, 4)), (0, slice(1, 4))]):
        occupancy[k, rows, columns] = 1
    naming = replace(naming, draft=Draft(replace(naming.catalog, occupancy=occupancy)))
    first = naming.corner(0.75, 0.5)
    assert first.box == (0.75, 0.5) and first.draft is naming.draft and "opposite" in first.message
    boxed = first.corner(0.0, 0.0)
    assert boxed.draft.clusters == (0, 2) and boxed.box == (0.0, 0.0, 0.75, 0.5)
    assert boxed.message == "2 clusters of the box are selected."
    assert boxed.undo().draft.clusters == () and boxed.toggle(3).box == ()
    closest = naming.corner(0.0, 0.5).corner(0.25, 1.0)
    assert closest.draft.clusters == (1,) and "the largest fraction of it, 25%, lies there" in closest.message


def test_the_boxes_of_faces_suggest_at_least_one_cluster(naming: Naming):
    for part in ("eyes", "nose", "mouth", "skin", "background"):
        assert naming.suggest_part(part).draft.clusters


def test_saving_writes_the_parts(naming: Naming, workspace: Workspace):
    changed = naming.toggle(3).name("hair")
    assert not changed.is_saved
    saved = changed.save(workspace)
    assert saved.is_saved and saved.message == f"4 parts were saved to {workspace.catalog_path}."
    assert Catalog.load(workspace.catalog_path, workspace.generator).parts == changed.catalog.parts
    assert not saved.undo().is_saved and saved.toggle(5).name("neck").save(workspace).is_saved


def test_a_page_does_not_overwrite_what_another_page_saved(naming: Naming, workspace: Workspace):
    other = Naming.load(workspace).toggle(5).name("neck").save(workspace)
    mine = naming.toggle(3).name("hair")
    with pytest.raises(ChangedFileError):
        mine.save(workspace)
    assert Catalog.load(workspace.catalog_path).parts == other.catalog.parts
    loaded = mine.reload(workspace)
    assert loaded.catalog.parts == other.catalog.parts and loaded.is_saved and loaded.undo().catalog is mine.catalog
    assert mine.save(workspace, overwrite=True).is_saved
    assert Catalog.load(workspace.catalog_path).parts == mine.catalog.parts


def test_a_missing_file_is_written_again(workspace: Workspace):
    workspace.catalog_path.unlink()
    opened = Naming.load(workspace)
    assert opened.catalog is workspace.catalog and not opened.is_saved
    assert opened.message.startswith(f"{workspace.catalog_path} is missing. ")
    assert opened.save(workspace).is_saved
    assert Catalog.load(workspace.catalog_path).parts == workspace.catalog.parts
    with pytest.raises(ChangedFileError):  # another page may write the file first
        opened.save(workspace)


def test_a_damaged_file_is_not_overwritten_unasked(workspace: Workspace):
    workspace.catalog_path.unlink()  # the file is mapped to memory
    workspace.catalog_path.write_bytes(b"damaged")
    opened = Naming.load(workspace)
    assert opened.catalog is workspace.catalog and str(workspace.catalog_path) in opened.message
    with pytest.raises(ChangedFileError):
        opened.save(workspace)
    assert opened.save(workspace, overwrite=True).is_saved


def test_a_conflict_ends_when_the_file_is_saved_or_loaded(naming: Naming, workspace: Workspace):
    changed = replace(naming.toggle(3).name("hair"), has_conflict=True)
    later = [changed.toggle(4), changed.undo(), changed.edit("eyes"), changed.use(naming.catalog, "")]
    assert all(state.has_conflict for state in later)
    assert not changed.save(workspace).has_conflict and not changed.reload(workspace).has_conflict


def test_an_offer_replaces_the_former_offer(naming: Naming):
    first = naming.offer_name("nose", "typed").toggle(3)
    assert first.offer == Offer(1, "nose", ("", "typed"))
    assert first.offer_name("").offer == Offer(2, "", ("nose",))


def test_views_are_made_once_for_all_parts(naming: Naming, workspace: Workspace):
    views = Views(workspace)
    view = views(naming.catalog, 3, 64)
    assert views(naming.toggle(3).name("hair").catalog, 3, 64) is view
    expected = naming.catalog.labels(shared("sg2"), workspace.w(3), size=(64, 64))[0]
    assert torch.equal(view.labels.int(), expected) and view.pixels.shape == (64, 64, 3)
    other = replace(naming.catalog, centroids=naming.catalog.centroids.flip(0))
    assert torch.equal(views(other, 3, 64).labels, 5 - view.labels)


def halves() -> View:
    """A grey image of 40 x 60 pixels whose left third is cluster 0 and whose rest is cluster 2."""
    labels = torch.zeros(40, 60, dtype=torch.int64)
    labels[:, 20:] = 2
    return View(torch.full((40, 60, 3), 100.0), labels, torch.zeros(40, 60), find_anchors(labels))


def test_the_cluster_at_a_click_is_found():
    view = halves()
    assert [view.cluster_at(x, y) for x, y in ((0, 0), (19.9, 39), (20, 0), (60, 40), (-1, 5))] == [0, 0, 2, 2, 0]


def test_selected_clusters_are_filled_and_named_ones_tinted():
    view, red, blue = halves(), (250, 0, 0), (0, 0, 250)
    plain = draw_clusters(view, {}, [], blue, numbers=False)
    assert np.array_equal(plain, np.full((40, 60, 3), 100))
    drawn = draw_clusters(view, {0: red, 2: red}, [2], blue, numbers=False)
    tinted, filled = drawn[20, 5].astype(int), drawn[20, 50].astype(int)
    assert tinted[0] > 130 and tinted[2] < 100 and filled[2] > 180 and filled[0] < 50
    assert (drawn[20, 19:21] > 200).all()  # a white outline
    numbered = draw_clusters(view, {}, [], blue)
    changed = (numbered != plain).any(2)
    assert changed[:, :20].any() and changed[:, 20:].any() and changed.mean() < 0.3


def test_tints_keep_their_hue_on_skin():
    view, blue = halves(), (47, 127, 230)
    view.pixels[:] = torch.tensor([205.0, 150.0, 120.0])
    drawn = draw_clusters(view, {0: blue}, [], blue, numbers=False)
    assert np.diff(drawn[20, 5].astype(int)).min() > 30  # red < green < blue
    assert drawn[20, 50].tolist() == [205, 150, 120]


def test_parts_keep_their_colours(naming: Naming):
    before = naming.colours
    assert len(set(before.values())) == 4  # with that of a new part
    after = naming.edit("eyes").remove()
    assert {part: after.colours[part] for part in ("nose", "mouth")} == {p: before[p] for p in ("nose", "mouth")}
    new = after.toggle(3).name("hair")
    assert new.colours["hair"] == before["eyes"] == after.colours[""]
    renamed = after.edit("mouth").name("lips")
    assert renamed.colours["lips"] == before["mouth"] and renamed.colours["nose"] == before["nose"]
    assert after.undo().colours == before


def test_a_box_and_its_first_corner_are_drawn():
    view = halves()
    corner = draw_clusters(view, {}, [], (0, 0, 0), numbers=False, box=(0.5, 0.5))
    assert (corner[20, 25:36] == 255).all() and (corner[5] == 100).all()
    box = draw_clusters(view, {}, [], (0, 0, 0), numbers=False, box=(0.25, 0.25, 0.75, 0.75))
    assert (box[10, 15:46] == 255).all() and (box[20, 20:40] == 100).all()


def test_a_spotlight_keeps_the_colours_of_the_clusters():
    view = halves()
    view.pixels[..., 0] = 200.0
    lit = spotlight(view, [0])
    assert lit[20, 5].tolist() == [200, 100, 100] and len(set(lit[20, 50].tolist())) == 1
    assert np.array_equal(spotlight(view, []), view.pixels.numpy())


def test_small_images_are_arranged_in_rows():
    images = [np.full((2, 3, 3), value, np.uint8) for value in range(4)]
    pixels = sheet(images, 3)
    assert pixels.shape == (2 * 2 + 8, 3 * 3 + 2 * 8, 3)
    assert pixels[0, 11, 0] == 1 and pixels[10, 0, 0] == 3 and (pixels[10:, 11:] == 255).all()
