# SPDX-License-Identifier: Apache-2.0
"""The build: one wheel for any Python, which has no kernels if there is no compiler.

Also the report that `python -m stylefast` prints.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cells import skip_unless
from compilers import fake_compiler, fake_nvcc

import stylefast
from stylefast import backends
from stylefast.backends import BACKENDS
from stylefast.ops import OPS

ROOT = Path(stylefast.__file__).parent.parent
CPU_LIBRARY, CUDA_LIBRARY = (f"stylefast/backends/libstylefast_{name}.so" for name in ("cpu", "cuda"))


def wheel(folder: Path, **environment: str) -> Path:
    """Build a wheel from a copy of the sources without build products."""
    source = folder / "source"
    source.mkdir()
    for name in ("csrc", "stylefast"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for path in (*ROOT.glob("*.md"), *(ROOT / name for name in ("setup.py", "pyproject.toml", "LICENSE"))):
        shutil.copy(path, source)
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    cleaned = {name: value for name, value in os.environ.items() if name not in ("CXX", "PYTHONPATH")}
    process = subprocess.run(
        [sys.executable, "-c", build], cwd=source, env=cleaned | environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout + process.stderr
    (built,) = folder.glob("*.whl")
    return built


def python(*arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), **environment}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_wheel_serves_any_python_and_the_gpus_of_nvcc(tmp_path: Path):
    compilers = {"CXX": str(fake_compiler(tmp_path / "bin")), "CUDACXX": str(fake_nvcc(tmp_path / "bin"))}
    built = wheel(tmp_path, **compilers, STYLEFAST_CUDA="1")
    name, version, *tag = built.stem.split("-")
    assert (name, version, tag[:2]) == ("stylefast", stylefast.__version__, ["py3", "none"])
    assert len(tag) == 3 and tag[2] != "any"
    files = zipfile.ZipFile(built).namelist()
    assert sorted(file for file in files if file.endswith((".so", ".pyd", ".pyc"))) == [CPU_LIBRARY, CUDA_LIBRARY]
    assert not [file for file in files if "cpython" in file or not file.startswith("stylefast")]
    calls = (tmp_path / "bin" / "nvcc.log").read_text().splitlines()
    sources = [word for call in calls for word in call.split() if word.endswith(".cu")]
    assert sorted(sources) == sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc" / "cuda").rglob("*.cu"))
    units = [word for call in calls if "-c" in call.split() for word in call.split() if word.endswith(".o")]
    assert len(set(units)) == len(sources)
    codes = {"compute_80,code=sm_80", "compute_90a,code=sm_90a", "compute_90,code=compute_90"}
    assert all({word[14:] for word in call.split() if word.startswith("-gencode=")} == codes for call in calls)


@pytest.mark.parametrize(
    "listed, supported, options",
    [
        ("", ["sm_80", "sm_90", "sm_100"], ["80 sm", "90a sm", "100 sm", "100 compute"]),
        ("", ["sm_80", "sm_90"], ["80 sm", "90a sm", "90 compute"]),
        ("9.0 10.0f+PTX", [], ["90a sm", "100f sm", "100f compute"]),
        ("7.5 8.0;9.0a+PTX", [], ["80 sm", "90a sm", "90a compute"]),
    ],
)
def test_architectures_are_the_listed_or_supported_ones(
    listed: str, supported: list[str], options: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed)
    gencode = runpy.run_path(str(ROOT / "setup.py"))["architectures"](supported)
    expected = [option.split() for option in options]
    assert gencode == [f"-gencode=arch=compute_{number},code={code}_{number}" for number, code in expected]


@pytest.mark.parametrize("listed", ["Hopper", "8", "7.5"])
def test_wrong_architectures_are_refused(listed: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed)
    with pytest.raises(SystemExit, match="^TORCH_CUDA_ARCH_LIST must "):
        runpy.run_path(str(ROOT / "setup.py"))["architectures"](["sm_80"])


@pytest.fixture
def wants_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., bool]:
    """Function that tells whether setup.py builds CUDA kernels.

    It takes the value of STYLEFAST_CUDA, the CUDA version of torch, and whether nvcc is found.
    """

    def choose(choice: str, cuda: str | None, has_nvcc: bool) -> bool:
        monkeypatch.setattr(torch.version, "cuda", cuda)
        variables = {"STYLEFAST_CUDA": choice, "CXX": str(fake_compiler(tmp_path))}
        variables["CUDACXX"] = str(fake_nvcc(tmp_path)) if has_nvcc else ""
        for name, value in (variables | {"CUDA_HOME": "", "PATH": ""}).items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(str(ROOT / "setup.py"))["wants_cuda"]()

    return choose


@pytest.mark.parametrize(
    "choice, cuda, expected", [("auto", None, False), ("auto", "13.0", True), ("0", "13.0", False), ("1", None, True)]
)
def test_cuda_kernels_are_built_if_requested(
    choice: str, cuda: str | None, expected: bool, wants_cuda: Callable[..., bool]
):  # fmt: skip
    assert wants_cuda(choice, cuda, True) == expected


def test_without_nvcc_cuda_kernels_are_left_out(wants_cuda: Callable[..., bool], capsys: pytest.CaptureFixture[str]):
    assert not wants_cuda("auto", "13.0", False)
    assert "no nvcc found; installing without CUDA kernels" in capsys.readouterr().err


@pytest.mark.parametrize(
    "choice, message",
    [("1", "STYLEFAST_CUDA=1 needs a C\\+\\+ compiler and nvcc"), ("on", "must be auto, 0 or 1, got on")],
)
def test_a_request_that_cannot_be_met_is_refused(choice: str, message: str, wants_cuda: Callable[..., bool]):
    with pytest.raises(SystemExit, match=message):
        wants_cuda(choice, "13.0", False)


def test_without_a_compiler_only_the_reference_can_run(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    built = wheel(tmp_path, PATH=str(tmp_path / "empty"))
    assert not [file for file in zipfile.ZipFile(built).namelist() if file.endswith(".so")]
    site = tmp_path / "site"
    zipfile.ZipFile(built).extractall(site)
    report = python("-m", "stylefast", folder=site).stdout
    assert rows(report)["CPU"] == ["kernels", "none"]
    assert all(rows(report)[op.name][list(BACKENDS).index("cpu")] == "-" for op in OPS)
    assert all(rows(report)[op.name][list(BACKENDS).index("reference")] == "x" for op in OPS)
    assert "\nbackend 'cpu' was not built" in report


def rows(report: str) -> dict[str, list[str]]:
    """Map the first word of each line to its other words."""
    return {words[0]: words[1:] for line in report.splitlines() if (words := line.split())}


def test_the_report_shows_versions_and_usable_backends():
    """The variable is empty, which counts as unset."""
    report = rows(python("-m", "stylefast", STYLEFAST_ISA="").stdout)
    assert report["stylefast"] == [stylefast.__version__]
    assert report["torch"] == [torch.__version__]
    assert report["CPU"] == ["kernels", backends.native.instruction_set() or "none"]
    for op in OPS:
        assert report[op.name] == ["x" if reason is None else "-" for reason in backends.available().values()]


@pytest.mark.parametrize("backend", [pytest.param("cpu", marks=skip_unless("cpu"))])
def test_an_unknown_instruction_set_is_refused_by_name(backend: str):
    process = python("-m", "stylefast", STYLEFAST_ISA="AVX2")
    assert process.returncode != 0
    assert process.stderr == "stylefast: STYLEFAST_ISA must be one of avx512 avx2 portable, got AVX2\n"
