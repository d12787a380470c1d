# SPDX-License-Identifier: Apache-2.0
"""The package as a whole: lean import, choice of the backend, use without compiled libraries, public names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import stylefast
from stylefast import backends
from stylefast.backends import BACKENDS, Backend, select
from stylefast.ops import LAYERS, OPS

PACKAGE = Path(stylefast.__file__).parent


def python(script: str, folder: Path = PACKAGE.parent) -> str:
    """Run a script in a new interpreter that imports the package from `folder`; return its output."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_import_is_lean_and_public_names_resolve():
    python("""
import sys, torch
before, events = set(sys.modules), []
sys.addaudithook(lambda event, _: events.append(event))
import stylefast
new = set(sys.modules) - before
heavy = ("triton", "matplotlib", "sklearn", "typer", "PIL", "tqdm", "safetensors", "stylefast.catalog", "stylefast.cli")
assert not [name for name in new if name.startswith(heavy)], sorted(new)
started = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "ctypes.dlopen"}
assert not started & set(events), started & set(events)
assert not torch.cuda.is_initialized()

eager = dict(vars(stylefast))
for name in [*stylefast.__all__, "sklearn"]:
    value = eager[name] if name in eager else stylefast.__getattr__(name)  # not bound by an earlier import
    assert value is getattr(stylefast, name), name
    assert value.__name__ in (name, f"stylefast.{name}"), (name, value)
""")


