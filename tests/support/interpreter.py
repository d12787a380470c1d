# SPDX-License-Identifier: Apache-2.0
"""Triton's interpreter, without work that it repeats."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def patch_language_once() -> None:
    """Let the interpreter replace the functions of `triton.language` once per module with kernels, and for good.

    It does so at every call of every function, which takes 3 ms, and restores the language after every launch. The
    replacements depend only on the modules that the globals of the function name.
    """
    from triton.runtime import interpreter

    replace, replaced = interpreter._patch_lang, set()

    def once(function: Any) -> SimpleNamespace:
        if function.__module__ not in replaced:
            replace(function)
            replaced.add(function.__module__)
        return SimpleNamespace(restore=lambda: None)

    interpreter._patch_lang = once
