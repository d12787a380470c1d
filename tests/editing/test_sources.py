# SPDX-License-Identifier: Apache-2.0
"""Image sources of seeds, latents and stored styles: names, rows, file formats, and refused input."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import shared
from safetensors.torch import save_file
from torch import Tensor

from stylefast.catalog import LatentBatches
from stylefast.cli import arguments
from stylefast.core.checks import SEEDS
from stylefast.editing import SeedLatents, StoredLatents, sources


def w_of(kind: str, *seeds: int) -> Tensor:
    return shared(kind).latents(seeds)


@pytest.mark.parametrize("kind", ["sg1", "sg2", "sg3"])
def test_images_of_seeds_have_names_latents_and_styles(kind: str):
    generator = shared(kind)
    images = SeedLatents(generator, [7, 3, 12345], truncation=0.5)
    assert len(images) == 3 and [images.name(row) for row in range(3)] == ["seed0007", "seed0003", "seed12345"]
    for row, seed in enumerate((7, 3, 12345)):
        alone = generator.latents([seed], truncation=0.5)
        assert torch.equal(images.w(row), alone) and torch.equal(images.styles(row), generator.styles(alone))
        assert images.row(seed) == images.row(str(seed)) == images.row(f"seed{seed:04}") == row
    assert images.identity != SeedLatents(generator, [7], truncation=0.6).identity


def test_latents_of_seeds_are_computed_once(monkeypatch: pytest.MonkeyPatch):
    generator, calls = shared("sg2"), list[Any]()
    latents = generator.latents
    monkeypatch.setattr(generator, "latents", lambda seeds, **o: calls.append(seeds) or latents(seeds, **o))
    images = SeedLatents(generator, [7, 3])
    for row in (0, 1, 0, 0, 1):
        images.w(row)
    assert calls == [[7], [3]]


def test_evicted_latents_of_seeds_are_computed_again(monkeypatch: pytest.MonkeyPatch):
    generator = shared("sg2")
    expected = [generator.latents([seed]) for seed in (7, 3, 9)]
    monkeypatch.setattr(sources, "CACHE_BYTES", 2 * expected[0].nbytes)
    seeds = SeedLatents(generator, [7, 3, 9])
    for rows in ((0, 1, 2), (2, 0, 1)):
        assert all(torch.equal(seeds.w(row), expected[row]) for row in rows)


def test_latents_of_seeds_may_be_written_to():
    seeds = SeedLatents(shared("sg2"), [7])
    expected = seeds.w(0).clone()
    seeds.w(0).add_(1)
    assert torch.equal(seeds.w(0), expected)


def test_a_source_can_hold_all_seeds():
    images = SeedLatents(shared("sg2"), SEEDS)
    assert len(images) == 2**32 and images.row("seed4294967295") == 2**32 - 1 and images.name(9) == "seed0009"


@pytest.mark.parametrize("name", ["8", 8, "x", "seed", "-1", "7.5", "seed7x", None, True, ""])
def test_unknown_seeds_are_refused(name: Any):
    for seeds in ([7, 3], range(3, 8)):
        if name not in ("8", 8) or 8 not in seeds:
            with pytest.raises(ValueError, match=re.escape(f"there is no image {name!r} among {len(seeds)} seeds")):
                SeedLatents(shared("sg2"), seeds).row(name)


@pytest.mark.parametrize(
    "seeds, message", [([1, 2, 1], "different, got 1, 2, 1"), ([3, -1], "got -1"), ([2**32], "in ")]
)
def test_invalid_seeds_are_refused(seeds: list[int], message: str):
    with pytest.raises(ValueError, match=f"seeds must be .*{message}"):
        SeedLatents(shared("sg2"), seeds)
    with pytest.raises(ValueError, match="seeds must be in"):
        SeedLatents(shared("sg2"), range(5, 2**32 + 1))


def test_stored_rows_give_their_latents_and_styles():
    generator, w = shared("sg2"), w_of("sg2", 1, 2, 3)
    styles = generator.styles(w) + 1
    latents, both, alone = (
        StoredLatents(generator, w),
        StoredLatents(generator, w, styles=styles),
        StoredLatents(generator, styles=styles),
    )
    for row in range(3):
        assert torch.equal(latents.w(row), w[row : row + 1]) and torch.equal(both.w(row), w[row : row + 1])
        assert torch.equal(latents.styles(row), generator.styles(w[row : row + 1]))
        assert torch.equal(both.styles(row), styles[row : row + 1]) and torch.equal(alone.styles(row), both.styles(row))
    with pytest.raises(ValueError, match="latents w of these images must be known"):
        alone.w(0)
    assert len({str(images.identity) for images in (latents, both, alone, StoredLatents(generator, w + 1))}) == 4
    assert latents.identity == StoredLatents(generator, w.clone()).identity


def test_stored_images_are_found_by_name_or_number():
    named = StoredLatents(shared("sg2"), w_of("sg2", 1, 2, 3), names=["my_face", "b c", "2"])
    assert [named.name(row) for row in range(3)] == ["my-face", "b c", "2"]
    rows = {"my_face": 0, "my-face": 0, " b c ": 1, "2": 2, 2: 2, "0": 0, 1: 1}
    assert {name: named.row(name) for name in rows} == rows
    for name in ("3", 3, "-1", "my", "", None, 1.0):
        with pytest.raises(ValueError, match=f"there is no image {re.escape(repr(name))} among 3"):
            named.row(name)
    for names, message in (
        (["a", "b", "a"], "images must have different names, got ['a', 'b', 'a']"),
        (["a_b", "a-b", "c"], "images must have different names"),
        (["a", "../b", "c"], "names of images must be parts of file names, got '../b'"),
        (["a", "", "c"], "names of images must be parts of file names, got ''"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            StoredLatents(shared("sg2"), w_of("sg2", 1, 2, 3), names=names)


def test_invalid_tensors_are_refused():
    generator, w = shared("sg2"), w_of("sg2", 1, 2, 3)
    styles, spoilt = generator.styles(w), w.clone()
    spoilt[1, 2, 3] = torch.nan
    for tensors, message in (
        ((w[:, :, :5], None), r"w must have shape \[N, rows, D\] with rows = 8, D = 32, got \(3, 8, 5\)"),
        ((None, styles[:, :-1]), r"styles must have shape \[N, S\] .* got \(3, "),
        ((w[:2], styles), r"equally many rows, got \[2, 3\] rows"),
        ((None, None), r"images need w, styles or both"),
        ((spoilt, styles), "w must be finite, got NaN or Inf in row 1"),
        ((w, styles / 0), "styles must be finite, got NaN or Inf in row 0"),
    ):
        with pytest.raises(ValueError, match=message):
            StoredLatents(generator, tensors[0], styles=tensors[1])
    with pytest.raises(TypeError, match="w must be float32, .* got torch.int64"):
        StoredLatents(generator, w.long())


WRITERS: dict[str, Callable[[Path, Tensor], Any]] = {
    ".npy": lambda path, w: np.save(path, w.numpy()),
    ".npz": lambda path, w: np.savez(path, w=w.numpy(), z=0),
    "one.npz": lambda path, w: np.savez(path, w.numpy()),
    ".pt": lambda path, w: torch.save(w, path),
    ".safetensors": lambda path, w: save_file({"w": w.contiguous(), "styles": shared("sg2").styles(w) + 1}, path),
}


@pytest.mark.parametrize("name", list(WRITERS))
@pytest.mark.parametrize("plus", [True, False])
def test_latents_load_from_every_file_format(tmp_path: Path, name: str, plus: bool):
    w = w_of("sg2", 1, 2, 3)
    path = tmp_path / (f"my_faces{name}" if name[0] == "." else name)
    if name == ".safetensors":
        WRITERS[name](path, w)
    else:
        WRITERS[name](path, w if plus else w[:, 0])
    images = StoredLatents.load(path, shared("sg2"))
    assert len(images) == 3 and images.name(2) == f"{path.stem.replace('_', '-')}-0002"
    assert torch.equal(torch.cat([images.w(row) for row in range(3)]), w)  # all rows of w are equal
    expected = shared("sg2").styles(w[1:2]) + (name == ".safetensors")
    torch.testing.assert_close(images.styles(1), expected)


def test_latents_without_rows_and_of_other_dtypes_are_loaded(tmp_path: Path):
    w = w_of("sg1", 4, 5)
    np.save(tmp_path / "w.npy", w.double().numpy())
    assert torch.equal(StoredLatents.load(tmp_path / "w.npy", shared("sg1")).w(1), w[1:])
    torch.save(w.half(), tmp_path / "w.pt")
    assert torch.equal(StoredLatents.load(tmp_path / "w.pt", shared("sg1")).w(0), w[:1].half().float())


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".pkl"])
@pytest.mark.parametrize("kind", ["one W", "one of W", "W with a row", "one W+", "one of W+"])
def test_a_single_image_is_loaded_in_w_and_in_w_plus(tmp_path: Path, suffix: str, kind: str):
    generator, w, path = shared("sg2"), w_of("sg2", 3), tmp_path / f"projected_w{suffix}"
    plus = w + torch.linspace(0, 1, 8)[:, None]
    stored = {"one W": w[0, 0], "one of W": w[:, 0], "W with a row": w[:, :1], "one W+": plus[0], "one of W+": plus}[
        kind
    ]
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({"w": stored, "z": None}))
    else:
        WRITERS[suffix](path, stored)
    images = StoredLatents.load(path, generator)
    assert len(images) == 1 and images.name(0) == "projected-w-0000"
    assert torch.equal(images.w(0), plus if "+" in kind else w)


def test_a_generator_without_rows_takes_w_plus_of_equal_rows(tmp_path: Path):
    w = w_of("sg1", 3, 4)
    torch.save(w[:, None].expand(-1, 6, -1), tmp_path / "same.pt")
    assert torch.equal(StoredLatents.load(tmp_path / "same.pt", shared("sg1")).w(1), w[1:])
    torch.save(torch.randn(2, 6, 32), tmp_path / "others.pt")
    with pytest.raises(ValueError, match=r"others\.pt cannot be used: w must have shape \[N, D\]"):
        StoredLatents.load(tmp_path / "others.pt", shared("sg1"))


def test_latents_stored_by_name_keep_their_names(tmp_path: Path):
    generator, w = shared("sg2"), w_of("sg2", 3, 4)
    plus = w + torch.linspace(0, 1, 8)[:, None]
    arrays = {"faces/ann.jpg": plus[0].numpy(), "faces/bob.v2.png": plus[1:].numpy()}
    np.save(tmp_path / "latents.npy", np.array(arrays, object), allow_pickle=True)
    torch.save(
        {"ann.png": {"latent": plus[0], "noise": [torch.ones(1)]}, "bob.v2": {"latent": plus[1]}}, tmp_path / "a.pt"
    )
    np.savez(tmp_path / "b.npz", **{"ann": plus[0].numpy(), "bob.v2.x": plus[1].numpy()})
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({"ann": plus[0], "bob.v2.x": plus[1].numpy()}))
    (tmp_path / "d.pkl").write_bytes(pickle.dumps({"latents": [plus[0], plus[1]]}))
    for path in sorted(tmp_path.iterdir()):
        images = StoredLatents.load(path, generator)
        assert torch.equal(torch.cat([images.w(row) for row in range(2)]), plus)
        if path.name in ("latents.npy", "b.npz", "c.pkl"):
            assert [images.name(row) for row in range(2)] == ["ann", "bob.v2"] and images.row("bob.v2") == 1
    torch.save({"ann": w[0, 0], "bob": w[1, 0]}, tmp_path / "in_w.pt")
    assert torch.equal(StoredLatents.load(tmp_path / "in_w.pt", generator).w(1), w[1:])


def test_several_files_make_one_source(tmp_path: Path):
    generator, w = shared("sg2"), w_of("sg2", 3, 4, 5)
    paths = [tmp_path / "ann" / "projected_w.npz", tmp_path / "bob" / "projected_w.npz"]
    for path, own in zip(paths, (w[:1], w[1:]), strict=True):
        path.parent.mkdir()
        np.savez(path, w=own.numpy())
    images = StoredLatents.load(paths, generator)
    assert [images.name(row) for row in range(3)] == [
        f"{x}-projected-w-000{i}" for x, i in (("ann", 0), ("bob", 0), ("bob", 1))
    ]
    assert torch.equal(torch.cat([images.w(row) for row in range(3)]), w)
    listed = arguments.images("--seeds", ", ".join(map(str, paths)), generator, 1.0)
    assert len(listed) == 3 and torch.equal(listed.w(2), w[2:])
    with pytest.raises(ValueError, match=r"images must have different names"):
        StoredLatents.load([paths[0], paths[0]], generator)
    with pytest.raises(FileNotFoundError):
        arguments.images("--seeds", f"{paths[0]},absent.npz", generator, 1.0)


class Hostile:
    def __reduce__(self) -> Any:
        return os.mkdir, ("hostile was here",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_unusable_files_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    w = w_of("sg2", 1, 2)
    for name, write in WRITERS.items():
        path = tmp_path / f"whole{name}"
        write(path, w)
        content = path.read_bytes()
        for cut in (0, 7, len(content) // 2, len(content) - 1):
            (tmp_path / f"cut{cut}{name}").write_bytes(content[:cut])
        (tmp_path / f"words{name}").write_bytes(b"no latents, only words" * 9)
        path.unlink()
    np.save("pickled.npy", np.array([{"w": 1}]), allow_pickle=True)
    np.save("nan.npy", np.full((2, 8, 32), np.nan, np.float32))
    np.save("shape.npy", np.ones((2, 7, 32), np.float32))
    np.save("integers.npy", np.ones((2, 8, 32), int).astype("O"), allow_pickle=True)
    np.savez("several.npz", a=w.numpy(), b=w.numpy())
    np.savez("objects.npz", w=np.array([None]))
    torch.save({"a": w, "b": w}, "many_by_name.pt")
    torch.save({"a": w[0], "b": w[0, 0]}, "mixed.pt")
    torch.save({}, "nothing.pt")
    torch.save([], "empty.pt")
    torch.save({"w": "text"}, "text.pt")
    torch.save({"w": w[:, :7]}, "rows.pt")
    Path("hostile.pkl").write_bytes(pickle.dumps({"w": Hostile()}))
    np.save("hostile_object.npy", np.array(Hostile(), object), allow_pickle=True)
    save_file({"a": w, "b": w + 1}, "other.safetensors")
    Path("hostile.pt").write_bytes(pickle.dumps(Hostile()))
    Path("hostile.npy").write_bytes(pickle.dumps(Hostile()))
    torch.save(Hostile(), "object.pt")
    Path("w.bin").write_bytes(b"1234")
    for path in sorted(tmp_path.iterdir()):
        if path.name == "hostile was here":
            raise AssertionError("the code in a file was executed")
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: "):
            StoredLatents.load(path, shared("sg2"))
    assert not Path("hostile was here").exists()
    for missing in ("missing.npy", "missing.npz", "missing.pt", "missing.safetensors"):
        with pytest.raises(FileNotFoundError, match="missing"):
            StoredLatents.load(missing, shared("sg2"))


def test_latents_of_seeds_can_be_read_as_a_stream():
    generator = shared("sg2")
    stream = LatentBatches(generator, range(3, 10), truncation=0.5, size=3)
    for _ in range(2):
        assert [len(batch) for batch in stream] == [3, 3, 1]
        torch.testing.assert_close(torch.cat(list(stream)), generator.latents(range(3, 10), truncation=0.5))
