# SPDX-License-Identifier: Apache-2.0
"""Files of BasicSR give the images of their network; files of other relatives of rosinality are refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from originals import Original
from torch import Tensor

from stylefast.generators import load
from stylefast.generators.convert import convert

EVEN = torch.outer(*[torch.tensor([1.0, 3, 3, 1]) / 8] * 2)


def basicsr_name(name: str) -> str:
    """Name in BasicSR of a tensor of rosinality."""
    if name == "input.input":
        return "constant_input.weight"
    parts = name.replace("noise_", "noise").split(".")
    if parts[0] == "style":
        return ".".join(["style_mlp", *parts[1:]])
    if "noise" in parts[1:-1]:
        parts.remove("noise")
    parts = ["modulated_conv" if part == "conv" else part for part in parts]
    return ".".join([f"style_{parts[0]}" if parts[0] in ("conv1", "convs") else parts[0], *parts[1:]])


def basicsr() -> tuple[Original, dict[str, Tensor]]:
    """A network with BasicSR's filter, and its state dict, which does not hold the filter."""
    original = Original("rosinality")
    original.taps = EVEN
    state = {basicsr_name(name): x for name, x in original.state.items() if not name.endswith("kernel")}
    return original, state


def test_names_of_the_state_dict_are_those_of_basicsr():
    names = basicsr()[1].keys()
    layer = ("weight", "activate.bias", "modulated_conv.weight", "modulated_conv.modulation.bias")
    assert {f"{block}.{name}" for block in ("style_conv1", "style_convs.3") for name in layer} <= names
    assert {"style_mlp.1.weight", "constant_input.weight", "to_rgb1.modulated_conv.weight", "to_rgbs.0.bias"} <= names
    assert {f"noises.noise{i}" for i in range(5)} <= names
    assert {name.split(".")[0] for name in names} == {
        *("style_mlp", "constant_input", "noises"),
        *("style_conv1", "style_convs", "to_rgb1", "to_rgbs"),
    }


@pytest.mark.parametrize("key", ["params_ema", "params", None])
def test_files_of_basicsr_give_its_images(key: str | None, tmp_path: Path):
    original, state = basicsr()
    checkpoint = state if key is None else {key: state, "iteration": 3}
    if key == "params_ema":
        checkpoint = {"params": {name: x + 1 for name, x in state.items()}} | checkpoint
    torch.save(checkpoint, tmp_path / "a.pth")
    with pytest.warns(UserWarning, match="StyleGAN2GeneratorBilinear has the same tensors, but .* wrap its") as record:
        header = convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert record[0].filename == __file__
    assert header["format"] == "BasicSR, GFPGAN StyleGAN2" and header["network"] == (key or "")
    generator = load(tmp_path / "a.safetensors")
    w = generator.latents([3, 4], truncation=0.5)
    expected = (original.image(w.double()) * 0.5 + 0.5).clamp(0, 1)
    torch.testing.assert_close(generator.synthesize(generator.styles(w), w).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "names, network",
    [
        (("convs.0.conv.weight", "iwt.ll"), "SWAGAN"),
        (("style.1.weight", "generator.convs.0.conv.weight"), "DualStyleGAN"),
        (("style_conv1.weight", "style_conv1.bias"), "GFPGAN's StyleGAN2GeneratorClean"),
        (("stylegan_decoder.style_conv1.weight", "stylegan_decoder.style_conv1.bias"), "GFPGAN"),
    ],
)
def test_files_of_other_relatives_are_refused_by_name(names: tuple[str, ...], network: str, tmp_path: Path):
    path = tmp_path / "a.pth"
    torch.save({"params_ema": dict.fromkeys(names, torch.ones(2))}, path)
    message = f"{path} cannot be used: it holds a network of {network}, which .*; wrap its module"
    with pytest.raises(ValueError, match=f"^{message.replace(str(path), re.escape(str(path)))}"):
        convert(path, tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()
