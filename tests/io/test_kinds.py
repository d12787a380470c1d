# SPDX-License-Identifier: Apache-2.0
"""Foreign files are named for what they are, with what to do, by every reader."""

from __future__ import annotations

import gzip
import io
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from catalogs import built
from checkpoint_files import write
from networks import shared
from originals import Original
from PIL import Image
from safetensors.torch import save_file

from stylefast import Catalog, generators
from stylefast.catalog import read_clusters
from stylefast.editing import StoredLatents
from stylefast.generators.convert import convert
from stylefast.io.kinds import sniff

READERS: dict[str, Callable[[Path], Any]] = {
    "latents": lambda path: StoredLatents.load(path, shared("sg2")),
    "catalog": Catalog.load,
    "network": generators.load,
    "checkpoint": lambda path: convert(path, path.with_name("target.safetensors")),
    "clusters": read_clusters,
}
SUFFIXES = {
    "latents": (".npz", ".npy", ".pt", ".pkl", ".safetensors"),
    "catalog": (".safetensors", ".pkl"),
    "network": (".safetensors", ".pkl", ".pt"),
    "checkpoint": (".pkl", ".pt"),
    "clusters": (".pkl",),
}


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"a")
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return file.getvalue()


def image(name: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, name)
    return file.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 381646371\n"
