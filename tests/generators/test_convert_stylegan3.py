# SPDX-License-Identifier: Apache-2.0
"""Converted StyleGAN3 files give the images of the networks in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import write_nvlabs
from commands import run
from originals3 import BANDWIDTH, INPUT_RATE, LAYERS, Original3, W, resampled

from stylefast.generators import Generator, load
from stylefast.generators.convert import FORMAT, convert
from stylefast.generators.stylegan3 import Layer, Resampling, Synthesis, downsample, upsample
from stylefast.generators.stylegan3_layout import Layout
from stylefast.io.tensors import read_tensors, write_tensors

KINDS = {
    "T": {},
    "R": {"kernel": 1, "clamp": 1.0},
    "2:1": {"shape": (1.0, 0.5)},
    "wide": {"shape": (0.75, 1.25), "kernel": 1, "clamp": 1.0},
    "no clamp": {"clamp": None},
}


def converted(path: Path, original: Original3, *, tuned: bool = False, label: int | None = None) -> Generator:
    source = path / ("a.pt" if tuned else "a.pkl")
    write_nvlabs(source, original, tuned=tuned)
    convert(source, path / "a.safetensors", label=label)
    return load(path / "a.safetensors")


def raw_images(generator: Generator, w: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return generator.network.synthesis(w)


@pytest.mark.parametrize("kind", KINDS)
def test_images_equal_those_of_the_original(kind: str, tmp_path: Path):
    original = Original3(**KINDS[kind])
    generator = converted(tmp_path, original)
    z = torch.randn(3, generator.z_dim, generator=torch.Generator().manual_seed(0))
    w = generator.network.mapping(z)
    torch.testing.assert_close(w.double(), original.map(z)[:, None].expand(3, 5, W), rtol=1e-5, atol=1e-5)
    w = w + torch.randn(w.shape, generator=torch.Generator().manual_seed(1)) / 4  # rows differ
    image, expected = raw_images(generator, w), original.image(w)
    assert image.shape[2:] == original.size(16, False) and expected.std() > 0.02
    if original.clamp is not None:  # the clamp of the last layer is reached and not exceeded
        assert expected.abs().max() == 0.25 * original.clamp
        assert (expected.abs() < 0.25 * original.clamp).double().mean() > 0.3
    torch.testing.assert_close(image.double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", ["T", "2:1", "wide"])
def test_sites_are_cropped_to_the_frame_on_both_axes(kind: str, tmp_path: Path):
    original = Original3(**KINDS[kind])
    generator = converted(tmp_path, original)
    rates = [INPUT_RATE, *(rate for rate, _, _ in LAYERS[:-1])]
    assert [site.size for site in generator.sites] == [original.size(rate, False) for rate in rates]
    assert [site.name for site in generator.sites] == list(original.layers)
    assert [site.kind for site in generator.sites] == ["conv", "conv", "conv", "rgb"]
    assert generator.transform_row == 0 and generator.image_size == original.size(16, False)


def test_styles_replay_and_row_0_moves_the_image(tmp_path: Path):
    original = Original3()
    generator = converted(tmp_path, original)
    w = generator.latents([1, 2], truncation=0.7)
    torch.testing.assert_close(generator.w_mean, original.mean)
    styles = generator.styles(w)
    for site in generator.sites:
        weight, bias = original.layers[site.name].affine
        expected = w[:, 1].double() @ weight.T + bias
        torch.testing.assert_close(styles[:, site.slice].double(), expected, rtol=1e-5, atol=1e-5)
    images = generator.synthesize(styles, w)
    assert torch.equal(images, (raw_images(generator, w) * 0.5 + 0.5).clamp(0, 1))
    alone = torch.cat([generator.synthesize(styles[i : i + 1], w[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(images, alone, rtol=0, atol=1e-6)
    moved = w.clone()
    moved[:, 0] += 1
    assert (generator.synthesize(styles, moved) - images).abs().max() > 0.005


def test_the_size_of_a_style_does_not_matter(tmp_path: Path):
    layer = converted(tmp_path, Original3()).network.synthesis.L1_22_5
    layer.load_state_dict({**layer.state_dict(), "affine.weight": torch.randn(6, W), "affine.bias": torch.zeros(6)})
    x = torch.randn(1, 6, 12, 12)
    w = torch.randn(1, W) * torch.tensor([[1.0], [1e-6], [1e3], [0.0]])
    with torch.no_grad():
        first, small, large, zero = layer(x.expand(4, -1, -1, -1), w)
        torch.testing.assert_close(small, first, rtol=0, atol=1e-5)
        torch.testing.assert_close(large, first, rtol=0, atol=1e-5)
        assert torch.isfinite(zero).all() and (zero - first).abs().max() > 0.01


@pytest.mark.parametrize("xl", [False, True])
def test_classes_are_folded_into_the_mapping(xl: bool, tmp_path: Path):
    original = Original3(classes=4, xl=xl)
    z = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    for label in (0, 3):
        generator = converted(tmp_path, original, label=label)
        expected = original.map(z, label)
        torch.testing.assert_close(generator.network.mapping(z)[:, 2].double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(generator.w_mean, original.mean[label] if xl else original.mean)
    for label in (None, 4, -1):
        with pytest.raises(ValueError, match=rf"class must be in \[0, 4\), because .*, got {label}"):
            converted(tmp_path, original, label=label)


def test_a_network_without_classes_takes_no_label(tmp_path: Path):
    original = Original3()
    with pytest.raises(ValueError, match="class must be omitted, because the network has no classes, got 2"):
        converted(tmp_path, original, label=2)
    original.state["mapping.embed.weight"] = torch.ones(9, 4)  # StyleGAN-XL keeps an unused table
    original.tables = ("mapping.embed.weight",)
    assert torch.equal(converted(tmp_path, original).w_mean, original.mean)


def test_a_tuned_module_gives_the_same_tensors(tmp_path: Path):
    original = Original3(kernel=1)
    first, second = (converted(tmp_path, original, tuned=tuned).fingerprint for tuned in (False, True))
    assert first == second


def test_the_command_prints_what_was_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write_nvlabs(Path("a.pkl"), Original3(shape=(1.0, 0.5)))
    text = run("convert", "a.pkl", "b.safetensors")
    assert "format: NVlabs stylegan3, StyleGAN-XL" in text and "architecture: alias-free" in text
    assert "resolution: [16, 8]" in text and "noise: False" in text and "layout" not in text


@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (3, -2, -5, 1), (9, 9, 9, 9), (-3, -3, -4, -1)])
@pytest.mark.parametrize("factor, side", [(1, 1), (1, 4), (2, 6), (4, 5), (3, 2)])
def test_resampling_inserts_zeros_and_convolves(factor: int, side: int, padding: tuple[int, int, int, int]):
    torch.manual_seed(0)
    x, taps = torch.randn(2, 3, 13, 12, dtype=torch.float64), torch.randn(side, side, dtype=torch.float64)
    torch.testing.assert_close(upsample(x, taps, factor, padding), resampled(x, taps, factor, 1, list(padding)))
    torch.testing.assert_close(downsample(x, taps, factor), resampled(x, taps, 1, factor, [0, 0, 0, 0]))
    if factor == 1:
        assert torch.equal(upsample(x, None, 1, padding), torch.nn.functional.pad(x, padding))
        assert torch.equal(downsample(x, None, 1), x)


def test_an_impulse_becomes_the_filter():
    x, taps = torch.zeros(1, 1, 2, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    x[0, 0, 0, 1] = 1  # at (0, 2) after zeros are inserted
    assert upsample(x, taps, 2, (0, 0, 0, 0))[0, 0].tolist() == [[0, 12, 16], [0, 0, 0], [0, 0, 0]]
    assert upsample(x, taps, 2, (-1, 1, 1, -2))[0, 0].tolist() == [[4, 8, 0], [12, 16, 0]]


@pytest.mark.parametrize(
    "turn, shift, expected",
    [
        ((1.0, 0.0), (0.0, 0.0), lambda x, y: x),
        ((2.0, 0.0), (0.5, 0.0), lambda x, y: x - 0.25),  # the affine output is divided by |(2, 0)|
        ((0.0, 1.0), (0.0, 0.0), lambda x, y: -y),
        ((0.0, 1.0), (0.0, 0.125), lambda x, y: -(y - 0.125)),
    ],
)
def test_waves_turn_and_shift_as_computed_by_hand(turn: Any, shift: Any, expected: Any, tmp_path: Path):
    generator = converted(tmp_path, Original3())
    layer = generator.network.synthesis.input
    layer.load_state_dict(
        {
            "affine.weight": torch.zeros(4, W),
            "affine.bias": torch.tensor([*turn, *shift]),
            "weight": torch.eye(6),
            "freqs": torch.tensor([[1.0, 0.0]]).repeat(6, 1),
            "phases": torch.full((6,), 0.125),
            "transform": torch.eye(3),
        }
    )
    x, y = np.meshgrid((np.arange(14) + 0.5 - 7) / INPUT_RATE, (np.arange(12) + 0.5 - 6) / INPUT_RATE)
    wave = np.sin(2 * np.pi * (expected(x, y) + 0.125))
    with torch.no_grad():
        got = layer(torch.randn(1, W))[0, 0].double().numpy()
    np.testing.assert_allclose(got, wave, atol=1e-5)


def test_options_that_do_not_fit_are_refused(tmp_path: Path):
    for name, value, message in (
        ("synthesis.L1_22_5.up_factor", None, "it lacks 'synthesis.L1_22_5.up_factor'"),
        ("synthesis.L1_22_5.in_sampling_rate", 16, "layer L1_22_5 does not continue the layer before it"),
        ("synthesis.L1_22_5.in_size", np.array([14, 13]), "layer L1_22_5 does not continue the layer before it"),
        ("synthesis.L1_22_5.padding", [1, 2, 3], "the padding of layer L1_22_5 must be 4 numbers in .*, got 1, 2, 3"),
        ("synthesis.L1_22_5.padding", [0.5, 2, 3, 4], "sizes that are not whole numbers"),
        ("synthesis.input.bandwidth", 9.0, r"the bandwidth of the input must be a number in \[0, 4.0\], got"),
        (
            "synthesis.layer_names",
            ["L0_14_6", "L1_22_5"],
            "the last layer must write images with 1, 3 or 4 channels, got 5",
        ),
    ):
        original = Original3()
        original.options[name] = value
        if value is None:
            del original.options[name]
        with pytest.raises(ValueError, match=rf"^{re.escape(str(tmp_path / 'a.pkl'))} cannot be used: .*{message}"):
            converted(tmp_path, original)


def test_files_with_another_layout_are_refused(tmp_path: Path):
    converted(tmp_path, Original3())
    path = tmp_path / "a.safetensors"
    tensors, header = read_tensors(path, FORMAT)
    good = header["layout"]
    first, *rest = good["layers"]
    for layout, message in (
        (None, "the layout of its layers is damaged"),
        ({**good, "layers": 3}, "the layout of its layers is damaged"),
        ({**good, "layers": []}, "a network must have layers with unique names"),
        ({**good, "layers": [first, first, *rest]}, "a network must have layers with unique names"),
        ({**good, "size": [12]}, r"the size of the input must be 2 numbers in \[1, 16384\], got"),
        ({**good, "size": [12, 1 << 40]}, "the size of the input must be 2"),
        ({**good, "sampling_rate": "a"}, "the sampling rate of the input must be a number"),
        ({**good, "layers": [{**first, "up": 10**9}, *rest]}, "the factors of layer L0_14_6 must be 2"),
        ({**good, "layers": [{**first, "padding": [0, 0, 0]}, *rest]}, "the padding of layer L0_14_6 must be 4"),
        ({**good, "layers": [{**first, "padding": [-99, 0, 0, 0]}, *rest]}, "layer L0_14_6 gives tensors of 9 x -"),
        ({**good, "layers": [{**first, "name": "a.b"}, *rest]}, "the name of a layer must be"),
        ({**good, "layers": [{**first, "clamp": float("nan")}, *rest]}, "the clamp of layer L0_14_6 must be"),
        ({**good, "layers": [{**first, "extra": 1}, *rest]}, "the layout of its layers is damaged"),
        ({**good, "layers": rest}, "tensor synthesis.L0_14_6.* does not fit this network"),
    ):
        write_tensors(path, FORMAT, tensors, **{**header, "layout": layout})
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: ({message})"):
            load(path)
    assert Layout.from_json(good).bandwidth == BANDWIDTH


def test_layers_that_do_not_follow_each_other_are_refused():
    resampling = Resampling("L0_4_2", 1, 1, (0, 0, 0, 0), None)
    tensors = {
        "synthesis.input.freqs": torch.ones(3, 2),
        "synthesis.input.affine.weight": torch.ones(4, W),
        "synthesis.L0_4_2.weight": torch.ones(2, 4, 1, 1),
        "synthesis.L0_4_2.affine.weight": torch.ones(4, W),
    }
    with pytest.raises(ValueError, match="layer L0_4_2 must read 3 channels, got 4"):
        Synthesis(tensors, Layout((4, 4), 8.0, 2.0, 1.0, (resampling,)))
    tensors["synthesis.input.freqs"] = torch.ones(4, 2)
    with pytest.raises(ValueError, match="the last layer must write images with 1, 3 or 4 channels, got 2"):
        Synthesis(tensors, Layout((4, 4), 8.0, 2.0, 1.0, (resampling,)))
    with pytest.raises(ValueError, match="tensor synthesis.L0_4_2.up_filter must have 2 dimensions, got nothing"):
        Layer(tensors, Resampling("L0_4_2", 2, 1, (0, 0, 0, 0), None), (4, 4), is_last=True)
