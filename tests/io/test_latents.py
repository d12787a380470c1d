# SPDX-License-Identifier: Apache-2.0
"""Latents in files of the former version and of other tools, and their broadcast to the shape of a generator."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from stylefast.io.latents import Shapes, broadcast_latents, read_latents

FORMER = Path(__file__).parents[1] / "data" / "former"


def test_former_files_hold_the_same_latents():
    files = [
        read_latents(FORMER / name, Shapes((4, 4), 20)) for name in ("latents.npz", "latents.pt", "styles.safetensors")
    ]
    w = files[0][0]["w"]
    assert w.shape == (6, 4, 4) and w.dtype == torch.float32
    for tensors, names in files:
        torch.testing.assert_close(tensors["w"], w, rtol=0, atol=0)
        assert names is None
    styles = files[2][0]["styles"]
    assert styles.shape == (6, 20) and styles.dtype == torch.float32 and styles.isfinite().all()


def test_latents_by_name_are_rows_with_the_names(tmp_path: Path):
    path = tmp_path / "latents.pkl"
    path.write_bytes(pickle.dumps({"a.png": np.zeros((1, 4), np.float32), "dir/b.jpg": {"w": torch.ones(4)}}))
    tensors, names = read_latents(path, Shapes((4,), 20))
    assert names == ["a", "b"] and tensors["w"].tolist() == [[0] * 4, [1] * 4]


W, W_PLUS = torch.arange(4.0), torch.arange(12.0).view(3, 4)


@pytest.mark.parametrize(
    "w, shape, expected",
    [
        (W, (4,), W[None]),
        (W, (3, 4), W.expand(1, 3, 4)),
        (W_PLUS, (3, 4), W_PLUS[None]),
        (W_PLUS[:2], (3, 4), W_PLUS[:2, None].expand(2, 3, 4)),
        (W_PLUS[:, None], (3, 4), W_PLUS[:, None].expand(3, 3, 4)),
        (W.expand(2, 3, 4), (4,), W.expand(2, 4)),
        (W_PLUS[None], (4,), W_PLUS[None]),  # rows that differ: the generator refuses them
    ],
)
def test_latents_are_broadcast_to_the_generators_shape(w: torch.Tensor, shape: tuple[int, ...], expected: torch.Tensor):
    assert torch.equal(broadcast_latents(w, shape), expected)
