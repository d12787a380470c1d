# SPDX-License-Identifier: Apache-2.0
"""Native synthesis of converted StyleGAN2 against the network, on miniatures with random weights."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from converted_originals import CASES, ours
from originals import Original

from stylefast.generators import stylegan2_native
from stylefast.generators.converted import use_float16
from stylefast.generators.modulated_conv import convolve
from stylefast.generators.stylegan2 import StyleGAN2, stylegan2
from stylefast.generators.stylegan2_native import phase_weights
from stylefast.generators.toy import toy

BOUND = 1e-5  # of the largest value of an image


@pytest.fixture
def all_winograd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stylegan2_native, "MIN_POSITIONS", 1)
    monkeypatch.setattr(stylegan2_native, "MIN_POSITIONS_UP", 1)


def edited(generator: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Styles of four edits, in which every channel of every site is changed, and the latents of other images."""
    w = generator.latents([3, 4, 5, 6])
    return generator.styles(w).lerp(generator.styles(w.flip(0)), 0.7), w.roll(1, 0)


def check(network: StyleGAN2) -> None:
    """Check that the images of edited styles are those of the network, alone and in batches."""
    generator = stylegan2(network)
    styles, w = edited(generator)
    expected = generator.synthesize(styles, w)
    assert expected.std(dim=0).max() > 0.01
    generator.use_engine("native")
    images = generator.synthesize(styles, w)
    assert (images - expected).abs().max() < BOUND and images.is_contiguous()
    assert torch.equal(generator.synthesize(styles[1:3], w[:1]), images[1:3])
    assert torch.equal(generator.synthesize(styles[3:], w[3:]), images[3:])


