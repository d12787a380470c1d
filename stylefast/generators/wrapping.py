# SPDX-License-Identifier: Apache-2.0
"""A generator out of somebody's network: recognised by the names of its modules, never by its code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .code_bases import FAMILIES, Family
from .compiled import refuse_compiled
from .generator import Generator

HOLDERS = ("", "module", "decoder", "generator_ema", "generator")  # where a network may lie within what is given


def wrap(
    module: nn.Module,
    *,
    name: str | None = None,
    label: int | Tensor | None = None,
    w_mean: Tensor | None = None,
    **options: Any,
) -> Generator:
    """Makes a generator of a network of a known code base: NVlabs stylegan2-ada-pytorch and stylegan3, StyleGAN-XL,
    rosinality (also as the decoder of pSp, e4e and HyperStyle), genforce, Hammer, lucidrains, lernapparat, mmagic.

    The network is run by its own code, on its own device, with its fixed noise: nothing is patched or copied, and hooks
    are there only while it runs. Styles are what its style modules give, in its own convention (some code bases leave
    out the one that they add), toRGB's before any gain. Of StyleGAN3 the margin beyond the frame is left out of
    tensors, so that every layer covers the image and labels keep their place when they are resized.

    Args:
        module: the network, or what holds it as decoder, generator_ema, generator or module; set to evaluation mode.
            Not its synthesis alone: z is mapped, too.
        name: what to call it in messages and files; default: the code base's name.
        label: the class of all images, a number or weights [classes], where the network knows classes.
        w_mean: mean of w [D] or [rows, D], for truncation; default: the network's own, else `latent_avg` of what holds
            it, else an estimate from 4,096 latents.
        options: arguments of the network's synthesis, such as `force_fp32=True`.

    Returns:
        The generator; w has shape [N, rows, D].

    Raises:
        TypeError: module is no torch module.
        ValueError: a module tree that belongs to no known code base (the error says which names each has), a module
            that is compiled already, a label that is missing, of no use or out of range.

    Example:
        >>> generator = wrap(G_ema)
        >>> generator.synthesize(generator.styles(generator.latents([0], truncation=0.7)), generator.latents([0]))
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    refuse_compiled(module)
    family, net = _recognise(module)
    if family.children:
        net = nn.ModuleDict({child: net.get_submodule(child) for child in family.children})
    classes = int(getattr(net, family.classes, None) or 0) if family.classes else 0
    device = next(net.parameters()).device
    calls = family.calls(net, _weights(label, classes).to(device), options)
    return Generator(
        net,
        family.rules,
        name=name or family.name,
        z_dim=int(calls.z_dim),
        mapping=calls.mapping,
        synthesis=calls.synthesis,
        w_mean=_rows(w_mean, calls.w_mean, getattr(module, "latent_avg", None), device=device),
        image_range=family.image_range,
        transform_row=family.transform_row,
    )


def _recognise(module: nn.Module) -> tuple[Family, nn.Module]:
    names = {name for name, _ in module.named_modules()}
    for family in FAMILIES:
        for holder in HOLDERS:
            prefix = f"{holder}." if holder else ""
            if all(prefix + name in names for name in family.modules):
                return family, module.get_submodule(holder)
    known = "".join(f"\n  {family.name}: {', '.join(family.modules)}" for family in FAMILIES)
    children = ", ".join(name for name, _ in module.named_children()) or "nothing"
    raise ValueError(
        f"module must be a generator of a known code base, got {type(module).__name__} with {children}; "
        f"looked there and in {', '.join(HOLDERS[1:])} for the modules of{known}"
    )


def _weights(label: int | Tensor | None, classes: int) -> Tensor:
    """The label as weights [1, classes]."""
    if label is None and classes:
        raise ValueError(f"label must be given, because this network knows {classes} classes")
    if label is None:
        return torch.zeros(1, 0)
    if isinstance(label, Tensor):
        if label.shape != (classes,):
            raise ValueError(f"label must be a number or of shape [classes] = [{classes}], got {tuple(label.shape)}")
        return label.float()[None]
    if not 0 <= label < classes:
        raise ValueError(f"label must be in [0, classes) with classes = {classes}, got {label}")
    return nn.functional.one_hot(torch.tensor([label]), classes).float()


def _rows(*means: Tensor | None, device: torch.device) -> Tensor | None:
    """The first mean that there is, [D] or [rows, D]."""
    for mean in means:
        if mean is not None:
            mean = mean.detach().to(device, torch.float32)
            return mean[0] if mean.ndim == 2 and len(mean) == 1 else mean
    return None
