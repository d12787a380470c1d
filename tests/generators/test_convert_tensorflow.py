# SPDX-License-Identifier: Apache-2.0
"""Converted TensorFlow pickles of StyleGAN1 and StyleGAN2 give the images of their networks, and run no code."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from originals import Original, W, normalised
from originals1 import Original1
from tensorflow_files import SOURCE, STYLEGAN2_OPTIONS, variables_of, write_tensorflow

from stylefast.generators import Generator, load
from stylefast.generators.convert import convert

BOX, TENT = torch.ones(2, 2) / 4, torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64


def converted(
    path: Path, variables: dict[str, Any], options: dict[str, Any], label: int | None = None, **record: Any
) -> Generator:
    write_tensorflow(path, variables, options, **record)
    convert(path, path.with_suffix(".safetensors"), label=label)
    return load(path.with_suffix(".safetensors"))


def assert_images(generator: Generator, original: Original | Original1) -> None:
    w = generator.latents([3, 4], truncation=0.5)
    expected = (original.image(w.double()) * 0.5 + 0.5).clamp(0, 1)
    torch.testing.assert_close(generator.synthesize(generator.styles(w), w).double(), expected, rtol=0, atol=1e-5)


def assert_latents(generator: Generator, expected: Any) -> None:
    z = torch.from_numpy(np.stack([np.random.RandomState(seed).randn(generator.z_dim) for seed in (3, 4)]))
    w = generator.latents([3, 4]).double()
    torch.testing.assert_close(w, expected(z)[:, None].expand_as(w), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("clamp", [None, 0.9])
def test_stylegan2_pickles_give_their_images(architecture: str, clamp: float | None, tmp_path: Path):
    original = Original("nvlabs", architecture=architecture, clamp=clamp)
    options = {"architecture": architecture, "conv_clamp": clamp, "resample_kernel": (64 * original.taps).tolist()}
    path, target = tmp_path / "a.pkl", tmp_path / "a.safetensors"
    write_tensorflow(path, variables_of(original), STYLEGAN2_OPTIONS | options)
    header = convert(path, target)
    assert header["format"] == "NVlabs stylegan2, stylegan2-ada (TensorFlow)" and header["network"] == "Gs"
    assert header["architecture"] == architecture and header["clamp"] == clamp and header["resolution"] == 16
    assert header["kwargs"] == STYLEGAN2_OPTIONS | options and header["noise"] is True
    assert_images(load(target), original)
    assert_latents(load(target), original.map)


@pytest.mark.parametrize("kernel, taps", [(None, BOX), ([1, 3, 3, 1], TENT), ("absent", TENT)])
def test_the_filter_of_stylegan2_is_an_option(kernel: Any, taps: torch.Tensor, tmp_path: Path):
    original = Original("nvlabs", architecture="orig")
    original.taps = taps
    options = STYLEGAN2_OPTIONS | ({} if kernel == "absent" else {"resample_kernel": kernel})
    assert_images(converted(tmp_path / "a.pkl", variables_of(original), options), original)


def test_stylegan2_with_progressive_growing_is_converted(tmp_path: Path):
    original = Original("nvlabs", architecture="orig")
    original.taps, options = TENT, STYLEGAN2_OPTIONS | {"synthesis_func": "G_synthesis_stylegan_revised"}
    variables = {name.replace("16x16/ToRGB", "ToRGB_lod0"): x for name, x in variables_of(original).items()}
    variables |= {"synthesis/ToRGB_lod1/weight": np.zeros((1, 1, 8, 3)), "synthesis/lod": np.float32(0)}
    assert_images(converted(tmp_path / "a.pkl", variables, options), original)
    write_tensorflow(tmp_path / "a.pkl", variables | {"lod": np.float32(0.5)}, options)
    assert_refused(tmp_path / "a.pkl", ".*its training has not yet reached its resolution")


def test_a_network_without_noise_is_converted(tmp_path: Path):
    original = Original("nvlabs")
    original.taps = TENT
    for layer in original.layers.values():
        layer.noise = torch.zeros(()) if layer.noise is not None else None
    variables = {name: x for name, x in variables_of(original).items() if "noise" not in name}
    assert_images(converted(tmp_path / "a.pkl", variables, STYLEGAN2_OPTIONS | {"use_noise": False}), original)


def test_classes_of_stylegan2_are_selected(tmp_path: Path):
    original = Original("nvlabs", classes=3)
    original.taps, path = TENT, tmp_path / "a.pkl"
    options = STYLEGAN2_OPTIONS | {"label_size": np.int64(3)}
    generator = converted(path, variables_of(original), options, label=2)
    assert_images(generator, original)
    assert_latents(generator, lambda z: original.map(z, 2))
    # stylegan2 normalises z and the class together, and stylegan2-ada each of them.
    table = torch.randn(3, W)
    variables = {name: x for name, x in variables_of(original).items() if "LabelEmbed" not in name}
    generator = converted(path, variables | {"mapping/LabelConcat/weight": table.numpy()}, options, label=1)

    def mapped(z: torch.Tensor) -> torch.Tensor:
        x = normalised(torch.cat((z, table[1].double().expand(len(z), -1)), dim=1))
        for weight, bias in original.mapping:
            x = torch.nn.functional.leaky_relu(x @ weight.T + bias, 0.2) * 2**0.5
        return x

    assert_images(generator, original)
    assert_latents(generator, mapped)
    for label in (None, 3, -1):
        with pytest.raises(ValueError, match=rf"class must be in \[0, 3\), because .*, got {label}"):
            convert(path, tmp_path / "b.safetensors", label=label)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fused_scale": True},
        {"fused_scale": False, "mapping_lrmul": 0.1},
        {"blur_filter": None},
        {"blur_filter": [1, 2, 4, 2, 3]},
    ],
)
def test_stylegan1_pickles_give_their_images(options: dict[str, Any], tmp_path: Path):
    original = Original1(options=options)
    path, target = tmp_path / "a.pkl", tmp_path / "a.safetensors"
    write_tensorflow(path, original.variables, options, version=3)
    header = convert(path, target)
    assert header["format"] == "NVlabs stylegan (TensorFlow)" and header["architecture"] == "instance norm"
    assert header["resolution"] == 16 and header["noise"] is True and header["kwargs"] == options
    generator = load(target)
    assert_images(generator, original)
    assert_latents(generator, original.map)


def test_stylegan1_fuses_up_sampling_from_128_pixels(tmp_path: Path):
    original = Original1(resolution=128, channels=2)
    assert_images(converted(tmp_path / "a.pkl", original.variables, {}), original)
    variables = {name: x for name, x in original.variables.items() if "oise" not in name}
    original.noise = False
    assert_images(converted(tmp_path / "a.pkl", variables, {}), original)


def test_grey_stylegan1_and_its_copies_give_its_images(tmp_path: Path):
    original = Original1()
    original.variables |= {name: x[..., :1] for name, x in original.variables.items() if "ToRGB" in name}
    generator = converted(tmp_path / "a.pkl", original.variables, {"num_channels": 1})
    assert generator.image_channels == 1
    for same in (generator, copy.deepcopy(generator), pickle.loads(pickle.dumps(generator))):
        assert_images(same, original)


def test_classes_of_stylegan1_are_selected(tmp_path: Path):
    original = Original1(classes=3)
    generator = converted(tmp_path / "a.pkl", original.variables, {"label_size": 3}, label=2)
    assert_images(generator, original)
    assert_latents(generator, lambda z: original.map(z, 2))


def test_the_sites_of_stylegan1_are_normalised(tmp_path: Path):
    generator = converted(tmp_path / "a.pkl", Original1().variables, {})
    names = ["b4.conv0", "b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1"]
    assert [site.name for site in generator.sites] == names
    assert [site.size for site in generator.sites] == [(size, size) for size in (4, 4, 8, 8, 16, 16)]
    assert all(site.normalized and site.channels == 4 and site.kind == "conv" for site in generator.sites)
    w = generator.latents([0, 1])
    styles, tensors = generator.styles(w), generator.activations(w)
    for x in tensors.values():
        torch.testing.assert_close(x, torch.nn.functional.instance_norm(x, eps=1e-8), rtol=1e-4, atol=1e-4)
    affine = generator.network.get_submodule("synthesis.b8.conv0.affine")
    torch.testing.assert_close(styles[:, 8:12], affine(w[:, 2])[:, :4])  # the scale minus one
    changed = generator.synthesize(styles.flip(0), w)
    assert not torch.equal(changed, generator.synthesize(styles, w))


@pytest.mark.parametrize("protocol", range(2, 6))
def test_every_protocol_and_a_network_alone_are_read(protocol: int, tmp_path: Path):
    original = Original1()
    for version, alone in ((2, False), (3, True), (5, False)):
        record = {"protocol": protocol, "alone": alone, "version": version}
        assert_images(converted(tmp_path / "a.pkl", original.variables, {}, **record), original)


def assert_refused(path: Path, message: str) -> None:
    target = path.with_name("target.safetensors")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: {message}"):
        convert(path, target)
    assert not target.exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"nonlinearity": "relu"},
            "it is a TensorFlow pickle .*nonlinearity is 'relu' instead of 'lrelu'; load it",
        ),
        ({"use_pixel_norm": True}, ".*option use_pixel_norm is True"),
        ({"use_styles": False}, ".*option use_styles is False"),
        ({"synthesis_func": "mine.G"}, ".*option synthesis_func is 'mine.G'"),
        ({"mentioned": 2}, ".*option 'mentioned' is unknown; load it in its own code base"),
        ({"mapping_lrmul": float("nan")}, ".*option mapping_lrmul must be a number, got nan"),
        ({"mapping_lrmul": float("inf")}, ".*option mapping_lrmul must be a number, got inf"),
        ({"conv_clamp": [1]}, r".*option conv_clamp must be a number, got \[1\]"),
        ({"resample_kernel": [1, -1]}, r".*option resample_kernel must be a filter, got \[1, -1\]"),
        ({"resample_kernel": [1, 2, 1]}, r"tensor synthesis.filter must be a square with even sides, got \[3, 3\]"),
    ],
)
def test_options_that_are_not_supported_are_refused(options: dict[str, Any], message: str, tmp_path: Path):
    write_tensorflow(tmp_path / "a.pkl", variables_of(Original("nvlabs")), STYLEGAN2_OPTIONS | options)
    assert_refused(tmp_path / "a.pkl", message)


def test_an_option_that_the_source_ignores_is_kept(tmp_path: Path):
    original, path = Original1(), tmp_path / "a.pkl"
    assert_images(converted(path, original.variables, {"other": 2}), original)
    write_tensorflow(path, original.variables, {"other": 2}, source="")
    assert_refused(path, ".*option 'other' is unknown")


@pytest.mark.parametrize(
    "changes, record, message",
    [
        (
            {"synthesis/8x8/Extra/weight": np.ones(2)},
            {},
            ".*it has unknown variables, such as synthesis/8x8/Extra/weight; load",
        ),
        (
            {"synthesis/8x8/Conv1/extra": np.ones(2)},
            {},
            ".*it has unknown variables, such as synthesis/8x8/Conv1/extra; load",
        ),
        ({"synthesis/noise1": None}, {}, "it is a TensorFlow pickle .*it lacks 'synthesis/noise1'; load"),
        (
            {"mapping/Dense0/weight": None},
            {},
            ".*it has unknown variables, such as mapping/Dense0/bias, mapping/Dense1",
        ),
        ({"dlatent_avg": None}, {}, "it is a TensorFlow pickle .*it lacks 'dlatent_avg'; load"),
        ({"synthesis/16x16/Conv1/bias": np.ones(9)}, {}, r"tensor synthesis.b16.conv1..* expected"),
        ({"synthesis/16x16/Conv1/weight": np.ones(9)}, {}, "it is a TensorFlow pickle .*; load"),
        ({}, {"version": 7}, ".*its records have version 7 instead of 2 to 5"),
        ({}, {"version": "4"}, ".*its records have version '4' instead of 2 to 5"),
        ({}, {"components": ("synthesis",)}, ".*its components are 'synthesis' instead of mapping and synthesis"),
        ({}, {"class_name": "tfutil.Network"}, "it is a TensorFlow pickle .* Progressive GAN"),
    ],
)
@pytest.mark.parametrize("kind", [1, 2])
def test_other_networks_are_refused(
    kind: int, changes: dict[str, Any], record: dict[str, Any], message: str, tmp_path: Path
):
    variables = Original1().variables if kind == 1 else variables_of(Original("nvlabs"))
    variables = {name: x for name, x in (variables | changes).items() if x is not None}
    write_tensorflow(tmp_path / "a.pkl", variables, {}, **record)
    assert_refused(tmp_path / "a.pkl", message)


def test_a_discriminator_alone_is_refused(tmp_path: Path):
    variables = {"mapping/a": np.ones(2), "synthesis/4x4/Dense0/weight": np.ones((2, 2)), "lod": np.float32(0)}
    write_tensorflow(tmp_path / "a.pkl", variables, {})
    assert_refused(tmp_path / "a.pkl", ".* its variables are 'synthesis/4x4/Dense0/weight', 'mapping/a'")
    write_tensorflow(tmp_path / "a.pkl", {"4x4/Dense0/weight": np.ones((2, 2))}, {}, components=())
    assert_refused(tmp_path / "a.pkl", "it is a TensorFlow pickle .*its components are none")


@pytest.mark.parametrize(
    "name, shape", [("8x8/Conv0_up", (3, 3, 5, 4)), ("8x8/Conv1", (2, 2, 4, 4)), ("4x4/Conv", (3, 1, 4, 4))]
)
def test_layers_of_stylegan1_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...], tmp_path: Path):
    variables = Original1().variables | {f"synthesis/{name}/weight": np.ones(shape)}
    write_tensorflow(tmp_path / "a.pkl", variables, {})
    kind = "even" if name.endswith("up") else "odd"
    assert_refused(tmp_path / "a.pkl", rf"tensor synthesis.b\d.conv\d.weight must have .*\[O, 4, k, k\] with {kind} k")


def test_widths_that_do_not_fit_are_refused_when_loading(tmp_path: Path):
    variables = Original1().variables | {"mapping/Dense1/weight": np.ones((6, W))}
    path, target = tmp_path / "a.pkl", tmp_path / "a.safetensors"
    write_tensorflow(path, variables, {})
    convert(path, target)
    with pytest.raises(ValueError, match=f"^{re.escape(str(target))} cannot be used: "):
        load(target)


@pytest.mark.parametrize("state", [b"", b"}b", b"K\x01b", b"}(U\x0acomponentsK\x01ub"])
def test_damaged_records_are_refused(state: bytes, tmp_path: Path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02cdnnlib.tflib.network\nNetwork\n)\x81" + state + b".")
    assert_refused(tmp_path / "a.pkl", "it is a TensorFlow pickle that cannot be converted, .*; load it")


def test_the_source_in_a_file_would_end_the_test_run(tmp_path: Path):
    with pytest.raises(pytest.exit.Exception):
        exec(SOURCE, {})


def test_arrays_that_share_their_bytes_are_refused(tmp_path: Path):
    shared = np.zeros(1 << 14, np.float32)
    variables = Original1().variables | {f"mapping/again{i}": shared for i in range(9)}
    write_tensorflow(tmp_path / "a.pkl", variables, {})
    assert_refused(tmp_path / "a.pkl", "it is a TensorFlow pickle .*its variables have more bytes than the file")
