# SPDX-License-Identifier: Apache-2.0
"""Features specific to StyleGAN3: tensors with a margin beyond the frame, and a transform of the input."""

import pytest
import torch
import torch.nn.functional as F
from catalogs import build_catalog
from editors import Everything, catalog_of, editor_of, latents
from jobs import grid, manifest, run
from miniatures import LAYERS, MINIATURES
from networks import own_images, shared
from PIL import Image
from torch import nn

from stylefast import contribution, figures
from stylefast.editing import StyleEditor
from stylefast.generators import wrap

NAMES = ("nvlabs3", "hammer3", "human3", "narrow3")
WIDTHS = {"human3": (18, 18, 26, 16), "narrow3": (28, 28, 36, 16)}  # of the full tensors, which are 36, 36, 52, 32 high


def transparent(name):
    """A network whose layers only resample the input, which is a bump at the same place for every latent."""
    net = MINIATURES[name].build()
    net.synthesis.get_submodule("early_layer" if name == "hammer3" else "input").register_forward_hook(bump)
    for module in net.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim == 4:
            nn.init.zeros_(weight)
            for i in range(len(weight)):
                weight.data[i, i, weight.shape[2] // 2, weight.shape[3] // 2] = 1
        for style in (getattr(module, "affine", None), getattr(module, "style", None)):
            if isinstance(style, nn.Linear) and style.out_features != 4:
                nn.init.zeros_(style.weight)
    return wrap(net)


def bump(module, inputs, output):
    """Replace the output by a bump, centred at 0.35 of the height and 0.6 of the width.

    The bump is wide enough for bilinear resampling. The frame is 16 pixels high, and 16 or 8 pixels wide.
    """
    y, x = ((torch.arange(n) + 0.5 - n / 2) / 16 for n in output.shape[2:])
    width = 1.0 if output.shape[2] == output.shape[3] else 0.5
    wave = torch.exp(-((y + 0.5 - 0.35) ** 2)[:, None] / 0.02 - (x - 0.1 * width) ** 2 / 0.02)
    return 0.1 * wave.expand_as(output)


@pytest.mark.parametrize("name", NAMES)
def test_resized_layers_keep_the_place_of_their_content(name):
    generator = transparent(name)
    w = generator.latents([0])
    activations = generator.activations(w)
    image = generator.visit(w, lambda key, tensor: None, (), image=True) - 0.5
    coarse = activations[generator.sites[0].tensor][:, :1]
    assert coarse.shape == (1, 1, 16, 8 if name in WIDTHS else 16) and len(activations) == len(LAYERS)
    for tensor in (*activations.values(), image):
        expected = F.interpolate(coarse, size=tensor.shape[2:], mode="bilinear")
        gain = tensor[:, :1].max() / expected.max()
        inner = (..., slice(1, -1), slice(1, -1))  # at the border, the network interpolates with its margin
        torch.testing.assert_close(tensor[:, :1][inner] / gain, expected[inner], rtol=0, atol=0.002)


@pytest.mark.parametrize("name", NAMES)
def test_activations_are_the_tensors_without_their_margin(name):
    generator = wrap(MINIATURES[name].build())
    w, full_tensors = generator.latents([0, 1]), []
    layers = [module for module in generator.network.modules() if hasattr(module, "in_sampling_rate")]
    handles = [
        layer.register_forward_pre_hook(lambda module, inputs: full_tensors.append(inputs[0])) for layer in layers
    ]
    tensors = generator.activations(w).values()
    for handle in handles:
        handle.remove()
    widths = WIDTHS.get(name, (36, 36, 52, 32))
    assert [tensor.shape[2:] for tensor in full_tensors] == list(zip((36, 36, 52, 32), widths, strict=True))
    assert generator.image_size == (32, widths[-1])
    for tensor, side, full in zip(tensors, (16, 16, 32, 32), full_tensors, strict=True):
        width = side * widths[-1] // 32
        y, x = (full.shape[2] - side) // 2, (full.shape[3] - width) // 2
        assert torch.equal(tensor, full[:, :, y : y + side, x : x + width])


@pytest.mark.parametrize("name, width", [("nvlabs3", 16), ("human3", 8), ("narrow3", 8)])
def test_catalogs_cover_the_frame_without_the_margin(name, width):
    generator = wrap(MINIATURES[name].build())
    w = generator.latents(range(4))
    catalog = build_catalog(generator, w, n_clusters=3, resolution=16, n_init=1)
    assert catalog.occupancy.shape == (3, 16, width)
    labels, last = catalog.labels(generator, w), generator.sites[-1]
    expected = contribution(generator.activations(w)[last.tensor], labels, 3)
    torch.testing.assert_close(catalog.contributions[:, last.slice], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["human3", "narrow3"])
def test_images_that_are_not_square_are_edited(name, tmp_path):
    generator = wrap(MINIATURES[name].build())
    catalog = build_catalog(generator, generator.latents(range(4)), n_clusters=3, resolution=16, n_init=1)
    catalog.annotate({"left": [(0, 0, 0.5, 1)], "all": [(0, 0, 1, 1)]})
    assert catalog.parts["all"] or catalog.parts["left"]
    editor = StyleEditor(generator, catalog.annotate({"nose": [0], "eyes": [1]}))
    run(tmp_path, grid(generator=generator), editor=editor, measure=True)
    assert {entry["locality"]["delta_e_outside"] is not None for entry in manifest(tmp_path)} == {True}
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as image:
            assert image.size == (16, 32)
    batch = editor.renderer(grid(generator=generator), batch_size=2, measure=True)(list(grid())[:2])
    assert batch.roi.shape == (2, 16, 8) and batch.images.shape == (2, 3, 32, 16)
    assert figures.heat_map(batch.images, batch.targets, mask=batch.roi, cell=64).mode == "RGB"


def test_an_edit_keeps_the_targets_transform_by_default():
    generator = shared("sg3")
    t, r = latents(editor_of("sg3"), 10), latents(editor_of("sg3"), 11)
    images = {}
    for transform in (0.0, 0.5, 1.0):
        editor = editor_of("sg3", rgb=True, transform=transform)
        (batch,) = editor.edit(t, r, "nose", queries=Everything())
        images[transform] = batch.images
        mixed = t.clone()
        mixed[:, 0] = t[:, 0].lerp(r[:, 0], transform)
        assert torch.equal(batch.images, generator.synthesize(generator.styles(r), mixed))
    assert torch.equal(images[1.0], own_images(generator, r))
    assert not torch.equal(images[0.0], images[1.0])
    (half,) = editor_of("sg3", rgb=True, transform=1.0).edit(t, r, "nose", queries=Everything(), strength=0.5)
    mixed[:, 0] = (t[:, 0] + r[:, 0]) / 2
    torch.testing.assert_close(half.images, generator.synthesize(half.styles, mixed))


def test_edits_with_another_transform_are_replaced_only_if_asked(tmp_path):
    plan, editors = grid(parts="nose", generator=shared("sg3")), [editor_of("sg3", transform=x) for x in (0.0, 1.0)]
    assert [run(tmp_path, plan, editor=editors[0]).n_written for _ in range(2)] == [6, 0]
    with pytest.raises(ValueError, match="options of the editor"):
        run(tmp_path, plan, editor=editors[1])
    assert run(tmp_path, plan, editor=editors[1], overwrite=True).n_written == 6


@pytest.mark.parametrize(
    "kind, transform, message", [("sg2", 0.5, "0, as toy:sg2 has none"), ("sg3", 1.5, r"\[0, 1\]")]
)
def test_impossible_transforms_are_refused(kind, transform, message):
    with pytest.raises(ValueError, match=f"transform must be .*{message}.*, got {transform}"):
        StyleEditor(shared(kind), catalog_of(kind), transform=transform)
