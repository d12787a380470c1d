# SPDX-License-Identifier: Apache-2.0
"""Native synthesis of MobileStyleGAN against the network, on a miniature with random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stylefast.generators import mobile_stylegan, mobile_stylegan_native
from stylefast.generators.mobile_stylegan import Z_DIM
from stylefast.generators.mobile_stylegan_native import native_synthesis

WIDTHS = (24, 20, 8, 16)  # channels after conv1 and after each block


def random_constants() -> dict[str, np.ndarray]:
    """Constants of a synthesis graph in the order and with the names that `MobileStyleGAN` expects."""
    rng = np.random.RandomState(0)
    arrays: dict[str, np.ndarray] = {}

    def add(name: str, *shape: int) -> None:
        arrays[name] = rng.randn(*shape).astype(np.float32)

    def modulation(prefix: str, c: int) -> None:
        arrays[f"{prefix}.modulation.weight"] = (rng.randn(c, Z_DIM) / Z_DIM**0.5).astype(np.float32)
        add(f"{prefix}.modulation.bias", c)
        arrays[f"{prefix} gain"] = np.array([0.5], np.float32)

    def conv(prefix: str, c: int, d: int, side: int, *, separable: bool = True) -> None:
        modulation(f"{prefix}.conv", c)
        if separable:
            add(f"{prefix}.conv.weight_dw", c, 1, 1, 3, 3)
        arrays[f"{prefix} weight"] = (rng.randn(d, c, *((1, 1) if separable else (3, 3))) / c**0.5).astype(np.float32)
        add(f"{prefix} noise", 1, 1, side, side)
        add(f"{prefix}.bias", 1, d, 1, 1)

    add("m.input.input", 1, WIDTHS[0], 4, 4)
    conv("m.conv1", WIDTHS[0], WIDTHS[0], 4, separable=False)
    for i, (c, d) in enumerate(zip(WIDTHS, WIDTHS[1:], strict=False)):
        modulation(f"m.layers.{i}.up", c)
        conv(f"m.layers.{i}.conv1", c // 4, d, 8 << i)
        conv(f"m.layers.{i}.conv2", d, d, 8 << i)
    last = f"m.layers.{len(WIDTHS) - 2}.to_img"
    modulation(f"{last}.conv", WIDTHS[-1])
    add(f"{last}.conv.weight", 12, WIDTHS[-1], 1, 1)
    add(f"{last}.bias", 1, 12, 1, 1)
    return arrays


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(mobile_stylegan, "N_BLOCKS", len(WIDTHS) - 1)
    eye = np.eye(Z_DIM, dtype=np.float32) * np.float32(0.7)
    mapping = {f"{i}": eye if i % 2 == 0 else np.zeros(Z_DIM, np.float32) for i in range(16)}
    return mobile_stylegan.mobile_stylegan(mapping, random_constants())


@pytest.mark.parametrize("rows", [6, 7, 20, 32, 100])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_images_are_those_of_the_network(generator: Any, monkeypatch: pytest.MonkeyPatch, blocks: int, rows: int):
    monkeypatch.setattr(mobile_stylegan_native, "STRIP_BLOCKS", blocks)
    monkeypatch.setattr(mobile_stylegan_native, "STRIP_ROWS", rows)
    w = generator.latents([0, 1, 2])
    expected = generator.network.synthesis(w)
    assert expected.shape == (3, 3, 64, 64) and expected.std() > 0.1
    got = native_synthesis(generator.network.synthesis)(generator.styles(w), w)
    assert got.is_contiguous() and (got - expected).abs().max() < 1e-5 * expected.abs().max()


def test_images_follow_the_styles_and_not_w(generator: Any):
    w = generator.latents([0, 1])
    got = native_synthesis(generator.network.synthesis)(generator.styles(w), w[:1])
    assert (got - generator.network.synthesis(w)).abs().max() < 1e-5 * got.abs().max()


def test_an_empty_batch_gives_no_images(generator: Any):
    w = generator.latents([])
    assert native_synthesis(generator.network.synthesis)(generator.styles(w), w).shape == (0, 3, 64, 64)


def test_the_network_is_unchanged(generator: Any):
    before = {name: tensor.clone() for name, tensor in generator.network.state_dict().items()}
    w = generator.latents([0])
    native_synthesis(generator.network.synthesis)(generator.styles(w), w)
    after = generator.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
