# SPDX-License-Identifier: Apache-2.0
"""Networks of grey and RGBA images: wrapped, converted, and edited like networks of RGB images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from catalogs import build_catalog
from checkpoint_files import write
from commands import run as command
from jobs import grid, manifest, run
from miniatures import MINIATURES, with_colours
from miniatures.lucid import lucidrains
from originals import FAMILIES, Original
from PIL import Image

from stylefast import figures
from stylefast.cli import demo
from stylefast.core.images import to_rgb
from stylefast.editing import StyleEditor
from stylefast.generators import Generator, load, wrap
from stylefast.generators.convert import convert
from stylefast.locality import delta_e

COLOURS = {1: "L", 4: "RGBA"}


def ignore(key: str, tensor: torch.Tensor) -> None:
    pass


def network(colours: int) -> Generator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return wrap(with_colours(MINIATURES["nvlabs2"].build(), colours))


def editor_of(generator: Generator) -> StyleEditor:
    catalog = build_catalog(generator, generator.latents(range(4)), n_clusters=3, resolution=8, n_init=1)
    return StyleEditor(generator, catalog.annotate({"eyes": [0], "nose": [1]}))


@pytest.mark.parametrize("colours", COLOURS)
@pytest.mark.parametrize("name", sorted(set(MINIATURES) - {"eg3d", "swagan"}))  # their modules fix three channels
def test_wrapped_networks_give_their_own_images(name: str, colours: int):
    row = MINIATURES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        net = with_colours(row.build(), colours)
    generator = wrap(net, label=row.label, **row.options)
    w, reference = generator.latents([0, 1]), generator.latents([2, 3])
    with torch.no_grad():
        images = row.run(net, w).float()
    expected = (images if row.unit else images * 0.5 + 0.5).clamp(0, 1)
    assert generator.image_channels == colours and expected.shape[1] == colours and expected.std() > 0.01
    styles = generator.styles(reference)
    assert torch.equal(generator.synthesize(generator.styles(w), w), expected)
    assert torch.equal(generator.synthesize(styles, reference), generator.visit(reference, ignore, (), image=True))
    if name != "lucidrains":  # the small network refuses empty batches
        assert generator.synthesize(styles[:0], w[:0]).shape == (0, colours, *generator.image_size)


@pytest.mark.parametrize("colours", COLOURS)
@pytest.mark.parametrize("family", FAMILIES)
def test_converted_files_give_the_images_of_each_code_base(family: str, colours: int, tmp_path: Path):
    original = Original(family, colours=colours, clamp=0.9 if family in ("nvlabs", "hammer") else None)
    write(tmp_path / "a.pt", original)
    convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    generator = load(tmp_path / "a.safetensors")
    w = generator.latents([3, 4], truncation=0.5)
    expected = (original.image(w.double()) * 0.5 + 0.5).clamp(0, 1)
    assert expected.shape[1] == colours
    torch.testing.assert_close(generator.synthesize(generator.styles(w), w).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("colours", COLOURS)
def test_lucidrains_files_give_the_images_of_the_module(colours: int, tmp_path: Path):
    module = with_colours(lucidrains().eval(), colours)
    torch.save({"GAN": module.state_dict()}, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    generator, wrapped = load(tmp_path / "a.safetensors"), wrap(module)
    w = generator.latents([3, 4])
    images = (each.synthesize(each.styles(w), w) for each in (generator, wrapped))
    torch.testing.assert_close(*images, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_files_of_two_channels_are_refused(family: str, tmp_path: Path):
    write(tmp_path / "a.pt", Original(family, colours=2))
    with pytest.raises(ValueError, match=r"a\.pt cannot be used: all toRGB layers must .* got C = 2$"):
        convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize("colours", COLOURS)
@pytest.mark.parametrize("image_format", ["png", "jpg", "webp"])
def test_edits_are_measured_and_written(image_format: str, colours: int, tmp_path: Path):
    generator = network(colours)
    editor, plan = editor_of(generator), grid(generator=generator)
    run(tmp_path, plan, editor=editor, image_format=image_format, measure=True)
    entries = manifest(tmp_path)
    batch = editor.renderer(plan, batch_size=12, measure=True)(list(plan))
    assert batch.images.shape == (12, colours, 16, 16) and batch.locality is not None
    assert batch.locality.delta_e_inside.max() > 0.5
    for pixels, inside, entry in zip(
        figures.to_pil(batch.images), batch.locality.delta_e_inside.tolist(), entries, strict=True
    ):
        if image_format == "jpg":
            pixels = figures.to_pil(to_rgb(batch.images[entries.index(entry)][None]))[0]
        with Image.open(tmp_path / entry["file"]) as image:
            if image_format == "png":
                assert image.mode == COLOURS[colours]
            difference = np.asarray(image.convert(pixels.mode)).astype(int) - np.asarray(pixels)
        assert np.abs(difference).mean() <= (0 if image_format == "png" else 15)
        assert entry["locality"]["delta_e_inside"] == pytest.approx(inside, abs=0.02)


def test_figures_of_grey_and_rgba_images_are_rgb(tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    grey, colours, alpha = (torch.rand(2, c, 8, 8, generator=generator) for c in (1, 3, 1))
    labels = torch.zeros(2, 2, 2, dtype=torch.int64)
    for images, rgb in (
        (grey, grey.repeat(1, 3, 1, 1)),
        (torch.cat((colours, alpha), 1), alpha * colours + 1 - alpha),
    ):
        drawn = [
            (
                figures.cluster_overlay(x, labels, n_clusters=1, cell=32),
                figures.heat_map(x, x.flip(0), cell=32),
                figures.edit_grid(x, x, x[None, :, None].repeat(1, 1, 2, 1, 1, 1), part_names=["a"], cell=32),
            )
            for x in (images, rgb)
        ]
        for one, other in zip(*drawn, strict=True):
            assert one.mode == "RGB" and np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1
        assert delta_e(images, images.flip(0)).mean() > 5
        assert [image.mode for image in figures.to_pil(images)] == [{1: "L", 4: "RGBA"}[images.shape[1]]] * 2
        figures.save(figures.to_pil(images)[0], tmp_path / "a.JPG", quality=100)
        with Image.open(tmp_path / "a.JPG") as image:
            found = np.asarray(image.convert("RGB")).astype(float)
        assert np.abs(found.mean((0, 1)) - 255 * rgb[0].mean((1, 2)).numpy()).max() < 3


@pytest.mark.parametrize("colours", COLOURS)
def test_the_command_line_and_the_demo_run(colours: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write(Path("a.pt"), Original("rosinality", colours=colours))
    command("convert", "a.pt", "a.safetensors")
    command("catalog", "build", "--network", "a.safetensors", "--seeds", "0-3", "--resolution", 8, "--clusters", 3,
            "--restarts", 1, "--boxes", "none", "--out", "c.safetensors")  # fmt: skip
    command("catalog", "annotate", "c.safetensors", "--part", "eyes=0")
    command("catalog", "show", "c.safetensors", "--network", "a.safetensors", "--seeds", "0-3", "--outdir", "shown")
    command("edit", "--network", "a.safetensors", "--catalog", "c.safetensors", "--seeds", "1", "--references", "2",
            "--parts", "eyes", "--outdir", "out")  # fmt: skip
    (path,) = Path("out").glob("*.png")
    with Image.open(path) as image:
        assert image.mode == COLOURS[colours] and image.size == (16, 16)
    monkeypatch.setattr(demo, "FFHQ_REGIONS", {"eyes": [0], "nose": [1], "mouth": [2]})
    summary = demo.run("demo", network="a.safetensors", images=40, contribution_images=2, targets=[1], references=[2])
    assert summary["locality"]["eyes"] and {path.suffix for path in Path("demo").iterdir()} >= {".png", ".jpg", ".json"}
