# SPDX-License-Identifier: Apache-2.0
"""Tests of the imports of the benchmarks and test tools.

No imports are circular, neither between modules nor between the package `gpu` and the modules outside of it.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from provenance import ROOT

FOLDERS = tuple(ROOT / name for name in ("benchmarks", "tests/kernels", "tests/support"))  # on the import path


def modules(*folders: Path) -> dict[str, Path]:
    """Return the file of every module, by its name, below folders that are on the import path."""
    files = [(folder, path) for folder in folders for path in folder.rglob("*.py")]
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): path
        for folder, path in files
    }


def imported(name: str, path: Path) -> Iterator[str]:
    """Yield the names that a module imports, also inside functions: modules, packages and their members."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (source, *(f"{source}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))


def graph(*folders: Path) -> dict[str, set[str]]:
    """Return the modules that each module imports. The `__init__` of a package is empty, so it is in no cycle."""
    files = modules(*folders)
    return {name: set(imported(name, path)) & files.keys() - {name} for name, path in files.items()}


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """Return the names along a cycle, or an empty list if there is no cycle."""
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def packages(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the same graph with one node per package."""
    merged: dict[str, set[str]] = {}
    for name, targets in edges.items():
        top = name.partition(".")[0]
        merged.setdefault(top, set()).update(target.partition(".")[0] for target in targets)
    return {top: targets - {top} for top, targets in merged.items()}


def test_no_circular_import_among_modules():
    edges = graph(*FOLDERS)
    assert "gpu.rehearsal" in edges["gpu.workloads"] and "gpu.workloads" in edges["triton_aot"]
    assert cycle(edges) == []


def test_no_circular_import_between_packages():
    assert cycle(packages(graph(*FOLDERS))) == []


@pytest.mark.parametrize(
    "text", ["import b", "from b import x", "def f():\n    import b", "importlib.import_module('b')"]
)
def test_every_kind_of_circular_import_is_found(text: str, tmp_path: Path):
    (tmp_path / "a.py").write_text(text)
    (tmp_path / "b.py").write_text("import a")
    assert sorted(set(cycle(graph(tmp_path)))) == ["a", "b"]


def test_a_circular_import_through_a_package_is_found(tmp_path: Path):
    (tmp_path / "p").mkdir()
    texts = {"p/x.py": "import a", "p/y.py": "from . import z", "p/z.py": "", "a.py": "from p.y import f"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    edges = graph(tmp_path)
    assert edges["p.y"] == {"p.z"} and cycle(edges) == []
    assert sorted(set(cycle(packages(edges)))) == ["a", "p"]
