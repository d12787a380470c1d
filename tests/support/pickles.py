# SPDX-License-Identifier: Apache-2.0
"""Handmade pickles, and a guard that ends the test run if one of them executes a command or code."""

from __future__ import annotations

import builtins
import os
import pickle
import subprocess
from typing import Any

import numpy.testing  # noqa: F401  (older versions run lscpu when this module is first imported)
import pytest

STOP = b"."


class Call:
    """Object that is pickled as the call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def dumped(value: Any, protocol: int = 4) -> bytes:
    return pickle.dumps(value, protocol=protocol)


# Opcodes of a string, of a class or function by its name, and of a call.


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()  # SHORT_BINUNICODE


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"  # STACK_GLOBAL


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def forbid_execution(monkeypatch: pytest.MonkeyPatch) -> None:
    """End the test run as soon as a command or code is executed."""

    def fail(*arguments: Any, **options: Any) -> None:
        pytest.exit(f"a command or code was run, with the arguments {arguments}")

    for module, attribute in ((os, "system"), (os, "popen"), (subprocess, "Popen"), (builtins, "eval")):
        monkeypatch.setattr(module, attribute, fail)
