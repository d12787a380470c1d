# SPDX-License-Identifier: Apache-2.0
"""StyleGAN2: layers compared with their formulas, and the network with the networks of four code bases."""

from __future__ import annotations

import re

import pytest
import torch
from converted_originals import CASES, CONVERTERS, ours
from originals import CHANNELS, Layer, Original, W, modulated, up

from stylefast.generators.modulated_conv import modulated_conv, upsample
from stylefast.generators.stylegan2 import StyleGAN2, stylegan2
from stylefast.generators.weight_maps import from_nvlabs


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1.0, 1e-4])  # the 1e-8 in the norm matters at the smaller scale
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("side", [None, 2, 4, 6])
def test_modulated_convolution_follows_its_formula(kernel: int, side: int | None, scale: float):
    torch.manual_seed(0)
    x, weight, affine, w = (
        random(3, 4, 5, 6),
        random(7, 4, kernel, kernel) * scale,
        (random(4, W), random(4)),
        random(3, W),
    )
    taps = None if side is None else random(side, side)
    got = modulated_conv(x, w @ affine[0].T + affine[1], weight, taps)
    expected = modulated(Layer(weight, affine, torch.zeros(7)), x, w, taps, True)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("side", [2, 4, 6, 8])
def test_upsampling_follows_its_formula(side: int):
    torch.manual_seed(0)
    x, taps = random(2, 3, 4, 5), random(side, side)
    torch.testing.assert_close(upsample(x, taps), up(x, side // 2, side // 2 - 1, taps))
    constant = upsample(
        torch.ones(1, 1, 9, 9, dtype=torch.float64), torch.ones(side, side, dtype=torch.float64) / side**2
    )
    torch.testing.assert_close(
        constant[:, :, 6:12, 6:12], torch.ones(1, 1, 6, 6, dtype=torch.float64)
    )  # the gain is one


@pytest.mark.parametrize("family, architecture, clamp", CASES)
def test_images_equal_those_of_the_code_base(family: str, architecture: str, clamp: float | None):
    original = Original(family, architecture, clamp)
    network = ours(original).double()
    z = random(3, original.z_dim)
    w = network.mapping(z)
    torch.testing.assert_close(w, original.map(z)[:, None].expand_as(w), rtol=1e-6, atol=1e-6)
    w = w + random(*w.shape) / 4  # rows differ
    torch.testing.assert_close(network.synthesis(w), original.image(w), rtol=1e-5, atol=1e-5)
    assert torch.equal(network.w_avg, original.mean.double())


@pytest.mark.parametrize("start", [(4, 2), (3, 5), (8, 8)])
@pytest.mark.parametrize("family", ["nvlabs", "rosinality", "genforce", "hammer"])
def test_the_constant_may_have_any_size(family: str, start: tuple[int, int]):
    original = Original(family, start=start)
    network = ours(original).double()
    w = random(2, 6, W)
    image = network.synthesis(w)
    assert image.shape == (2, 3, 4 * start[0], 4 * start[1]) and network.synthesis.image_size == image.shape[2:]
    torch.testing.assert_close(image, original.image(w), rtol=1e-5, atol=1e-5)
    sizes = {site.name: site.size for site in stylegan2(ours(original)).sites}
    first = 4 if family == "nvlabs" else max(start)
    assert sizes[f"b{first}.conv1"] == sizes[f"b{2 * first}.conv0"] == start
    assert sizes[f"b{4 * first}.torgb"] == (4 * start[0], 4 * start[1])


def test_the_first_block_may_have_another_number():
    original = Original("nvlabs", "resnet", start=(8, 4))
    for attribute in ("state", "options"):
        for name in ("b16.", "b8.", "b4."):  # the highest number first, so that no name is used twice
            entries = getattr(original, attribute).items()
            renamed = {key.replace(f".{name}", f".b{2 * int(name[1:-1])}."): value for key, value in entries}
            setattr(original, attribute, renamed)
    original.state["synthesis.b8.resample_filter"] = torch.ones(4, 4)  # unused: the first block does not resample
    w = random(2, 6, W)
    network = ours(original).double()
    assert [name for name, _ in network.synthesis.named_children()] == ["b8", "b16", "b32"]
    torch.testing.assert_close(network.synthesis(w), original.image(w), rtol=1e-5, atol=1e-5)


def test_a_class_is_folded_into_the_mapping():
    original = Original("nvlabs", classes=4)
    z = random(3, original.z_dim)
    for label in (0, 3):
        network = StyleGAN2(from_nvlabs(original.state, original.options, label)).double()
        torch.testing.assert_close(network.mapping(z)[:, 0], original.map(z, label), rtol=1e-6, atol=1e-6)
    for label in (None, 4, -1):
        with pytest.raises(
            ValueError, match=re.escape(f"class must be in [0, 4), because the network is conditional, got {label}")
        ):
            from_nvlabs(original.state, original.options, label)
    with pytest.raises(ValueError, match="class must be omitted, because the network has no classes, got 2"):
        from_nvlabs(Original("nvlabs").state, Original("nvlabs").options, 2)


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_each_architecture_has_the_expected_sites_and_styles(architecture: str):
    original = Original("nvlabs", architecture)
    network = ours(original)
    generator = stylegan2(network, name="mine")
    convs = ["b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1"]
    skip = ["b4.conv1", "b4.torgb", "b8.conv0", "b8.conv1", "b8.torgb", "b16.conv0", "b16.conv1", "b16.torgb"]
    assert [site.name for site in generator.sites] == (skip if architecture == "skip" else [*convs, "b16.torgb"])
    for site in generator.sites:
        size, name = int(site.name.split(".")[0][1:]), site.name.split(".")[1]
        entering = size // 2 if name == "conv0" else size
        assert site.size == (entering, entering) and site.channels == CHANNELS[entering]
        assert site.kind == ("rgb" if name == "torgb" else "conv")
    shared = {site.tensor for site in generator.sites if site.name in ("b4.torgb", "b8.conv0")}
    assert len(shared) == 1
    w = generator.latents([1, 2], truncation=0.7)
    assert generator.w_shape == (6, W) and generator.z_dim == original.z_dim
    torch.testing.assert_close(generator.w_mean, original.mean)
    with torch.no_grad():
        bare, swapped = ((network.synthesis(latents) * 0.5 + 0.5).clamp(0, 1) for latents in (w, w[[1, 0]]))
    styles = generator.styles(w)
    assert torch.equal(generator.synthesize(styles, w), bare)
    assert torch.equal(generator.synthesize(generator.styles(w[[1, 0]]), w[:1].expand_as(w)), swapped)
    for site, (weight, bias) in ((site, original.layers[site.name].affine) for site in generator.sites):
        row = skip.index(site.name) - sum("torgb" in name for name in skip[: skip.index(site.name)])
        expected = w[:, row].double() @ weight.T + bias
        torch.testing.assert_close(styles[:, site.slice].double(), expected, rtol=1e-5, atol=1e-5)


def test_noise_may_be_absent():
    original = Original("rosinality")
    for name in [name for name in original.state if "noises" in name]:
        del original.state[name]
    for layer in original.layers.values():
        layer.noise = None if layer.noise is None else torch.zeros_like(layer.noise)
    w = random(2, 6, W)
    torch.testing.assert_close(ours(original).double().synthesis(w), original.image(w), rtol=1e-5, atol=1e-5)


def test_tensors_that_do_not_fit_are_refused():
    good = CONVERTERS["nvlabs"](Original("nvlabs"))
    StyleGAN2(good)
    without, shape = (lambda name: {k: x for k, x in good.items() if k != name}), (lambda name, x: {**good, name: x})
    for tensors, message in (
        (without("synthesis.const"), "tensor synthesis.const must have 3 dimensions, got nothing"),
        (without("synthesis.b4.conv1.weight"), "tensor synthesis.b2.torgb.weight, of the last block, is missing"),
        (without("synthesis.b16.torgb.weight"), "tensor synthesis.b16.torgb.weight, of the last block, is missing"),
        (
            without("synthesis.b8.conv0.bias"),
            "tensor synthesis.b8.conv0.bias does not fit this network: expected [8], got nothing",
        ),
        (without("mapping.fc0.weight"), "tensor mapping.fc0.weight is missing"),
        (shape("extra", torch.ones(2)), "tensor extra does not fit this network: expected nothing, got [2]"),
        (
            shape("synthesis.filter", torch.ones(3, 3)),
            "tensor synthesis.filter must be a square with even sides, got [3, 3]",
        ),
        (
            shape("synthesis.b8.conv0.noise", torch.ones(4, 4)),
            "b8.conv0.noise does not fit this network: expected [8, 8], got [4, 4]",
        ),
        (
            shape("synthesis.b8.torgb.weight", torch.ones(1, 8, 1, 1)),
            "all toRGB layers must write images with C = 1 (grey), 3 (RGB) or 4 (RGBA), got C = 1, 3",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            StyleGAN2(tensors)


def test_filters_that_differ_are_refused():
    original = Original("rosinality")
    original.state["to_rgbs.0.upsample.kernel"] = torch.ones(4, 4) / 4
    with pytest.raises(ValueError, match="up-sampling filters that differ"):
        ours(original)
