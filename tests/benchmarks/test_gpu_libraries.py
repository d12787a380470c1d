# SPDX-License-Identifier: Apache-2.0
"""Libraries that are carried to a GPU: kept if they were built from the present sources, for the right devices."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
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


def test_the_build_writes_the_sources_into_the_library():
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


@pytest.mark.parametrize(
    "asked, known, options",
    [
        ("", ["sm_80", "sm_90", "sm_100"], ["80 sm", "90 sm", "100 sm", "100 compute"]),
        ("", ["sm_80", "sm_90"], ["80 sm", "90 sm", "90 compute"]),
        ("7.5 8.0;9.0a+PTX", [], ["80 sm", "90a sm", "90a compute"]),
    ],
)
def test_architectures(asked: str, known: list[str], options: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", asked)
    found = runpy.run_path(str(ROOT / "setup.py"))["architectures"](known)
    expected = [option.split() for option in options]
    assert found == [f"-gencode=arch=compute_{number},code={code}_{number}" for number, code in expected]


@pytest.mark.parametrize("asked", ["Hopper", "8", "7.5"])
def test_wrong_architectures_are_refused(asked: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", asked)
    with pytest.raises(SystemExit, match="^TORCH_CUDA_ARCH_LIST must "):
        runpy.run_path(str(ROOT / "setup.py"))["architectures"](["sm_80"])
