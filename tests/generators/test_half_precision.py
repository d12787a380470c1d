# SPDX-License-Identifier: Apache-2.0
"""Converted StyleGAN2 networks with their highest resolutions in float16, by the rules of NVlabs' code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from catalogs import build_catalog
from checkpoint_files import write
from commands import run as command
from jobs import grid, job, manifest, run
from originals import Original

from stylefast.editing import StyleEditor
from stylefast.generators import Generator, load
from stylefast.generators.convert import convert
from stylefast.generators.modulated_conv import modulated_conv
from stylefast.generators.precision import prenormalised

HALF = ("b16.conv0", "b16.conv1", "b16.torgb")  # sites of the highest resolution


def converted(folder: Path, original: Original, resolutions: int = 0) -> Path:
    """Path of a converted file; NVlabs' code runs its highest `resolutions` in float16."""
    for i, name in enumerate(("b16", "b8", "b4")):
        if original.family == "nvlabs":
            original.options[f"synthesis.{name}.use_fp16"] = i < resolutions
    write(folder / "source.pt", original)
    convert(folder / "source.pt", folder / "net.safetensors")
    return folder / "net.safetensors"


def pair(folder: Path, original: Original, resolutions: int = 1) -> tuple[Generator, Generator]:
    """The same network in float32 and in float16."""
    path = converted(folder, original, resolutions)
    return load(path), load(path, precision="float16")


