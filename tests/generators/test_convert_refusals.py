# SPDX-License-Identifier: Apache-2.0
"""Files that the converter refuses: no StyleGAN2, an unknown variant, missing or unexpected tensors."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import nvlabs_classes, write
from originals import Original

from stylefast.generators.convert import convert


def assert_refused(path: Path, message: str) -> None:
    target = path.with_name("target.safetensors")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: {message}"):
        convert(path, target)
    assert not target.exists()


@pytest.mark.parametrize(
    "checkpoint, message",
    [
        ({"GAN": {"GE.to_initial_block.weight": torch.ones(2)}}, "it has attention or no constant input"),
        (
            {"state_dict": {"encoder.a": torch.ones(2), "encoder.b": torch.ones(2)}},
            "it holds no .* tensors are encoder.a, encoder.b",
        ),
        ({"g_ema": {}}, "it holds no supported StyleGAN2"),
        ({"g_ema": {"synthesis.input.freqs": torch.ones(2, 2)}}, "it holds the tensors of a StyleGAN3 without its sam"),
        (
            {"models": {"generator_smooth": {"synthesis.layer0.conv.style.weight": torch.ones(2)}}},
            "it holds a StyleGAN3 of Hammer, which",
        ),
        ([1, 2], "it holds list, not a checkpoint"),
        (torch.ones(3), "it holds Tensor, not a checkpoint"),
    ],
)
def test_archives_without_a_known_network_are_refused(checkpoint: Any, message: str, tmp_path: Path):
    path = tmp_path / "a.pt"
    torch.save(checkpoint, path)
    assert_refused(path, message)


@pytest.mark.parametrize(
    "family, name, tensor, message",
    [
        ("rosinality", "convs.1.activate.bias", None, "it lacks 'convs.1.activate.bias'"),
        ("genforce", "synthesis.layer1.style.bias", None, "it lacks 'synthesis.layer1.style.bias'"),
        ("genforce", "mapping.label_weight", torch.ones(3, 7), "it is conditional on a label"),
        ("hammer", "mapping.embedding.weight", torch.ones(3, 7), "it is conditional on a label"),
        (
            "rosinality",
            "to_rgb1.bias",
            torch.ones(1, 4, 1, 1),
            r"tensor synthesis.b4.torgb.bias does not fit this network: expected \[3\], got \[4\]",
        ),
    ],
)
def test_archives_with_other_tensors_are_refused(
    family: str, name: str, tensor: torch.Tensor | None, message: str, tmp_path: Path
):
    path, original = tmp_path / "a.pt", Original(family)
    if tensor is None:
        del original.state[name]
    else:
        original.state[name] = tensor
    write(path, original)
    assert_refused(path, message)


def test_tensors_that_share_a_storage_are_refused(tmp_path: Path):
    path, original = tmp_path / "a.pt", Original("rosinality")
    original.state |= {f"again{i}": torch.zeros(1).expand(1 << 20) for i in range(9)}
    write(path, original)
    assert_refused(path, "its tensors have 377[0-9]* bytes, more than the file")
    original, shared = Original("nvlabs"), torch.zeros(1 << 10)
    original.state |= {f"again{i}.w_avg": shared for i in range(99)}
    write(path, original)
    assert_refused(path, "its tensors have [0-9]* bytes, more than the file")


def test_snapshots_without_a_network_are_refused(tmp_path: Path):
    path = tmp_path / "a.pkl"
    with nvlabs_classes() as (Module, _):
        child = Module("Linear")
        twice = Module("Generator", _modules={"a": child, "b": child})
        other = Module("Generator", _modules={"synthesis": Module("S", _parameters={"w": torch.ones(2)})})
        for snapshot, message in (
            ({"G": None}, "it lacks 'G_ema'"),
            ({"G_ema": {"a": 1}}, "the network must be a pickled module that occurs once, got dict"),
            ([1], "a dictionary was expected, got list"),
            ({"G_ema": twice}, "b. must be a pickled module that occurs once"),
            ({"G_ema": other}, "it holds no StyleGAN2 or StyleGAN3; its first tensors are synthesis.w"),
        ):
            path.write_bytes(pickle.dumps(snapshot))
            assert_refused(path, message)


def test_snapshots_with_other_options_are_refused(tmp_path: Path):
    path, original = tmp_path / "a.pkl", Original("nvlabs")
    del original.options["synthesis.b8.torgb.weight_gain"]
    write(path, original)
    assert_refused(path, "it lacks 'synthesis.b8.torgb.weight_gain'")
    original = Original("nvlabs")
    original.options["synthesis.b8.conv0.activation"] = "relu"
    write(path, original)
    assert_refused(
        path, "its layers have clamps {None} and activations {'.*relu'.*}; one clamp and lrelu are supported"
    )


def test_invalid_paths_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"target must be a \.safetensors file, got .*target\.pt"):
        convert(tmp_path / "a.pkl", tmp_path / "target.pt")
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "absent.pkl", tmp_path / "target.safetensors")
