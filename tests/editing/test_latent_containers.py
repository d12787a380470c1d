# SPDX-License-Identifier: Apache-2.0
"""Latents in the containers that projectors, encoders and users write: formats, names, nesting, shapes, byte orders."""

from __future__ import annotations

import argparse
import pickle
import random
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import shared
from safetensors.torch import save_file
from torch import Tensor

from stylefast.editing import StoredLatents
from stylefast.io.latents import KEYS

W = shared("sg2").latents([3, 4])[:, 0].clone()  # [N, D]
PLUS = W[:, None] + torch.linspace(0, 1, 8)[:, None]  # [N, rows, D]


def write_npy(path: Path, content: Any) -> None:
    is_array = isinstance(content, np.ndarray)
    np.save(path, content if is_array else np.array(content, object), allow_pickle=not is_array)


def arrays(content: Any) -> Any:
    """Return the content with NumPy arrays in place of tensors."""
    if isinstance(content, dict):
        return {name: arrays(value) for name, value in content.items()}
    if isinstance(content, list):
        return [arrays(value) for value in content]
    return content.numpy() if isinstance(content, Tensor) else content


FORMATS: dict[str, Callable[[Path, Any], object]] = {
    "a.npy": lambda path, content: write_npy(path, arrays(content)),
    "a.npz": lambda path, content: np.savez(path, **arrays(content)),
    "compressed.npz": lambda path, content: np.savez_compressed(path, **arrays(content)),
    "a.pt": lambda path, content: torch.save(content, path),
    "a.pth": lambda path, content: torch.save(arrays(content), path),
    "old.pt": lambda path, content: torch.save(content, path, _use_new_zipfile_serialization=False),
    "torch.pkl": lambda path, content: torch.save(content, path),
    "a.pkl": lambda path, content: path.write_bytes(pickle.dumps(arrays(content))),
    "tensors.pkl": lambda path, content: path.write_bytes(pickle.dumps(content)),
    "old.pickle": lambda path, content: path.write_bytes(pickle.dumps(arrays(content), 0)),
    "two.pickle": lambda path, content: path.write_bytes(pickle.dumps(arrays(content), 2)),
    "pickle.pt": lambda path, content: path.write_bytes(pickle.dumps(arrays(content))),
    "a.safetensors": lambda path, content: save_file({name: x.contiguous() for name, x in content.items()}, path),
}


def latents(path: Path, kind: str = "sg2") -> Tensor:
    images = StoredLatents.load(path, shared(kind))
    return torch.cat([images.w(row) for row in range(len(images))])


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("file", FORMATS)
def test_all_names_are_known_in_all_formats(file: str, tmp_path: Path):
    for name in (*KEYS, "styles", "style", "W", "Latents", "w_Plus"):
        FORMATS[file](tmp_path / file, {"extra": torch.zeros(3), name: PLUS})
        assert torch.equal(latents(tmp_path / file), PLUS), name


