# SPDX-License-Identifier: Apache-2.0
"""Catalog builds from streams of latents, with shards on disk, resumed after a stop, and shared by processes."""

from __future__ import annotations

import re
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from catalogs import build_catalog
from forked import in_ranks
from networks import shared
from torch import Tensor

from stylefast import Catalog
from stylefast.catalog.build import Build
from stylefast.generators.toy import toy

N, K = 7, 5
FIELDS = ("centroids", "runs", "contributions", "occupancy")


def build(workdir: Path | None = None, generator: Any = None, w: Any = None, **options: Any) -> Catalog:
    generator = generator or shared("sg2")
    w = generator.latents(range(N)) if w is None else w
    defaults: dict[str, Any] = {"n_clusters": K, "n_init": 2, "batch_size": 2, "shard_images": 3}
    return build_catalog(generator, w, workdir=workdir, progress=False, **defaults | options)


def assert_close(one: Catalog, two: Catalog, rtol: float = 1e-5) -> None:
    for name in FIELDS:
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=rtol, atol=rtol / 10, msg=name)
    assert one.provenance["run"] == two.provenance["run"] and one.provenance["images"] == N


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("features", ["raw", "standardized"])
def test_shards_and_streams_give_the_catalog_of_one_tensor(tmp_path: Path, features: str):
    w = shared("sg2").latents(range(N))
    unsharded = build(features=features, shard_images=N)
    for i, latents in enumerate((w, list(w.split(4)), [w.numpy()[j : j + 5] for j in (0, 5)])):
        assert_close(build(tmp_path / str(i), w=latents, features=features), unsharded)
        assert_close(build(w=latents, features=features), unsharded)
    names = [f"{stem}-0000{i}-of-00003.safetensors" for stem in ("activations", "contributions") for i in range(3)]
    assert sorted(files(tmp_path / "0")) == [*names, "kmeans.safetensors"]


@pytest.mark.parametrize("measured", [1, 3, 4, 6])
def test_m_is_measured_on_the_first_images_for_any_shards(tmp_path: Path, measured: int):
    unsharded = build(contribution_images=measured, shard_images=N)
    assert_close(build(tmp_path, contribution_images=measured), unsharded)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_activations_are_stored_in_half_the_bytes(tmp_path: Path, dtype: str):
    halves = build(tmp_path / "halves", dtype=dtype)
    build(tmp_path / "whole")
    sizes = [sum(p.stat().st_size for p in (tmp_path / name).glob("act*")) for name in ("halves", "whole")]
    assert 0.5 < sizes[0] / sizes[1] < 0.52
    assert_close(halves, build(dtype=dtype))  # a build without a workdir rounds in the same way
    cosines = (halves.centroids * build().centroids).sum(1)
    assert cosines.min() > 0.98 and not torch.equal(halves.centroids, build().centroids)


def test_a_dtype_that_cannot_hold_the_activations_is_refused(tmp_path: Path):
    generator = toy("sg2")
    generator.network.get_submodule("convs.3").noise.fill_(1e5)
    message = r"dtype must have a range that contains the activations, up to .* in images 0 to 1, got torch.float16"
    for workdir in (None, tmp_path):
        with pytest.raises(ValueError, match=message):
            build(workdir, generator, dtype="float16")
    assert files(tmp_path) == {}
    build(tmp_path, generator, dtype="bfloat16")


class Stopped(toy("sg2").__class__):
    """Generator that raises KeyboardInterrupt after `after` forward passes."""

    def __init__(self, after: int) -> None:
        self.__dict__ = dict(shared("sg2").__dict__)
        self.left = after

    def visit(self, *arguments: Any, **options: Any) -> Any:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().visit(*arguments, **options)


def test_a_build_stopped_anywhere_resumes_to_the_same_bytes(tmp_path: Path):
    build(tmp_path / "whole").save(tmp_path / "whole" / "catalog.safetensors")
    expected = files(tmp_path / "whole")
    # Numbers of forward passes after which a shard is complete. Both stages have batches of 2, 1, 2, 1 and 1 images.
    ends = [0, 2, 4, 5, 7, 9]
    for after in range(10):
        workdir = tmp_path / str(after)
        with pytest.raises(KeyboardInterrupt):
            build(workdir, Stopped(after))
        before = files(workdir) if workdir.exists() else {}
        resumed = Stopped(10)
        build(workdir, resumed).save(workdir / "catalog.safetensors")
        assert files(workdir) == expected and before.items() <= expected.items()
        assert resumed.left == max(end for end in ends if end <= after)  # complete shards are not computed again
    repeated = Stopped(0)
    build(tmp_path / "whole", repeated)
    assert repeated.left == 0 and files(tmp_path / "whole") == expected


