# SPDX-License-Identifier: Apache-2.0
"""Images that must be equal are synthesised once, with the bits that they have without this."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from editors import editor_of, latents
from torch import Tensor

from stylefast.editing import EditBatch, Sequential, Simultaneous, StyleEditor, renderer

NOTHING = Simultaneous(0.0)
SAME = [Sequential(1e6, 0.0), Sequential(2e6, 0.0), NOTHING]  # the first two take all channels, for all parts


@contextmanager
def counted(editor: StyleEditor, change: Callable[[Tensor], Tensor] = lambda images: images) -> Iterator[list[int]]:
    """Yield a list that receives the number of images of each synthesis, whose images a function may change."""
    synthesize, sizes = editor.generator.synthesize, list[int]()

    def watched(styles: Tensor, w: Tensor) -> Tensor:
        sizes.append(len(styles))
        return change(synthesize(styles, w))

    with mock.patch.object(editor.generator, "synthesize", watched):
        yield sizes


def plainly(editor: StyleEditor, batch: EditBatch, w: Tensor) -> Tensor:
    """Images of a batch from one synthesis of all its rows."""
    return editor.generator.synthesize(batch.styles, w[[edit.target for edit in batch.edits]])


@pytest.mark.parametrize("measure", [False, True])
@pytest.mark.parametrize("kind", ["sg1", "sg2", "sg3"])
def test_edits_of_nothing_synthesise_their_target_once(kind: str, measure: bool):
    editor = editor_of(kind)
    t, r = latents(editor, 1, 2), latents(editor, 3, 4)
    with counted(editor) as sizes:
        batches = list(
            editor.edit(t, r, ["eyes", "nose"], queries=NOTHING, measure=measure, batch_size=1, progress=False)
        )
    assert sizes == [1, 1] and len(batches) == 8
    for batch in batches:
        assert torch.equal(batch.images, plainly(editor, batch, t))
        batch.images.zero_()  # the images of later batches do not share its memory
    with counted(editor) as sizes:
        list(editor.edit(t, r, "eyes", strength=0.0, measure=measure, batch_size=1, progress=False))
    assert sizes == [1, 1]


@pytest.mark.parametrize("kind", ["sg1", "sg2", "sg3"])
def test_equal_rows_of_a_batch_have_the_bits_of_the_whole_batch(kind: str):
    editor = editor_of(kind)
    t, r = latents(editor, 1, 2, 5), latents(editor, 3)
    with counted(editor) as sizes:
        batches = list(editor.edit(t, r, ["eyes", "nose"], queries=SAME, batch_size=6, progress=False))
    assert sizes[:2] == [2, 6] and set(sizes[2:]) in ({2}, {6})
    for batch in batches:
        assert torch.equal(batch.images, plainly(editor, batch, t))


def noisy(images: Tensor) -> Tensor:
    return images + torch.arange(len(images), dtype=torch.float32, device="cpu").view(-1, 1, 1, 1) / 1e6


def coupled(images: Tensor) -> Tensor:
    return images + images.mean() / 1e3


@pytest.mark.parametrize("change", [noisy, coupled])
def test_images_that_depend_on_the_batch_are_not_shared(change: Callable[[Tensor], Tensor]):
    editor = editor_of("sg2")
    t, r = latents(editor, 1, 2, 5), latents(editor, 3)
    with counted(editor, change) as sizes:
        batches = list(editor.edit(t, r, ["eyes", "nose"], queries=SAME, batch_size=6, progress=False))
        assert sizes == [2, 6, 6, 6]
        for batch in batches:
            assert torch.equal(batch.images, plainly(editor, batch, t))


def by_row(images: Tensor) -> Tensor:
    return images + torch.arange(len(images), dtype=torch.float32, device="cpu").clamp(max=4).view(-1, 1, 1, 1) / 1e6


def test_equal_images_in_other_rows_are_tried_again():
    editor = editor_of("sg2")
    t, r = latents(editor, 1, 2), latents(editor, 3)
    other = [Simultaneous(i / 10) for i in range(1, 9)]
    queries = [*other[:4], *SAME[:2], Sequential(3e6, 0.0), Sequential(4e6, 0.0), *other[4:]]
    with counted(editor, by_row) as sizes:
        batches = list(editor.edit(t, r, "eyes", queries=queries, batch_size=6, progress=False))
        assert sizes == [5, 6, 5, 6, 5, 6]
        for batch in batches:
            assert torch.equal(batch.images, plainly(editor, batch, t))
    with mock.patch.object(renderer, "MAX_PATTERNS", 1), counted(editor) as sizes:
        list(editor.edit(t, r, "eyes", queries=queries, batch_size=6, progress=False))
    assert sizes[:3] == [5, 6, 6]


def test_a_zero_query_with_a_transform_moves_the_image():
    editor = editor_of("sg3", transform=1.0)
    t, r = latents(editor, 1), latents(editor, 3)
    (batch,) = editor.edit(t, r, "eyes", queries=NOTHING, batch_size=1, progress=False)
    assert not torch.equal(batch.images, plainly(editor, batch, t))
    (batch,) = editor.edit(t, r, "eyes", queries=NOTHING, strength=0.0, batch_size=1, progress=False)
    assert torch.equal(batch.images, plainly(editor, batch, t))