def tensors(generator: Generator, w: torch.Tensor) -> dict[str, torch.Tensor]:
    """All tensors in the dtype and layout of the network."""
    found: dict[str, torch.Tensor] = {}
    generator.visit(w, lambda key, tensor: found.update({key: tensor.clone()}))
    return found


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_float16_images_stay_within_their_budget(architecture: str, tmp_path: Path):
    original = Original("nvlabs", architecture, clamp=256.0)
    single, half = pair(tmp_path, original)
    w = single.latents([3, 4], truncation=0.5)
    raw = [generator.network.synthesis(w).double() for generator in (single, half)]
    expected = original.image(w.double())
    error = (raw[1] - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < 4 * 2**-11  # a few roundings to float16
    assert (raw[0] - raw[1]).abs().max() > 1e-4  # the layers are not in float32
    assert raw[1].dtype == torch.float64 and half.network.synthesis(w).dtype == torch.float32


@pytest.mark.parametrize("resolutions, expected", [(1, {16}), (2, {8, 16}), (3, {8, 16}), (0, {8, 16})])
def test_the_file_says_which_resolutions_are_in_float16(resolutions: int, expected: set[int], tmp_path: Path):
    single, half = pair(tmp_path, Original("nvlabs"), resolutions)
    w = single.latents([0])
    for name, tensor in tensors(half, w).items():
        size, kind = int(name.split(".")[0][1:]), name.split(".")[1]
        produced = size // 2 if kind == "conv0" else size  # the resolution whose block computes the tensor
        is_half = produced in expected
        assert tensor.dtype == (torch.float16 if is_half else torch.float32), name
        assert not is_half or tensor.is_contiguous(memory_format=torch.channels_last)
    assert half.styles(w).dtype == torch.float32 and torch.equal(half.styles(w), single.styles(w))
    assert half.precision == {"float16_resolutions": len(expected)} and single.precision == {}
    assert half.fingerprint == single.fingerprint and half.sites == single.sites


def test_large_styles_do_not_overflow(tmp_path: Path):
    original = Original("nvlabs", "orig", clamp=256.0)
    single, half = pair(tmp_path, original)
    styles = single.styles(w := single.latents([0, 1]))
    for site in single.select(HALF[:2]):
        styles[:, site.slice] *= 1e6  # the division by the norm removes this factor
    assert styles.abs().max() > torch.finfo(torch.float16).max
    images = half.synthesize(styles, w)
    assert images.isfinite().all() and not torch.equal(images[0], images[1])
    assert (images - single.synthesize(styles, w)).abs().mean() < 0.01


@pytest.mark.parametrize("family", ["nvlabs", "rosinality"])
def test_float16_layers_are_clamped(family: str, tmp_path: Path):
    original = Original(family, clamp=300.0 if family == "nvlabs" else None)
    layer, noise = {"nvlabs": ("synthesis.b16.conv0", "noise_const"), "rosinality": ("convs.2", "noises.noise_3")}[
        family
    ]
    original.state[noise if family == "rosinality" else f"{layer}.{noise}"].mul_(4e3)
    single, half = pair(tmp_path, original)
    w = single.latents([0])
    bound = original.clamp or 256.0
    values = [tensors(generator, w)["b16.conv1"].abs() for generator in (single, half)]
    assert values[1].max() == bound and (values[1] == bound).float().mean() > 0.1
    assert (values[0].max() > bound) == (original.clamp is None)  # in float32, the network keeps its own clamp


def test_prenormalised_weights_and_styles_are_bounded():
    torch.manual_seed(0)
    weight, style = 1e4 * torch.randn(5, 7, 3, 3), 1e4 * torch.randn(2, 7)
    bounded, scaled = prenormalised(weight, style)
    torch.testing.assert_close(bounded.abs().amax((1, 2, 3)), torch.full((5,), 63**-0.5))
    torch.testing.assert_close(scaled.abs().amax(1), torch.ones(2))
    x = torch.randn(2, 7, 4, 4).half()
    torch.testing.assert_close(
        modulated_conv(x, style, weight).float(), modulated_conv(x.float(), style, weight), rtol=5e-3, atol=5e-3
    )
    nothing = modulated_conv(x, torch.zeros_like(style), weight * 0)
    assert torch.equal(nothing, torch.zeros_like(nothing))


def test_edits_in_float16_replay_exactly(tmp_path: Path):
    single, half = pair(tmp_path, Original("nvlabs", clamp=256.0))
    w = half.latents(range(4), truncation=0.7)
    with torch.no_grad():
        bare = (half.network.synthesis(w) * 0.5 + 0.5).clamp(0, 1)
    assert torch.equal(half.synthesize(half.styles(w), w), bare)
    catalog = build_catalog(single, w, n_clusters=3, resolution=8, n_init=1).annotate({"part": [0, 1, 2]})
    (batch,) = StyleEditor(half, catalog).edit(w[:1], w[1:2], "part")  # a catalog serves both precisions
    assert torch.equal(batch.images, half.synthesize(batch.styles, w[:1])) and not torch.equal(batch.images, bare[:1])
    expected = half.synthesize(batch.styles, w[:1])
    half.compile(1, backend="eager", fullgraph=True)
    assert torch.equal(half.synthesize(batch.styles, w[:1]), expected)


def test_squares_of_float16_tensors_are_summed_in_float32(tmp_path: Path):
    single, half = pair(tmp_path, Original("nvlabs", clamp=256.0))
    w = single.latents(range(4))
    options = {"n_clusters": 3, "resolution": 8, "n_init": 1}
    catalogs = [build_catalog(generator, w, **options) for generator in (single, half)]
    assert [catalog.provenance.get("float16_resolutions") for catalog in catalogs] == [None, 1]
    torch.testing.assert_close(catalogs[1].contributions, catalogs[0].contributions, rtol=0.02, atol=2e-3)


def test_a_resumed_job_does_not_mix_precisions(tmp_path: Path):
    single, half = pair(tmp_path, Original("nvlabs", clamp=256.0))
    w = single.latents(range(4))
    catalog = build_catalog(single, w, n_clusters=3, resolution=8, n_init=1).annotate({"nose": [0], "eyes": [1, 2]})
    for generator, n_existing in ((half, 0), (half, 12)):
        done = run(tmp_path / "out", grid(generator=generator), editor=StyleEditor(generator, catalog))
        assert done.n_existing == n_existing
    assert {line["float16_resolutions"] for line in manifest(tmp_path / "out")} == {1}
    with pytest.raises(ValueError, match="its float16_resolutions is 1, not 0"):
        list(job(tmp_path / "out", grid(generator=single), editor=StyleEditor(single, catalog)))


def test_the_command_line_sets_the_precision(tmp_path: Path):
    path, catalog = converted(tmp_path, Original("nvlabs")), tmp_path / "catalog.safetensors"
    network = ["--network", path, "--precision", "float16"]
    command("catalog", "build", *network, "--seeds", "0-3", "--clusters", "3", "--out", catalog)
    command("catalog", "annotate", catalog, "--part", "eyes=1")
    edit = ["edit", *network, "--catalog", catalog, "--seeds", "1", "--references", "2", "--parts", "eyes"]
    command(*edit, "--outdir", tmp_path / "out")
    assert [line["float16_resolutions"] for line in manifest(tmp_path / "out")] == [2]


@pytest.mark.parametrize("network", ["toy:sg2", "random-face", "nowhere.whl"])
def test_other_networks_have_no_float16_layers(network: str):
    with pytest.raises(ValueError, match=f"^precision must be float32, because {network} is not a converted StyleGAN2"):
        load(network, precision="float16")
    with pytest.raises(ValueError, match="precision must be one of 'float32', 'float16', got 'half'"):
        load(network, precision="half")  # type: ignore[arg-type]