FOREIGN: dict[str, tuple[bytes, str]] = {
    "page": (b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded", "a web page, not .*; .*download it"),
    "page without a type": (b"\n <HTML lang='en'>", "a web page"),
    "page with a mark": (b"\xef\xbb\xbf<!doctype HTML>", "a web page"),
    "page with comments": (b"<!-- saved --><!-- by --> <title>Sign in", "a web page"),
    "xhtml page": (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC', "a web page"),
    "error of a store": (b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied', "an XML page"),
    "pointer": (LFS, "a Git LFS pointer, not .*; .*`git lfs pull`"),
    "gzip": (gzip.compress(b"a" * 99), "a gzip archive, not .*; unpack it"),
    "bzip2": (b"BZh91AY&SY" + bytes(9), "a bzip2 archive"),
    "xz": (b"\xfd7zXZ\x00\x00", "an xz archive"),
    "zstd": (b"\x28\xb5\x2f\xfd\x00", "a zstd archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c\x00", "a 7z archive"),
    "rar": (b"Rar!\x1a\x07\x00", "a rar archive"),
    "tar": (tarred(), "a tar archive"),
    "zip of images": (zipped("a/1.png", "a/2.png", "a/3.png"), r"a zip archive with a/1\.png, a/2\.png, \.\.\., not"),
    "empty zip": (zipped(), "a zip archive with nothing, not .*; unpack it"),
    "cut zip": (zipped("a.npy")[:20], "a zip archive that is cut off or damaged"),
    "Chainer weights": (zipped("mapping/l/0/c/W.npy", "mapping/l/0/c/b.npy"), "a file of Chainer weights"),
    "Keras model": (zipped("config.json", "model.weights.h5"), "a Keras model"),
    "TorchScript": (zipped("a/data.pkl", "a/constants.pkl", "a/code/b.py"), "a TorchScript program"),
    "HDF5": (b"\x89HDF\r\n\x1a\n\x00", "an HDF5 file of Keras or h5py, not .*; load it with h5py"),
    "ONNX": (b"\x08\x07\x12\x07pytorch\x1a\x051.7.1", "an ONNX graph"),
    "TensorFlow index": (bytes(40) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "a file of a TensorFlow checkpoint"),
    "TensorFlow list": (b'model_checkpoint_path: "model.ckpt-1"', "a TensorFlow checkpoint"),
    "png": (image("PNG"), "an image, not .*; a projector or encoder"),
    "jpeg": (image("JPEG"), "an image"),
    "webp": (image("WEBP"), "an image"),
    "mp4": (b"\x00\x00\x00\x20ftypisom", "a video"),
    "pdf": (b"%PDF-1.7", "a PDF document"),
    "empty": (b"", "an empty file, not .*; copy or download it again"),
    "zeros": (bytes(5000), "a file of zeros"),
    "words": (b"See the README for the weights.\n", "a text file"),
    "json": (b'{"error": "Not found"}', "a JSON file"),
    "json list": (b"[[0.1, 0.2], [0.3, 0.4]]", "a JSON file"),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_named_by_every_reader(kind: str, reader: str, tmp_path: Path):
    content, message = FOREIGN[kind]
    for suffix in SUFFIXES[reader]:
        path = tmp_path / f"file{suffix}"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: .*({message})"):
            READERS[reader](path)
        assert len(list(tmp_path.iterdir())) == 1
        path.unlink()


@pytest.mark.parametrize(
    "name", ["model.ckpt-9.index", "model.ckpt-9.meta", "model.ckpt-9.data-00000-of-00001", "a.pb"]
)
def test_files_of_tensorflow_are_named_by_their_names(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(b"\x0a\x09" * 50)
    for reader in ("latents", "network", "checkpoint"):
        with pytest.raises(ValueError, match="a file of a TensorFlow checkpoint, not .*only StyleGAN pickles"):
            READERS[reader](tmp_path / name)


def own(directory: Path) -> dict[str, Path]:
    """Write one file of every kind that some reader reads."""
    names = ("catalog.safetensors", "network.safetensors", "w.npz", "w.npy", "w.pt", "w.pkl", "ffhq.pt", "ffhq.pkl")
    paths = {name: directory / name for name in (*names, "other.safetensors", "state.pkl", "weights.pt")}
    built("sg2").save(paths["catalog.safetensors"])
    w = shared("sg2").latents([1, 2])
    np.savez(paths["w.npz"], w=w.numpy())
    np.save(paths["w.npy"], w.numpy())
    torch.save(w, paths["w.pt"])
    paths["w.pkl"].write_bytes(pickle.dumps({"w": w.numpy()}))
    write(paths["ffhq.pt"], Original("rosinality"))
    write(paths["ffhq.pkl"], Original("nvlabs"))
    convert(paths["ffhq.pt"], paths["network.safetensors"])
    save_file({"a.weight": torch.ones(2), "a.bias": torch.ones(1)}, paths["other.safetensors"])
    paths["state.pkl"].write_bytes(pickle.dumps({"cluster_centers_": np.eye(3)}))
    torch.save({"state_dict": {"a.weight": torch.ones(2)}}, paths["weights.pt"])
    return paths


SWAPPED = [
    ("latents", "catalog.safetensors", "it is a catalog, not latents; give it as the catalog (--catalog)"),
    ("latents", "network.safetensors", "it is a converted network, not latents; give it as the network (--network)"),
    (
        "latents",
        "ffhq.pkl",
        "it is a pickled network of NVlabs, not latents; convert it with `stylefast convert ffhq.pkl",
    ),
    ("latents", "ffhq.pt", "it holds the weights of a network, not latents; convert it with `stylefast convert`"),
    ("latents", "weights.pt", "it holds the weights of a network, not latents"),
    ("latents", "other.safetensors", "it holds the weights of a network, not latents"),
    ("catalog", "network.safetensors", "it is a converted network, not a catalog; give it as the network (--network)"),
    ("catalog", "w.npz", "it is a file of NumPy arrays, not a catalog; `stylefast catalog build` writes catalogs"),
    ("catalog", "w.pt", "it is a file of torch.save, not a catalog"),
    ("catalog", "state.pkl", "a catalog of other tools is given to `stylefast catalog build --centroids`"),
    ("catalog", "other.safetensors", "it is a safetensors file of another program, not a catalog"),
    (
        "network",
        "ffhq.pkl",
        "convert it with `stylefast convert ffhq.pkl ffhq.safetensors`, and give the result as the net",
    ),
    ("network", "ffhq.pt", "convert it with `stylefast convert ffhq.pt ffhq.safetensors`"),
    ("network", "catalog.safetensors", "it is a catalog, not a network; give it as the catalog (--catalog)"),
    ("network", "w.npz", "it is a file of NumPy arrays, not a network; if these are latents, give them as the images"),
    (
        "network",
        "other.safetensors",
        "it is a safetensors file of another program, not a network; `stylefast convert` wr",
    ),
    ("checkpoint", "network.safetensors", "it needs no conversion: give it as the network (--network)"),
    ("checkpoint", "w.npz", "it is a file of NumPy arrays, not a checkpoint of a network; networks are converted from"),
    ("checkpoint", "catalog.safetensors", "it is a catalog, not a checkpoint of a network"),
    ("clusters", "catalog.safetensors", "it is a catalog, not a pickle with clusters"),
    ("clusters", "ffhq.pkl", "it is a pickled network of NVlabs, not a pickle with clusters"),
]


@pytest.mark.parametrize("reader, name, message", SWAPPED)
def test_files_of_another_reader_are_named(reader: str, name: str, message: str, tmp_path: Path):
    path = own(tmp_path)[name]
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} cannot be used: ')}.*{re.escape(message)}"):
        READERS[reader](path)


def test_kinds_of_files_that_readers_read(tmp_path: Path):
    kinds = {name: kind.name if (kind := sniff(path)) else None for name, path in own(tmp_path).items()}
    assert kinds == {
        "catalog.safetensors": "catalog",
        "network.safetensors": "network",
        "w.npz": "npz",
        "w.npy": "npy",
        "w.pt": "torch",
        "w.pkl": "pickle",
        "ffhq.pt": "torch",
        "ffhq.pkl": "nvlabs",
        "other.safetensors": "safetensors",
        "state.pkl": "pickle",
        "weights.pt": "torch",
    }
    torch.save([1], tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert sniff(tmp_path / "old.pt")[0] == "torch"  # type: ignore[index]
    for protocol in range(6):
        for value in ({"w": np.ones(3)}, [np.ones(2)], np.ones(2), {}, {"a": {"b": 1}}):
            (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol))
            kind = sniff(tmp_path / "a.pkl")
            assert kind is None or kind.name == "pickle", (protocol, value, kind)


def test_an_unknown_network_name_lists_the_names():
    with pytest.raises(ValueError, match="network must be one of random-face, toy:sg1, .* got 'absent.pkl'"):
        generators.load("absent.pkl")