def test_a_build_holds_few_shards_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    alive: list[weakref.ref[Tensor]] = []
    max_alive = 0
    read = Build.read

    def watched(self: Any, shard: int) -> Tensor:
        nonlocal max_alive
        tensor = read(self, shard)
        alive.append(weakref.ref(tensor))
        max_alive = max(max_alive, sum(reference() is not None for reference in alive))
        return tensor

    monkeypatch.setattr(Build, "read", watched)
    build(tmp_path, shard_images=1)
    assert len(alive) > 2 * N and 1 <= max_alive <= 4


@pytest.mark.parametrize("stem", ["activations-00001-of-00003", "contributions-00002-of-00003", "kmeans"])
def test_damaged_and_foreign_shards_are_refused_by_name(tmp_path: Path, stem: str):
    build(tmp_path)
    path = tmp_path / f"{stem}.safetensors"
    intact, expected = path.read_bytes(), files(tmp_path)
    flipped = bytearray(intact)
    flipped[-3] ^= 8
    for damaged in (intact[:-1], intact[:50], b"", bytes(flipped), b"only words", next(iter(expected.values()))[:-9]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be used: "):
            build(tmp_path)
        assert files(tmp_path) == {**expected, path.name: damaged}
    path.unlink()
    build(tmp_path)
    assert files(tmp_path) == expected


@pytest.mark.parametrize(
    "options, message",
    [
        ({"generator": toy("sg2", seed=1)}, "activations-00000-of-00003.*its generator is"),
        ({"layer": "convs.2"}, "activations-00000-of-00003.*its layer is 'torgbs.2', not 'convs.2'"),
        ({"dtype": "float16"}, "activations-00000-of-00003.*its dtype is 'torch.float32', not 'torch.float16'"),
        ({"w": toy("sg2").latents(range(1, N + 1))}, "activations-00000-of-00003.*its w is"),
        ({"seed": 1}, "kmeans.*its seed is 0, not 1"),
        ({"run": 0}, "contributions-00000-of-00003.*its centroids is"),
        ({"contribution_images": 5}, "contributions-00001-of-00003.*its measured is 3, not 2"),
    ],
)
def test_the_files_of_another_build_are_refused(tmp_path: Path, options: dict[str, Any], message: str):
    catalog = build(tmp_path, run=1)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **{"run": 1} | options)
    assert files(tmp_path) == before
    assert torch.equal(build(tmp_path, run=1).contributions, catalog.contributions)


def test_invalid_streams_of_latents_are_refused():
    w = shared("sg2").latents(range(3))
    for latents, error, message in (
        (iter([w]), TypeError, "w must be an array or an iterable of arrays that can be read again"),
        ([], ValueError, "w must hold at least one latent, got none"),
        ([w[:0]], ValueError, "w must hold at least one latent, got none"),
        ([w, w[:, :, :3]], ValueError, "w must have shape"),
    ):
        with pytest.raises(error, match=message):
            build(w=latents)
    with pytest.raises(ValueError, match="shard_images must be an integer >= 1, got 0"):
        build(shard_images=0)


class Lazy:
    """Stream of latents that are computed from seeds whenever it is read."""

    def __iter__(self) -> Iterator[Tensor]:
        return (toy("sg2").latents(range(begin, min(begin + 3, N))) for begin in range(0, N, 3))


def build_part(rank: int, workdir: Path | None, options: dict[str, Any]) -> dict[str, Any]:
    catalog = build(workdir, toy("sg2"), Lazy(), group=dist.group.WORLD, **options)
    return {name: getattr(catalog, name) for name in (*FIELDS, "provenance")}


@pytest.mark.parametrize("size, on_disk", [(2, False), (3, True), (3, False), (5, True)])
def test_ranks_build_the_catalog_of_one_process(tmp_path: Path, size: int, on_disk: bool):
    single = build(contribution_images=5)
    results = in_ranks(size, build_part, tmp_path if on_disk else None, {"contribution_images": 5})
    for result in results:
        for name in FIELDS:
            assert torch.equal(result[name], results[0][name])
            torch.testing.assert_close(result[name], getattr(single, name), rtol=1e-5, atol=1e-6)
    assert results[0]["provenance"]["images"] == N and results[0]["provenance"]["contribution_images"] == 5
    assert len(files(tmp_path)) == (7 if on_disk else 0)


def test_a_build_resumes_with_another_number_of_ranks(tmp_path: Path):
    two = in_ranks(2, build_part, tmp_path, {})
    before = files(tmp_path)
    for name in ("activations-00001-of-00003", "contributions-00000-of-00003", "contributions-00002-of-00003"):
        (tmp_path / f"{name}.safetensors").unlink()
    three = in_ranks(3, build_part, tmp_path, {})
    assert files(tmp_path) == before
    assert torch.equal(two[0]["centroids"], three[2]["centroids"])
    torch.testing.assert_close(two[0]["contributions"], three[2]["contributions"], rtol=1e-6, atol=1e-9)
    shutil.rmtree(tmp_path)