SHAPES: dict[str, tuple[Tensor, Tensor]] = {
    "[D]": (W[0], W[:1, None].expand(1, 8, -1)),
    "[1, D]": (W[:1], W[:1, None].expand(1, 8, -1)),
    "[N, D]": (W, W[:, None].expand(2, 8, -1)),
    "[N, 1, D]": (W[:, None], W[:, None].expand(2, 8, -1)),
    "[1, 1, D]": (W[:1, None], W[:1, None].expand(1, 8, -1)),
    "[rows, D]": (PLUS[0], PLUS[:1]),
    "[1, rows, D]": (PLUS[:1], PLUS[:1]),
    "[N, rows, D]": (PLUS, PLUS),
    "[N, 1, rows, D]": (PLUS[:, None], PLUS),
    "[1, 1, rows, D]": (PLUS[None, :1], PLUS[:1]),
    "[N, 1, 1, D]": (W[:, None, None], W[:, None].expand(2, 8, -1)),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("file", FORMATS)
def test_all_shapes_are_read_from_all_formats(file: str, shape: str, tmp_path: Path):
    stored, expected = SHAPES[shape]
    for name in ("w", "styles"):
        FORMATS[file](tmp_path / file, {name: stored})
        assert torch.equal(latents(tmp_path / file), expected)
    if file not in ("a.npz", "compressed.npz", "a.safetensors"):
        FORMATS[file](tmp_path / file, stored)
        assert torch.equal(latents(tmp_path / file), expected)


NESTED: dict[str, tuple[Any, list[str] | None]] = {
    "list": ([PLUS[0], PLUS[1]], None),
    "list of single images": ([PLUS[:1], PLUS[1:]], None),
    "list under a name": ({"latents": [PLUS[0], PLUS[1]]}, None),
    "by image name": ({"ann.png": PLUS[0], "dir/bob.jpg": PLUS[1]}, ["ann", "bob"]),
    "dictionaries by name": ({"ann.png": {"latent": PLUS[:1], "noise": [W]}, "bob": {"w": PLUS[1]}}, ["ann", "bob"]),
    "by image name under a name": ({"latents": {"ann.png": PLUS[0], "bob.png": PLUS[1]}}, ["ann", "bob"]),
    "by image name under another name": ({"faces": {"ann.png": PLUS[0], "bob.png": PLUS[1]}}, ["ann", "bob"]),
    "name under a name": ({"result": {"w": PLUS, "loss": 0.5}}, None),
    "lists by image name": ({"ann": [PLUS[0]], "bob": [PLUS[1]]}, ["ann", "bob"]),
    "ordered": (OrderedDict(w=PLUS, z=W), None),
    "numbers": (PLUS.tolist(), None),
    "numbers under a name": ({"w": PLUS.tolist()}, None),
    "with options": ({"latents": PLUS, "opts": argparse.Namespace(steps=3), "loss": np.float64(0.5)}, None),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", NESTED)
@pytest.mark.parametrize("file", ["a.npy", "a.pt", "a.pth", "old.pt", "a.pkl", "tensors.pkl"])
def test_nested_containers_are_read(kind: str, file: str, tmp_path: Path):
    content, names = NESTED[kind]
    if kind == "with options" and file not in ("a.pt", "a.pth", "old.pt"):
        content = {name: value for name, value in content.items() if name != "opts"}
    if file == "a.npy" and not isinstance(content, dict):
        content = {"w": content}
    FORMATS[file](tmp_path / file, content)
    assert torch.allclose(latents(tmp_path / file), PLUS)
    images = StoredLatents.load(tmp_path / file, shared("sg2"))
    assert [images.name(row) for row in range(2)] == (names or [f"{Path(file).stem}-000{i}" for i in range(2)])


@pytest.mark.parametrize("dtype", [">f4", "<f8", ">f2"])
@pytest.mark.parametrize("order", ["C", "F", "view", "reversed"])
@pytest.mark.parametrize("file", ["a.npy", "a.npz", "a.pkl", "two.pickle", "a.pth"])
def test_byte_orders_and_layouts_are_read(dtype: str, order: str, file: str, tmp_path: Path):
    values = PLUS.numpy().astype(dtype)
    stored = {
        "C": values,
        "F": np.asfortranarray(values),
        "view": np.repeat(values, 2, axis=1)[:, ::2],
        "reversed": values[::-1].copy()[::-1],
    }[order]
    FORMATS[file](tmp_path / file, {"w": stored} if file != "a.npy" else stored)
    assert torch.equal(latents(tmp_path / file), torch.from_numpy(values.astype(np.float32)))


def test_one_image_by_its_name_is_read(tmp_path: Path):
    for content in ({"ann.png": PLUS[0]}, {"ann.png": PLUS[:1]}, {"ann.png": {"latent": PLUS[:1], "loss": 0.5}}):
        torch.save(content, tmp_path / "a.pt")
        images = StoredLatents.load(tmp_path / "a.pt", shared("sg2"))
        assert len(images) == 1 and images.name(0) == "ann" and torch.equal(images.w(0), PLUS[:1])


def test_styles_are_told_from_latents_by_their_shape(tmp_path: Path):
    generator, path = shared("sg2"), tmp_path / "a.pt"
    styles = generator.styles(PLUS) + 1
    for content, has_w in (
        ({"styles": styles}, False),
        ({"style": styles[0]}, False),
        ({"w": PLUS, "styles": styles}, True),
    ):
        torch.save(content, path)
        images = StoredLatents.load(path, generator)
        assert torch.equal(images.styles(0), styles[:1])
        if has_w:
            assert torch.equal(images.w(1), PLUS[1:])
        else:
            with pytest.raises(ValueError, match="latents w of these images must be known"):
                images.w(0)
    np.savez(tmp_path / "one.npz", styles=styles.numpy())
    assert torch.equal(StoredLatents.load(tmp_path / "one.npz", generator).styles(1), styles[1:])


REFUSED: dict[str, tuple[Any, str]] = {
    "styles of layers": (
        {"styles": [torch.ones(2, 32), torch.ones(2, 24)]},
        "styles must be one array .* got 2 values; if they are the styles of one layer each",
    ),
    "styles of sites": ({"styles": {"convs.0": torch.ones(2, 32)}}, "styles must be one array .* got 1 values"),
    "styles of another network": (
        {"styles": torch.ones(2, 999)},
        r"styles must be latents \[N, 8, 32\] or styles \[N, \d+\] of this generator, got \(2, 999\)",
    ),
    "other styles beside w": ({"w": PLUS, "styles": torch.ones(2, 999)}, "styles must be"),
    "latents z": ({"z": W}, "it holds latents z, not w; the mapping of the network computes w from them"),
    "weights": ({"g_ema": {"a.weight": W}, "latent_avg": W}, "it holds the weights of a network, not latents"),
    "rows of another network": (
        {"w": torch.ones(2, 18, 32)},
        r"w must have shape \[N, rows, D\] with rows = 8, D = 32, got \(2, 18, 32\)",
    ),
    "latents per iteration": (
        {"ann": torch.ones(5, 8, 32), "bob": torch.ones(5, 8, 32)},
        r"the latent of ann must have shape \[D\] or \[rows, D\], got \(5, 8, 32\)",
    ),
    "other names": ({"a": PLUS, "b": 1.5}, "must have shape|must be a tensor"),
    "names of a dictionary": (
        {"ann": {"image": W, "loss": 1.5}, "bob": {"image": W}},
        r"ann must hold a latent under one of the names w, ws, .*, got \['image', 'loss'\]",
    ),
    "complex numbers": ({"w": PLUS.to(torch.complex64)}, "asks for|hold numbers"),
    "text": ({"w": "ann"}, "latents must be a tensor, an array, or a dictionary or list with them, got str"),
    "nothing": ({}, "latents must be under one of the names w, ws, "),
    "lists of other lengths": ([PLUS[0], PLUS[0, :3]], "equal size"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_contents_are_refused_with_a_reason(kind: str, tmp_path: Path):
    content, message = REFUSED[kind]
    for file in ("a.pt", "a.pkl"):
        path = tmp_path / file
        FORMATS[file](path, content)
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: .*({message})"):
            StoredLatents.load(path, shared("sg2"))


@pytest.mark.parametrize("dtype", ["c8", "U3", "M8[s]", "f4,f4", "O"])
@pytest.mark.parametrize("file", ["a.npy", "a.npz", "a.pkl"])
def test_arrays_without_real_numbers_are_refused(dtype: str, file: str, tmp_path: Path):
    path, array = tmp_path / file, np.zeros(3, dtype)
    if file == "a.npy":
        np.save(path, array, allow_pickle=True)
    else:
        FORMATS[file](path, {"w": array})
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: .*(numbers|one dictionary)"):
        StoredLatents.load(path, shared("sg2"))


def test_only_the_named_array_of_a_file_is_read(tmp_path: Path):
    path, generator = tmp_path / "a.npz", shared("sg2")
    np.savez_compressed(path, images=np.zeros((64, 64, 64), np.float32), w=PLUS.numpy())
    assert len(StoredLatents.load(path, generator, max_bytes=1 << 14)) == 2
    save_file({"images": torch.zeros(9), "w": PLUS}, tmp_path / "a.safetensors")
    assert len(StoredLatents.load(tmp_path / "a.safetensors", generator)) == 2


def test_damaged_bytes_of_torch_files_are_found(tmp_path: Path):
    path = tmp_path / "a.pt"
    torch.save({"w": PLUS}, path)
    data = bytearray(path.read_bytes())
    data[data.find(PLUS.numpy().tobytes()) + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="its entry .* does not match its checksum"):
        StoredLatents.load(path, shared("sg2"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("file", FORMATS)
def test_files_with_changes_are_read_or_refused(file: str, tmp_path: Path):
    path, rng = tmp_path / file, random.Random(file)
    FORMATS[file](path, {"w": PLUS, "z": W})
    intact, n_refused = path.read_bytes(), 0
    for _ in range(60):
        data = bytearray(intact)
        for _ in range(rng.randint(1, 3)):
            begin = rng.randrange(min(len(data), rng.choice((40, 400, 1 << 30))))
            kind = rng.randrange(5)
            if kind == 0:
                data[begin] ^= 1 << rng.randrange(8)
            elif kind == 1:
                del data[begin : begin + rng.choice((1, 4, 50))]
            elif kind == 2:
                data[begin:begin] = rng.randbytes(4)
            elif kind == 3:
                del data[begin + 1 :]
            else:
                source = rng.randrange(len(data))
                data[begin : begin + 8] = data[source : source + 8]
        path.write_bytes(data)
        try:
            StoredLatents.load(path, shared("sg2"))
        except ValueError as error:
            assert (
                str(error).startswith(f"{path} cannot be used: ") and len(str(error)) < 1000 and "\n" not in str(error)
            )
            n_refused += 1
    assert n_refused > 10


@pytest.mark.parametrize(
    "header", [b"{'descr'2), }", b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 8, 32), } (", b"1"]
)
def test_damaged_headers_of_arrays_are_refused(header: bytes, tmp_path: Path):
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(99))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: the header of an array is damaged"):
        StoredLatents.load(path, shared("sg2"))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("w.npy", path.read_bytes())
    with pytest.raises(ValueError, match="cannot be used: the header of an array is damaged"):
        StoredLatents.load(tmp_path / "a.npz", shared("sg2"))
