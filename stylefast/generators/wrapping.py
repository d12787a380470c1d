# SPDX-License-Identifier: Apache-2.0
"""Wrapping of networks of known code bases. They are recognised by the names of their modules, not by their code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..core.checks import check_shape
from .compiled import refuse_compiled
from .generator import Generator
from .holders import find_network
from .image_checks import RANGE
from .network_function import NetworkFunction
from .precision import network_dtype
from .rule_suggestions import describe_unknown


def wrap(
    module: nn.Module,
    *,
    name: str | None = None,
    label: int | str | Tensor | None = None,
    w_mean: Tensor | None = None,
    image_range: tuple[float, float] | None = None,
    check: bool = True,
    **options: Any,
) -> Generator:
    """Make a generator from a network of a known code base.

    The known code bases are NVlabs stylegan2-ada-pytorch, stylegan3, StyleGAN-T and EG3D, StyleGAN-XL, StyleGAN-Human,
    rosinality (also as the decoder of pSp, e4e and HyperStyle, and SWAGAN), Retrieve in Style, DualStyleGAN, BasicSR,
    GFPGAN, genforce, Hammer, lucidrains, lernapparat and mmagic.

    The network runs its own code, on its own device, with fixed noise. Nothing is patched or copied, and hooks exist
    only while the network runs. Styles are the outputs of the style modules in the convention of the code base: in
    some, a style is the scale minus one. The styles of toRGB are taken before any gain. Tensors of StyleGAN3 are
    cropped to the frame, so that every layer covers the image and labels keep their place when they are resized.

    Args:
        module: The network, or a module that draws its images by it, such as `DataParallel` or pSp, or a container of
            networks. It is set to evaluation mode. The synthesis network is not sufficient, because z must be mapped.
        name: Name of the generator in messages and files. The default is the name of the code base.
        label: What all images are conditioned on, if the network is conditional: a class, as a number or as weights
            [classes]; a text or its embedding (StyleGAN-T); or a camera of 25 numbers (EG3D).
        w_mean: Mean of w for truncation, [D] or [rows, D]. The default is the mean in the network, else `latent_avg` of
            the module that holds it, else an estimate from 4,096 latents.
        image_range: Values of the network's output for black and for white. The default is that of the code base, with
            a warning if the images contradict it.
        check: Whether to make seven images that check the image range, and that styles which are read and put back give
            the network's own images, for one image and for three.
        **options: Arguments of the network's synthesis, such as `force_fp32=True`, `exstyles=code` (DualStyleGAN),
            `conditions=[...]` (decoder of GFPGAN) or `c=view` (EG3D: a camera for the view only).

    Returns:
        The generator; w has shape [N, rows, D].

    Raises:
        TypeError: If `module` is not a torch module.
        ValueError: If the module tree belongs to no known code base (the message suggests rules to describe it), if the
            network is refused by name, if the images of `module` are not those of the network that it holds, if a
            module is already compiled, if the label or an argument that the network needs is missing, unexpected or out
            of range, or if the images are not finite or not the same in every run, or replayed styles do not give the
            network's own images.

    Warns:
        ImageRangeWarning: If the images contradict the assumed image range.
        ReproducibilityWarning: If the images depend on the batch size, or differ by less than half a step of 8 bits
            between two runs.

    Example:
        Generate the image of seed 0 with a network of NVlabs::

            generator = wrap(G_ema)
            w = generator.latents([0], truncation=0.7)
            image = generator.synthesize(generator.styles(w), w)
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    refuse_compiled(module)
    for option, value in options.items():
        if (option == "noise_mode" and value == "random") or (option == "randomize_noise" and value):
            fixed = "'const' or 'none'" if option == "noise_mode" else "False"
            raise ValueError(f"{option} must be {fixed}, because edits need the same noise in every run, got {value!r}")
    found = find_network(module)
    if found is None:
        raise ValueError(describe_unknown(module))
    family, path = found
    network = module.get_submodule(path)
    if family.children:
        network = nn.ModuleDict({child: network.get_submodule(child) for child in family.children})
    if family.calls is None:
        raise ValueError(f"module must be a supported generator, got {family.name}: {family.refusal}")
    n_classes = int(getattr(network, family.classes, None) or 0) if family.classes else 0
    device = next(network.parameters()).device
    weights = family.label(network, label) if family.label and n_classes else _class_weights(label, n_classes)
    arguments = network, weights.to(device, network_dtype(network)), options
    calls = family.calls(*arguments)
    known_range = None if family.image_range == RANGE else family.image_range
    return Generator(
        network,
        family.rules,
        name=name or family.name,
        z_dim=int(calls.z_dim),
        mapping=NetworkFunction(family.calls, *arguments, "mapping"),
        synthesis=NetworkFunction(family.calls, *arguments, "synthesis"),
        w_mean=_first_mean(w_mean, calls.w_mean, _latent_avg(module, path), device=device),
        image_range=known_range if image_range is None else image_range,
        transform_row=family.transform_row,
        check=check,
    )


def _latent_avg(module: nn.Module, path: str) -> Tensor | None:
    """Return the mean of w of the innermost module that holds the network `path` and has one."""
    mean = getattr(module, "latent_avg", None)
    for part in path.split(".")[:-1]:
        module = module.get_submodule(part)
        mean = getattr(module, "latent_avg", mean)
    return mean


def _class_weights(label: int | str | Tensor | None, n_classes: int) -> Tensor:
    """Return the label as weights [1, classes]."""
    if label is None and n_classes:
        raise ValueError(f"label must be given, because this network has {n_classes} classes")
    if label is None:
        return torch.zeros(1, 0, dtype=torch.float32, device="cpu")
    if isinstance(label, Tensor):
        check_shape("label", label, classes=n_classes)
        return label.float()[None]
    if not hasattr(label, "__index__") or not 0 <= int(label) < n_classes:
        raise ValueError(f"label must be an integer in [0, classes) with classes = {n_classes}, got {label!r}")
    return nn.functional.one_hot(torch.tensor([int(label)], device="cpu"), n_classes).float()


def _first_mean(*means: Tensor | None, device: torch.device) -> Tensor | None:
    """Return the first mean that is not None, [D] or [rows, D]."""
    for mean in means:
        if mean is not None:
            mean = mean.detach().to(device, torch.float32)
            return mean[0] if mean.ndim == 2 and len(mean) == 1 else mean
    return None
