# SPDX-License-Identifier: Apache-2.0
"""All private names of torch that the package uses.

If a release of torch removes one, tests/core/test_private_torch.py fails and names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

F = TypeVar("F", bound=Callable[..., Any])

NAMES = (
    "torch._C._AutoDispatchBelowAutograd",
    "torch._C._are_functorch_transforms_active",
    "torch._C._dispatch_has_kernel_for_dispatch_key",
    "torch._C._dispatch_keys",
    "torch._C._get_dispatch_mode",
    "torch._C._TorchDispatchModeKey.FAKE",
    "torch._C._TorchDispatchModeKey.FUNCTIONAL",
    "torch._C._TorchDispatchModeKey.PROXY",
    "torch._C.DispatchKey.FuncTorchBatched",
    "torch._C.DispatchKey.FuncTorchGradWrapper",
    "torch._C.DispatchKey.Functionalize",
    "torch._C.DispatchKey.Python",
    "torch._C.DispatchKeySet",
    "torch._C._is_alias_of",
    "torch.autograd.forward_ad._current_level",
    "torch.nn.Module._compiled_call_impl",
)

below_autograd: Callable[[], Any] = torch._C._AutoDispatchBelowAutograd
transforms_are_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
has_kernel: Callable[[str, str], bool] = torch._C._dispatch_has_kernel_for_dispatch_key
is_alias_of: Callable[[Tensor, Tensor], bool] = torch._C._is_alias_of  # type: ignore[attr-defined]  # whether they share a storage
_get_mode: Callable[[Any], Any] = torch._C._get_dispatch_mode
_FAKE, _FUNCTIONAL, _PROXY = (
    torch._C._TorchDispatchModeKey.FAKE,
    torch._C._TorchDispatchModeKey.FUNCTIONAL,
    torch._C._TorchDispatchModeKey.PROXY,
)
# Bits of the dispatch keys of tensors that wrap another tensor.
_WRAPPERS = (
    torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchBatched)
    | torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchGradWrapper)
    | torch._C.DispatchKeySet(torch._C.DispatchKey.Functionalize)
    | torch._C.DispatchKeySet(torch._C.DispatchKey.Python)
).raw_repr()


def assume_constant_result(function: F) -> F:
    """Mark a function as `torch.compiler.assume_constant_result` does, without importing the compiler and Triton."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def has_memory(tensor: Tensor) -> bool:
    """Return whether Python code may read the address and the values of a tensor.

    It may not on the device "meta", in `torch.compile`, `torch.export` and `make_fx`, in `FakeTensorMode`, and where a
    transform of `torch.func` or another class wraps the tensor.
    """
    if torch.compiler.is_compiling() or tensor.is_meta:
        return False
    if torch._C._dispatch_keys(tensor).raw_repr() & _WRAPPERS:
        return False
    return _get_mode(_FAKE) is None and _get_mode(_PROXY) is None and _get_mode(_FUNCTIONAL) is None


def have_tangents(values: Iterable[Any]) -> bool:
    """Return whether `torch.autograd.forward_ad` has given a tensor a tangent, outside a transform of `torch.func`."""
    if forward_ad._current_level < 0 or torch.compiler.is_compiling() or transforms_are_active():
        return False
    return any(isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None for x in values)


def is_compiled(module: torch.nn.Module) -> bool:
    """Return whether `torch.compile` wraps this module or `module.compile()` was called."""
    return "_orig_mod" in module._modules or module._compiled_call_impl is not None
