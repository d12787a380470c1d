# SPDX-License-Identifier: Apache-2.0
"""Networks within other modules, and whether such a module draws its images by the network that it holds."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from .code_bases import FAMILIES, Family
from .precision import network_dtype

# Of several networks within a module, the first of these is used. Averaged weights come first.
HOLDERS = ("generator_ema", "g_ema", "G_ema", "generator", "decoder")
# Forward passes that are missing, as in containers, or that pass on what the child `module` returns.
PASSED_ON = (nn.Module.forward, nn.DataParallel.forward, DistributedDataParallel.forward, AveragedModel.forward)
# Children of modules that cannot be called with latents alone, and of which one child is known to draw the images.
KNOWN_CHILDREN = {
    "decoder": {"encoder", "w_encoder", "hypernet", "face_pool"},  # pSp, e4e, ReStyle, HyperStyle
    "generator_ema": {"generator", "discriminator", "data_preprocessor"},  # mmagic
}
IMAGE_MODULES = ("", "synthesis", "g_synthesis", "GE")  # modules of a network that may return its image


def find_network(module: nn.Module) -> tuple[Family, str] | None:
    """Find the network of a known code base that draws the images of a module.

    Returns:
        Family of the network, and its name within `module`, which is empty if it is `module` itself; None if there is
        no such network.

    Raises:
        ValueError: If the module does not draw its images by the network alone, if this is not known, or if the module
            holds several networks.
    """
    family = _match(module)
    if family is not None:
        _check_additions(module, family)
        return family, ""
    held: dict[str, Family] = {}
    for name, child in module.named_modules():
        if name and not any(name.startswith(f"{outer}.") for outer in held) and (match := _match(child)):
            held[name] = match
    if not held:
        return None
    name = min(held, key=_rank)
    if len(held) > 1 and _rank(name) == len(HOLDERS):
        raise ValueError(
            f"module must hold one network, or name one as {', '.join(HOLDERS)}, got {type(module).__name__} with "
            f"networks of known code bases in {', '.join(held)}; pass one of them, such as {attribute(name)}"
        )
    if not held[name].refusal:
        _check_draws(module, name, held[name])
    return held[name], name


def _rank(name: str) -> int:
    """Return the lowest index in `HOLDERS` of a part of a module's name."""
    return min((HOLDERS.index(part) for part in name.split(".") if part in HOLDERS), default=len(HOLDERS))


def attribute(name: str) -> str:
    """Return the Python expression of a submodule of `module`."""
    is_attribute = all(part.isidentifier() for part in name.split("."))
    return f"module.{name}" if is_attribute else f"module.get_submodule({name!r})"


def _match(module: nn.Module) -> Family | None:
    """Return the first family whose modules a module has."""
    names = {name for name, _ in module.named_modules()}
    return next((family for family in FAMILIES if names.issuperset(family.modules) and family.fits(module)), None)


def _check_additions(module: nn.Module, family: Family) -> None:
    """Check that a network whose synthesis is a child draws by it, if its class has a forward pass."""
    patterns = (*family.modules, *(rule.style for rule in family.rules))
    expected = {re.split(r"\\?\.", pattern)[0] for pattern in patterns}
    additions = [name for name, child in module.named_children() if name not in expected and list(child.parameters())]
    synthesis = [name for name in IMAGE_MODULES if name in expected]
    if family.children or not synthesis or _passes_on(module):
        return
    if _draws(module, module, family, synthesis) is False:
        found = f" with {', '.join(additions)}" if additions else ""
        raise ValueError(
            f"module must draw its images by its {synthesis[0]} alone, like {family.name}, got {type(module).__name__}"
            f"{found}, whose images differ; describe it with Generator and Rule"
        )


