# SPDX-License-Identifier: Apache-2.0
"""All private names of torch that the package uses.

If a release of torch removes one, tests/core/test_private_torch.py fails and names it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])

NAMES = (
    "torch._C._AutoDispatchBelowAutograd",
    "torch._C._are_functorch_transforms_active",
    "torch._C._dispatch_has_kernel_for_dispatch_key",
    "torch.nn.Module._compiled_call_impl",
)

below_autograd: Callable[[], Any] = torch._C._AutoDispatchBelowAutograd
transforms_are_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
has_kernel: Callable[[str, str], bool] = torch._C._dispatch_has_kernel_for_dispatch_key


def assume_constant_result(function: F) -> F:
    """Mark a function as `torch.compiler.assume_constant_result` does, without importing the compiler and Triton."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def is_compiled(module: torch.nn.Module) -> bool:
    """Return whether `torch.compile` wraps this module or `module.compile()` was called."""
    return "_orig_mod" in module._modules or module._compiled_call_impl is not None
