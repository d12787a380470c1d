# SPDX-License-Identifier: Apache-2.0
"""The budget of memory of a file: its limit, its messages, and paths that are no regular files."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import shared

from stylefast import Catalog, generators
from stylefast.catalog import read_clusters
from stylefast.editing import StoredLatents
from stylefast.generators.convert import convert
from stylefast.io.budget import VARIABLE, Budget

READERS: dict[str, Callable[[Path], Any]] = {
    "latents": lambda path: StoredLatents.load(path, shared("sg2")),
    "catalog": Catalog.load,
    "network": generators.load,
    "checkpoint": lambda path: convert(path, path.with_name("target.safetensors")),
    "clusters": read_clusters,
}


@pytest.mark.parametrize(
    "text, n_bytes",
    [("1000", 1000), ("2K", 2048), ("1.5 k", 1536), ("3MB", 3 << 20), ("8GiB", 8 << 30), ("", 4 << 30), (" ", 4 << 30)],
)
def test_the_variable_sets_the_limit(text: str, n_bytes: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, text)
    Budget().take(n_bytes)
    with pytest.raises(ValueError, match="more than the limit"):
        Budget().take(n_bytes + 1)


@pytest.mark.parametrize("text", ["much", "-1", "0", "1e9", "nan", "9" * 99, "4 X", "G"])
def test_other_values_of_the_variable_are_refused(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(
        ValueError, match=re.escape(f"{VARIABLE} must be a number of bytes, such as 8000000000 or 8G, got")
    ):
        Budget()


def test_the_message_says_how_to_raise_the_limit(monkeypatch: pytest.MonkeyPatch):
    budget = Budget(1 << 20)
    budget.take(1 << 19)
    with pytest.raises(ValueError) as caught:
        budget.take(3 << 20, "tensor a")
    assert str(caught.value) == (
        "tensor a takes 3 MB of memory (together with the data before it, 3.5 MB), more than the limit of 1 MB; if you "
        "trust the file, set STYLEFAST_MAX_BYTES=4M"
    )
    monkeypatch.setenv(VARIABLE, "4M")
    Budget().take(7 << 19)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".pt", ".pkl", ".safetensors"])
def test_a_higher_limit_lets_a_file_be_read(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    generator, path = shared("sg2"), tmp_path / f"w{suffix}"
    save(path, torch.ones(3, 8, 32))
    monkeypatch.setenv(VARIABLE, "2K")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: .* more than the limit of 2 KB"):
        StoredLatents.load(path, generator)
    assert len(StoredLatents.load(path, generator, max_bytes=1 << 20)) == 3
    monkeypatch.setenv(VARIABLE, "1M")
    assert len(StoredLatents.load(path, generator)) == 3
    with pytest.raises(ValueError, match="max_bytes must be positive, got 0"):
        StoredLatents.load(path, generator, max_bytes=0)


def save(path: Path, w: torch.Tensor) -> None:
    import pickle

    from safetensors.torch import save_file

    if path.suffix == ".npz":
        np.savez_compressed(path, w=w.numpy())
    elif path.suffix == ".npy":
        np.save(path, w.numpy())
    elif path.suffix == ".pt":
        torch.save({"w": w}, path)
    elif path.suffix == ".pkl":
        path.write_bytes(pickle.dumps({"w": w.numpy()}))
    else:
        save_file({"w": w}, path)


@pytest.mark.parametrize("suffix", ["", ".pkl", ".pt", ".safetensors", ".npz", ".whl"])
@pytest.mark.parametrize("reader", READERS)
def test_paths_that_are_no_files_are_refused(reader: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # a socket has a short path
    paths = {"a folder": Path(f"folder{suffix}"), "a pipe": Path(f"pipe{suffix}"), "a device": Path(f"zero{suffix}")}
    paths["a folder"].mkdir()
    os.mkfifo(paths["a pipe"])
    paths["a device"].symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        paths["a socket"] = Path(f"socket{suffix}")
        server.bind(str(paths["a socket"]))
        for kind, path in paths.items():
            if kind == "a folder" and suffix == ".whl" and reader == "network":
                continue  # the folder of an installation
            with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: it is {kind}"):
                READERS[reader](path)
    with (
        pytest.raises(FileNotFoundError)
        if reader != "network" or suffix in (".safetensors", ".whl")
        else pytest.raises(ValueError, match="network must be one of")
    ):
        READERS[reader](Path(f"absent{suffix}"))
    Path(f"empty{suffix}").touch()
    with pytest.raises(ValueError, match=r"empty.* cannot be used: it is an empty file|is not the wheel"):
        READERS[reader](Path(f"empty{suffix}"))