@pytest.mark.parametrize("size", [(5, 6), (4, 4), (1, 3)])
@pytest.mark.parametrize("side", [2, 4])
def test_phases_are_the_up_sampling_convolution(side: int, size: tuple[int, int]):
    torch.manual_seed(0)
    x, weight, taps = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 4, *size), (7, 4, 3, 3), (side, side)))
    phases = F.conv2d(x, phase_weights(weight, taps), padding=1).view(2, 2, 2, 7, *size)
    got = phases.permute(0, 3, 4, 1, 5, 2).reshape(2, 7, 2 * size[0], 2 * size[1])
    torch.testing.assert_close(got, convolve(x, weight, taps), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("all_winograd")
@pytest.mark.parametrize("family, architecture, clamp", CASES)
def test_winograd_makes_the_images_of_the_network(family: str, architecture: str, clamp: float | None):
    check(ours(Original(family, architecture, clamp)))


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_direct_layers_make_the_images_of_the_network(monkeypatch: pytest.MonkeyPatch, architecture: str):
    monkeypatch.setattr(stylegan2_native, "winograd_conv", None)
    monkeypatch.setattr(stylegan2_native, "MIN_POSITIONS", 1e6)
    monkeypatch.setattr(stylegan2_native, "MIN_POSITIONS_UP", 1e6)
    check(ours(Original("nvlabs", architecture, 0.7)))


@pytest.mark.usefixtures("all_winograd")
@pytest.mark.parametrize("colours", [1, 4])
@pytest.mark.parametrize("start", [(4, 2), (3, 5)])
def test_any_constant_and_number_of_colours(start: tuple[int, int], colours: int):
    check(ours(Original("nvlabs", "skip", start=start, colours=colours)))


@pytest.mark.usefixtures("all_winograd")
@pytest.mark.parametrize("architecture", ["skip", "resnet"])
def test_networks_without_noise(architecture: str):
    tensors = {
        name: x for name, x in ours(Original("nvlabs", architecture)).state_dict().items() if "noise" not in name
    }
    check(StyleGAN2(tensors, clamp=0.7))


@pytest.mark.usefixtures("all_winograd")
@pytest.mark.parametrize("side", [2, 6])
def test_filters_of_other_sizes(side: int):
    tensors = ours(Original("nvlabs")).state_dict()
    taps = torch.rand(side, side, generator=torch.Generator().manual_seed(0))
    check(StyleGAN2({**tensors, "synthesis.filter": taps / taps.sum()}))


@pytest.mark.usefixtures("all_winograd")
def test_kernels_of_one_pixel():
    tensors = ours(Original("nvlabs")).state_dict()
    check(StyleGAN2({name: x[:, :, 1:2, 1:2] if x.shape[2:] == (3, 3) else x for name, x in tensors.items()}))


def test_large_inputs_use_winograd(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stylegan2_native, "MIN_POSITIONS", 8 * 8)
    monkeypatch.setattr(stylegan2_native, "MIN_POSITIONS_UP", 4 * 4)
    run, shapes = stylegan2_native.winograd_conv, []
    monkeypatch.setattr(
        stylegan2_native,
        "winograd_conv",
        lambda x, *args, **options: shapes.append(x.shape) or run(x, *args, **options),
    )
    generator = stylegan2(ours(Original("nvlabs")))
    generator.use_engine("native")
    expected = [(1, 4, 4, 8), (1, 8, 8, 8), (1, 8, 8, 8), (1, 16, 16, 6)]  # b8.conv0 to b16.conv1
    assert [tuple(shape) for shape in shapes] == 2 * expected  # of two images


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_arranges_its_own_weights(copied: Callable[[Any], Any]):
    original = stylegan2(ours(Original("nvlabs", "resnet")))
    styles, w = edited(original)
    original.use_engine("native")
    images = original.synthesize(styles, w)
    other = copied(original)
    assert other.engine == original.engine and torch.equal(other.synthesize(styles, w), images)
    for x in other.network.parameters():
        x.mul_(1.25)
    assert torch.equal(other.synthesize(styles, w), images)  # its weights are arranged
    assert not torch.equal(copied(other).synthesize(styles, w), images)


def test_the_network_may_change_afterwards_but_is_not_changed():
    network = ours(Original("nvlabs", "resnet", 0.7))
    generator = stylegan2(network)
    styles, w = edited(generator)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    run = network.native_synthesis()
    images = run(styles, w)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    for tensor in network.state_dict().values():
        tensor.zero_()
    assert torch.equal(run(styles, w), images)


def test_threads_make_the_same_images():
    generator = stylegan2(ours(Original("nvlabs")))
    styles, w = edited(generator)
    generator.use_engine("native")
    images = generator.synthesize(styles, w)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: generator.synthesize(styles[i : i + 1], w[:1]), 4 * [*range(4)]))
    assert all(torch.equal(result[0], images[i % 4]) for i, result in enumerate(results))


@pytest.mark.usefixtures("all_winograd")
def test_autocast_does_not_change_the_images():
    generator = stylegan2(ours(Original("nvlabs", "resnet")))
    styles, w = edited(generator)
    generator.use_engine("native")
    images = generator.synthesize(styles, w)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(generator.synthesize(styles, w), images)
        assert torch.equal(copy.deepcopy(generator).synthesize(styles, w), images)  # whose weights are arranged here


def test_an_empty_batch_gives_no_images():
    network = ours(Original("nvlabs"))
    styles, w = edited(stylegan2(network))
    assert network.native_synthesis()(styles[:0], w[:0]).shape == (0, 3, 16, 16)


def test_networks_that_it_cannot_run_are_refused():
    half = ours(Original("nvlabs"))
    use_float16(half, 1)
    networks = {
        "it computes in float32, and the network has layers in float16": half,
        "it computes in float32, and the network is in float64": ours(Original("nvlabs")).double(),
        "its layers have no fused ops, which exist for random-face and converted StyleGAN2 only": toy("sg3").network,
    }
    for reason, network in networks.items():
        generator = toy("sg3") if not isinstance(network, StyleGAN2) else stylegan2(network)
        with pytest.raises(ValueError, match=f"engine must be able to run .*, got native: {re.escape(reason)}$"):
            generator.use_engine("native")
        assert generator.engine.name == "eager"
    with pytest.raises(ValueError, match="^its fused ops run on the CPU, and the network is on meta$"):
        ours(Original("nvlabs")).to("meta").native_synthesis()
