# SPDX-License-Identifier: Apache-2.0
"""Budgets of the source: lines per file and per function, parameters per function, characters per test name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = [path for folder in ("stylefast", "benchmarks", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
NATIVE = [path for path in sorted((ROOT / "csrc").rglob("*.*")) if path.suffix in (".h", ".cpp", ".cu", ".cuh")]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Number of lines of a function without its docstring and decorators."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    docstring = (node.body[0].end_lineno or 0) - node.body[0].lineno + 1 if body is not node.body else 0
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Number of parameters except those that Triton compiles in (`constexpr`)."""
    arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
    return sum(
        argument.annotation is None or "constexpr" not in ast.unparse(argument.annotation) for argument in arguments
    )


def test_the_sources_are_found():
    assert len(PYTHON) > 100 and len(NATIVE) > 30


@pytest.mark.parametrize("path", [*PYTHON, *NATIVE, ROOT / "setup.py"], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_at_most_300_lines(path: Path):
    assert len(path.read_text().splitlines()) <= 300


def test_a_function_has_at_most_60_lines():
    long = [f"{path.relative_to(ROOT)}: {f.name}" for path in PYTHON for f in functions(path) if code_lines(f) > 60]
    assert not long


def test_a_test_name_has_at_most_60_characters():
    tests = (f.name for path in PYTHON if path.name.startswith("test_") for f in functions(path))
    assert not [name for name in tests if name.startswith("test_") and len(name) > 60]


def test_a_function_has_at_most_12_parameters_at_run_time():
    package = (path for path in PYTHON if path.is_relative_to(ROOT / "stylefast"))
    assert not [
        f"{path.relative_to(ROOT)}: {f.name}" for path in package for f in functions(path) if parameters(f) > 12
    ]