def _check_draws(module: nn.Module, name: str, family: Family) -> None:
    """Check that a module draws its images by the network `name`.

    Each module on the way to the network either passes on what its child returns, is called and compared, or has the
    child modules of a known class.

    Raises:
        ValueError: If the images are not those of the network, or this is not known.
    """
    network, outer, parts = module.get_submodule(name), module, name.split(".")
    sources = [source for source in IMAGE_MODULES if not source or hasattr(network, source)]
    for i, part in enumerate(parts):
        if not _passes_on(outer):
            is_drawn = _draws(outer, network, family, sources)
            if is_drawn:
                return
            if is_drawn is False or not _is_known(outer, part):
                found = (
                    "whose images differ from"
                    if is_drawn is False
                    else "which cannot be called to compare its images with"
                )
                raise ValueError(
                    f"module must draw its images by the network that is edited, got {type(outer).__name__}, {found} "
                    f"those of its {'.'.join(parts[i:])}; pass {attribute(name)} to edit the images of this network of "
                    f"{family.name} alone"
                )
            warnings.warn(
                f"the images of {type(outer).__name__} were not compared with those of its {part}, which is edited, "
                "because it cannot be called with latents or a photograph alone",
                stacklevel=4,
            )
        outer = outer.get_submodule(part)


def _passes_on(module: nn.Module) -> bool:
    return type(module).forward in PASSED_ON and "forward" not in vars(module) and not module._forward_hooks


def _is_known(module: nn.Module, child: str) -> bool:
    """Return whether a module has only the child modules of a class that is known to draw its images by `child`."""
    others = {name for name, _ in module.named_children()} - {child}
    has_parameters = next(module.parameters(recurse=False), None) is not None
    return bool(others) and others <= KNOWN_CHILDREN.get(child, set()) and not has_parameters


def _draws(outer: nn.Module, network: nn.Module, family: Family, sources: list[str]) -> bool | None:
    """Return whether the image of a module is one that its network has made in the same call.

    The module is called with latents, and with a photograph. Because both images come from one call, neither noise nor
    truncation matter.

    Args:
        outer: The module.
        network: The network within it.
        family: Family of the network.
        sources: Names of the modules of the network that return its image; an empty name is the network itself.

    Returns:
        None if no call returns an image.
    """
    n_classes = int(getattr(network, family.classes, None) or 0) if family.classes else 0
    parameter = next(network.parameters())
    device, dtype = parameter.device, network_dtype(network)
    label = torch.zeros(1, n_classes, device=device, dtype=dtype)
    try:
        assert family.calls is not None
        z_dim = int(family.calls(network, label, {}).z_dim)
    except ValueError:  # the network needs more arguments
        return None
    z = torch.linspace(-2, 2, z_dim, device=device, dtype=dtype)[None]
    photograph = torch.linspace(-1, 1, 3 * 256 * 256, device=device, dtype=dtype).view(1, 3, 256, 256)  # as of pSp, e4e
    made: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        made.extend(image.clone() for image in _images(output))

    with ExitStack() as stack:
        stack.enter_context(_without_effects(outer, device))
        for name in sources:
            stack.callback(network.get_submodule(name).register_forward_hook(keep).remove)
        for inputs, options in (
            ((z,), {}),
            (([z],), {}),
            ((z, label), {}),
            ((z,), {"input_code": True, "resize": False}),  # pSp and e4e
            ((photograph,), {"resize": False}),
            ((photograph,), {}),
        ):
            made.clear()
            try:
                images = list(_images(outer(*inputs, **options)))
            except Exception:  # a module may raise anything for inputs that it does not take
                continue
            if images:
                return any(torch.equal(image, images[0]) for image in made)
    return None


def _images(output: Any) -> Iterator[Tensor]:
    """Yield the tensors [N, C, H, W] of an output; those of a dictionary only under "image", if it has this key."""
    if isinstance(output, dict):
        output = output["image"] if "image" in output else list(output.values())
    for item in output if isinstance(output, tuple | list) else (output,):
        if isinstance(item, Tensor) and item.ndim == 4:
            yield item


@contextmanager
def _without_effects(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Run a block without gradients and in evaluation mode; restore the modes of all modules and the random state."""
    modes = {child: child.training for child in module.modules()}
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            module.eval()
            yield
    finally:
        for child, mode in modes.items():
            child.training = mode
