# SPDX-License-Identifier: Apache-2.0
"""The layers of the package: imports point only to lower layers, and no imports are circular."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import stylefast

ROOT = Path(stylefast.__file__).parent
# From top to bottom. A unit may import itself and the units of lower layers.
LAYERS = (
    {"cli"},
    {"app"},
    {"gallery"},
    {"compat", "editing", "figures", "sklearn"},
    {"catalog"},
    {"factorization"},
    {"generators", "kmeans"},
    {"locality", "query", "retrieval"},
    {"ops"},
    {"backends"},
    {"distributed", "io"},
    {"core"},
)
LEVELS = {unit: level for level, layer in enumerate(LAYERS) for unit in layer}


def modules(root: Path) -> dict[str, Path]:
    """Map the names of all modules within the package to their files; `__init__.py` has the name of its folder."""
    paths = {".".join(path.relative_to(root).with_suffix("").parts): path for path in root.rglob("*.py")}
    return {name.removesuffix("__init__").rstrip("."): path for name, path in paths.items()}


def imports(root: Path) -> dict[str, set[str]]:
    """Map every module of a package to the modules that it imports anywhere in its text, functions included."""
    paths, graph = modules(root), {}
    for name, path in paths.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
                bases = [
                    target.removeprefix(f"{root.name}.") for target in targets if target.startswith(f"{root.name}.")
                ]
            elif isinstance(node, ast.ImportFrom):
                base = absolute(node, package, root.name)
                if base is None:
                    continue
                bases = [
                    target if (target := f"{base}.{alias.name}".lstrip(".")) in paths else base for alias in node.names
                ]
            else:
                continue
            graph[name] |= {base for base in bases if base in paths} - {name}
    return graph


def absolute(node: ast.ImportFrom, package: str, root: str) -> str | None:
    """Name of the module that a statement imports from, relative to the package; None for another package."""
    if node.level == 0:
        inside = node.module == root or (node.module or "").startswith(f"{root}.")
        return (node.module or "").removeprefix(root).lstrip(".") if inside else None
    parts = package.split(".") if package else []
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])


def lazy(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Remove the imports of the package's own `__init__` that serve type checkers or run when a name is first used."""
    return {name: targets & {"backends", "ops"} if name == "" else targets for name, targets in graph.items()}


def violations(graph: dict[str, set[str]]) -> list[str]:
    """Imports that do not point to a lower layer."""
    pairs = [(name, target) for name, targets in graph.items() for target in targets if name and target]
    units = [(name, target, name.split(".")[0], target.split(".")[0]) for name, target in pairs]
    return [
        f"{name} imports {target}"
        for name, target, unit, other in units
        if unit != other and unit != "__main__" and LEVELS[unit] >= LEVELS[other]
    ]


def test_every_unit_has_a_layer():
    units = {name.split(".")[0] for name in modules(ROOT)} - {"", "__main__"}
    assert units == set(LEVELS)


def test_imports_point_downwards():
    assert violations(lazy(imports(ROOT))) == []


def test_no_imports_are_circular():
    graph = lazy(imports(ROOT))
    try:
        TopologicalSorter({name: targets - {""} for name, targets in graph.items()}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_few_entries_are_on_the_top_level():
    entries = {path.name for path in ROOT.iterdir()} - {"__pycache__"}
    assert len(entries) <= 20, sorted(entries)


@pytest.mark.parametrize(
    "text, violation",
    [
        ("from ..editing import Job", "kmeans.lloyd imports editing"),
        ("import stylefast.catalog.build", "kmeans.lloyd imports catalog.build"),
        ("def f():\n    from stylefast.cli import app", "kmeans.lloyd imports cli.app"),
        ("if TYPE_CHECKING:\n    from ..generators import Generator", "kmeans.lloyd imports generators"),
        ("from ..core import dtypes", None),
        ("from .data import Points", None),
    ],
)
def test_planted_imports_are_judged(tmp_path: Path, text: str, violation: str | None):
    root = tmp_path / "stylefast"
    files = ["core/dtypes", "kmeans/data", "kmeans/lloyd", "generators/__init__", "catalog/build", "editing/__init__"]
    for name in (*files, "cli/app", "core/__init__", "kmeans/__init__", "catalog/__init__", "cli/__init__"):
        path = root / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if name == "kmeans/lloyd" else "")
    assert violations(lazy(imports(root))) == ([] if violation is None else [violation])


def test_a_planted_circular_import_is_found(tmp_path: Path):
    (tmp_path / "stylefast").mkdir()
    for name, other in (("one", "two"), ("two", "one")):
        (tmp_path / "stylefast" / f"{name}.py").write_text(f"from .{other} import x")
    with pytest.raises(CycleError):
        TopologicalSorter(imports(tmp_path / "stylefast")).prepare()
