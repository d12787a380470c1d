# SPDX-License-Identifier: Apache-2.0
"""Tests of prebuilt libraries: a library of the current sources is kept, another one is deleted and built again."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from compilers import fake_compiler, fake_nvcc
from gpu import device, libraries
from provenance import ROOT


def test_a_library_of_other_sources_is_not_current(tmp_path: Path):
    library, setup = tmp_path / "lib.so", runpy.run_path(str(ROOT / "setup.py"))
    current = bytes.fromhex(setup["source_id"](setup["CUDA"]))
    assert not device.is_current("cuda", library)
    library.write_bytes(b"ELF" + current[::-1])
    assert not device.is_current("cuda", library)
    library.write_bytes(b"ELF" + current + b"rest")
    assert device.is_current("cuda", library) and not device.is_current("cpu", library)


def test_the_build_id_of_a_library_is_the_hash_of_its_sources():
    assert device.is_current("cpu", libraries.CPU_LIBRARY)


def test_a_stale_library_is_not_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(device, "available", lambda: {"cuda": None, "triton": None})
    for current in (True, False):
        device.unfit.cache_clear()
        monkeypatch.setattr(device, "is_current", lambda column, library, current=current: current)
        assert device.backends() == (["cuda", "triton"] if current else ["triton"])
    assert "was not built from these sources" in device.missing()[0]
    device.unfit.cache_clear()


@pytest.mark.parametrize("builds", [True, False])
def test_a_stale_library_is_deleted_before_it_is_built(builds: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    files = {column: tmp_path / f"{column}.so" for column in ("cpu", "cuda")}
    for file in files.values():
        file.write_text("old")
    monkeypatch.setattr(libraries, "LIBRARIES", files)
    monkeypatch.setattr(libraries, "start", lambda: None)
    monkeypatch.setattr(libraries, "faults", dict)
    recorded = {}
    monkeypatch.setattr(libraries, "write", lambda kind, **fields: recorded.update(fields))
    monkeypatch.setattr(libraries, "is_current", lambda column, library: column == "cpu")

    def build(columns: Any) -> bool:
        assert list(columns) == ["cuda"] and not files["cuda"].exists() and files["cpu"].exists()
        return builds

    monkeypatch.setattr(libraries, "build", build)
    assert libraries.main() == (0 if builds else 1)
    assert recorded["origin"] == "built" and recorded["faults"] == ({} if builds else {"cuda": "the build failed"})


def test_the_build_compiles_in_place_for_this_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    folder = tmp_path / "stylefast" / "backends"
    folder.mkdir(parents=True)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "stylefast/__init__.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(libraries, "ROOT", tmp_path)
    monkeypatch.setattr(libraries, "cuda", SimpleNamespace(get_device_capability=lambda: (9, 0)))
    monkeypatch.setenv("CXX", str(fake_compiler(tmp_path / "bin")))
    monkeypatch.setenv("CUDACXX", str(fake_nvcc(tmp_path / "bin")))
    assert libraries.build(["cuda"])
    assert [path.name for path in folder.iterdir()] == [libraries.CUDA_LIBRARY.name]
    calls = (tmp_path / "bin" / "nvcc.log").read_text().splitlines()
    assert all("-gencode=arch=compute_90a,code=sm_90a" in call and call.count("-gencode") == 1 for call in calls)
