# SPDX-License-Identifier: Apache-2.0
"""Private names of torch: they exist in the installed torch, and only one module uses them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from stylefast.core import private_torch

PACKAGE = Path(private_torch.__file__).parents[1]
HOME = "core/private_torch.py"
ON_OBJECTS = ("_modules", "_parameters", "_buffers", "_call_impl", "_compiled_call_impl", "_dynamo_marked_constant")


def exists(name: str) -> bool:
    """Whether a name such as `torch.a.b` exists."""
    value = torch
    for part in name.split(".")[1:]:
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True


def private_names(source: str) -> set[str]:
    """Dotted names, used or imported: private names of `torch`, and names that end in one of `ON_OBJECTS`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if re.match(r"torch\.(\w+\.)*_[^_]", name) or name.split(".")[-1] in ON_OBJECTS}


@pytest.mark.parametrize("name", private_torch.NAMES)
def test_the_installed_torch_has_the_private_name(name: str):
    assert exists(name), f"{name} is gone from torch {torch.__version__}"


def test_a_missing_name_is_noticed():
    assert exists("torch.nn.Module") and not exists("torch._C._no_such_name") and not exists("torch._none.x")


@pytest.mark.parametrize(
    "source",
    [
        "torch._C.f()",
        "import torch._x as y",
        "from torch.utils import _pytree",
        "from torch._a.b import c",
        "x._modules",
    ],
)
def test_private_names_are_found(source: str):
    assert private_names(source)
    assert not private_names("import torch; torch.__version__; torch.nn.functional.relu; self._private")


def test_one_module_uses_private_names():
    used = {path.relative_to(PACKAGE).as_posix(): private_names(path.read_text()) for path in PACKAGE.rglob("*.py")}
    listed = {name for name in private_torch.NAMES if name.startswith("torch._")}
    assert used.pop(HOME) >= listed  # the search finds all listed names
    assert {path: names for path, names in used.items() if names} == {}


def test_constants_are_marked_as_the_compiler_marks_them():
    theirs, ours = (mark(lambda: None) for mark in (torch.compiler.assume_constant_result, lambda f: f))
    private_torch.assume_constant_result(ours)
    assert vars(ours) == vars(theirs) != {}


def test_compiled_modules_are_recognised():
    plain, wrapped, in_place = nn.Linear(1, 1), torch.compile(nn.Linear(1, 1)), nn.Linear(1, 1)
    in_place.compile()
    assert [private_torch.is_compiled(module) for module in (plain, wrapped, in_place)] == [False, True, True]