def test_the_reference_works_without_libraries_and_warns_once(tmp_path: Path):
    shutil.copytree(PACKAGE, tmp_path / "stylefast", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    warned, chosen, *reasons = python(
        """
import warnings, torch, stylefast
from stylefast import backends
x, centroids = torch.randn(2, 3, 4, 4), torch.eye(3)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    labels, similarity = stylefast.assign(x, centroids)
    stylefast.contribution(x, labels, 3)
    stylefast.blend(x[0, 0], x[0, 1], x[1, 0])
    stylefast.assign(x, centroids, backend="reference")
    print([f"{w.category.__name__}: {w.message}" for w in caught])
print(backends.select(None, x.device))
print(backends.available()["cpu"])
print(backends.available()["reference"])
for call in (lambda: stylefast.assign(x, centroids, backend="cpu"), lambda: backends.use("cpu").__enter__()):
    try:
        call()
    except RuntimeError as error:
        print(error)
""",
        tmp_path,
    ).splitlines()
    sentence = reasons[0]
    assert "backend 'cpu' was not built" in sentence and "compiler" in sentence
    assert warned == str([f"RuntimeWarning: stylefast runs on its slow 'reference' backend: {sentence}"])
    assert chosen == "reference"
    assert reasons == [sentence, "None", sentence, sentence]


class Trace(TorchDispatchMode):
    """Records the names of the package's ops that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "stylefast":
            self.names.append(func.name())
        return func(*args, **kwargs or {})


def test_public_functions_run_the_op_of_the_backend():
    for op in OPS:
        _, inputs = next(op.samples())
        for name, reason in backends.available().items():
            if reason is None:
                with Trace() as trace:
                    op.public(**inputs, backend=name)
                checks = {"stylefast::in_range"}
                assert [x for x in trace.names if x not in checks] == [f"stylefast::{op.name}_{name}"]


def test_a_backend_without_a_kernel_is_skipped_or_refused():
    cpu = torch.device("cpu")
    assert select(None, cpu, ("triton", "reference")) == "reference"
    assert select("reference", cpu, ("triton", "reference")) == "reference"
    with pytest.raises(RuntimeError, match="backend 'reference' has no kernel of this op, only triton, cuda have one"):
        select("reference", cpu, ("triton", "cuda"))


def test_use_forces_a_backend_until_the_block_ends():
    x, centroids = torch.ones(1, 2, 2, 2), torch.eye(2)
    with Trace() as trace:
        with backends.use("reference"):
            stylefast.assign(x, centroids)
        with pytest.raises(ZeroDivisionError), backends.use("reference"):
            raise ZeroDivisionError
        stylefast.assign(x, centroids)
    assert trace.names == ["stylefast::assign_reference", f"stylefast::assign_{backends.select(None, x.device)}"]


@pytest.fixture
def fake_backends() -> Iterator[None]:
    """Replace the backends by one that is missing, one for another device, and two that run."""
    columns = {
        "missing": Backend("missing", "CPU", ("cpu",), lambda: "backend 'missing' was left at home"),
        "elsewhere": Backend("elsewhere", "CUDA", ("cuda", "xpu"), lambda: None),
        "first": Backend("first", "CPU", ("cpu",), lambda: None),
        "second": Backend("second", "CPU", None, lambda: None),
    }
    saved = dict(BACKENDS)
    BACKENDS.clear()
    BACKENDS.update(columns)
    yield
    BACKENDS.clear()  # so that their order, which selects one, is the same afterwards
    BACKENDS.update(saved)


def test_gpu_tensors_warn_once_if_the_reference_runs(monkeypatch: pytest.MonkeyPatch):
    for name in ("triton", "cuda"):
        missing = Backend(name, "CUDA", ("cuda",), lambda name=name: f"backend '{name}' is missing")
        monkeypatch.setitem(BACKENDS, name, missing)
    backends._warn_once.cache_clear()
    message = "slow 'reference' backend: backend 'triton' is missing; backend 'cuda' is missing$"
    with pytest.warns(RuntimeWarning, match=message):
        assert backends.select(None, torch.device("cuda")) == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.select(None, torch.device("cuda", 1)) == "reference"
        assert backends.select(None, torch.device("mps")) == "reference"


@pytest.mark.usefixtures("fake_backends")
def test_the_first_backend_that_can_run_is_chosen():
    cpu = torch.device("cpu")
    assert backends.available() == {
        "missing": "backend 'missing' was left at home", "elsewhere": None, "first": None, "second": None,
    }  # fmt: skip
    assert backends.select(None, cpu) == "first"
    assert backends.select(None, torch.device("cuda", 1)) == "elsewhere"
    assert backends.select(None, torch.device("mps")) == "second"
    assert backends.select("second", cpu) == "second"
    with pytest.raises(RuntimeError, match="^backend 'missing' was left at home$"):
        backends.select("missing", cpu)
    with pytest.raises(RuntimeError, match="^backend 'elsewhere' works on cuda and xpu tensors, got tensors on cpu$"):
        backends.select("elsewhere", cpu)
    with pytest.raises(ValueError, match="^backend must be one of missing, elsewhere, first, second, got 'abacus'$"):
        backends.select("abacus", cpu)


@pytest.mark.usefixtures("fake_backends")
def test_a_named_backend_wins_over_use_and_use_over_choice():
    cpu, seen = torch.device("cpu"), []
    with backends.use("second"):
        assert backends.select(None, cpu) == "second"
        assert backends.select("first", cpu) == "first"
        with backends.use("first"):
            assert backends.select(None, cpu) == "first"
        assert backends.select(None, cpu) == "second"
        thread = threading.Thread(target=lambda: seen.append(backends.select(None, cpu)))
        thread.start()
        thread.join()
        assert seen == ["first"]  # `use` does not force other threads
        with pytest.raises(RuntimeError, match="left at home"), backends.use("missing"):
            pass
        with pytest.raises(ValueError, match="got 'abacus'"), backends.use("abacus"):
            pass
        assert backends.select(None, cpu) == "second"
    with backends.use("elsewhere"), pytest.raises(RuntimeError, match="works on cuda and xpu tensors"):
        backends.select(None, cpu)
    assert backends.select(None, cpu) == "first"


@pytest.mark.usefixtures("fake_backends")
@pytest.mark.parametrize(
    "name, sentence",
    [
        ("missing", "--require missing: backend 'missing' was left at home"),
        ("abacus", "--require must be one of missing, elsewhere, first, second, browser, got 'abacus'"),
    ],
)
def test_a_required_backend_that_cannot_run_fails_the_session(
    capsys: pytest.CaptureFixture[str], name: str, sentence: str
):
    here = str(Path(__file__).parent)
    options = ["--collect-only", "-p", "no:cacheprovider", "-c", os.devnull, "--require", "first", "--require", name]
    assert pytest.main([*options, here]) == pytest.ExitCode.USAGE_ERROR
    assert sentence in capsys.readouterr().err


def test_public_names_are_frozen():
    assert stylefast.__all__ == [
        "Assignment", "Catalog", "LabelsAndContribution", "LloydStep", "NMF", "SphericalKMeans", "StyleEditor",
        "assign", "assign_contribution", "backends", "blend", "catalog", "compat", "contribution", "distributed",
        "editing", "factorization", "figures", "gallery", "generators", "kmeans", "lloyd_step", "locality", "query",
        "retrieval",
    ]  # fmt: skip
    assert backends.__all__ == ["BACKENDS", "Backend", "available", "use"]
    assert [op.name for op in OPS] == ["lloyd_step", "assign", "contribution", "assign_contribution", "blend"]
    assert all(getattr(stylefast, op.name) is op.public for op in OPS)
    with pytest.raises(AttributeError, match="module 'stylefast' has no attribute 'abacus'"):
        _ = stylefast.abacus


def test_documented_names_are_public():
    texts = [path.read_text() for path in (PACKAGE.parent / "README.md", *(PACKAGE.parent / "docs").rglob("*.md"))]
    documented = {name for text in texts for name in re.findall(r"\bstylefast\.([a-zA-Z_]+)", text)}
    assert documented - {"sklearn"} <= set(stylefast.__all__), documented - set(stylefast.__all__)
    assert len(documented) > 10 and {"sklearn", *stylefast.__all__} <= set(dir(stylefast))


def test_every_op_is_registered_for_its_backends():
    assert all(op.backends == tuple(BACKENDS) for op in OPS)
    assert all({"cpu", "reference"} <= set(op.backends) < set(BACKENDS) for op in LAYERS)
    for op in (*OPS, *LAYERS):
        schemas = {"": op.schema} if op.out_schema is None else {"": op.schema, ".out": op.out_schema}
        assert set(op.cells) == {name + overload for name in op.backends for overload in schemas}
        for name in op.backends:
            for overload, schema in schemas.items():
                assert str(op.cells[name + overload]._schema) == f"stylefast::{op.name}_{name}{overload}{schema}"
