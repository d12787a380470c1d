# SPDX-License-Identifier: Apache-2.0
"""Other people's networks -> ours; nothing in their files is run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..io.atomic import PathLike
from ..io.tensors import read_tensors, write_tensors
from ..io.torch_files import is_archive, read_archive, read_objects
from ..io.unpickling import ARRAYS, DICTIONARIES, FLAWS, TENSORS, Record, array, describe, members, read_pickle, tensor
from . import weight_maps
from .generator import Generator
from .lucidrains import Lucidrains
from .stylegan2 import StyleGAN2, stylegan2
from .wrapping import wrap

MODULE = "torch_utils.persistence._reconstruct_persistent_obj"


NAMES = {*TENSORS, *DICTIONARIES, *ARRAYS, MODULE, "builtins.set", "__builtin__.set"}


_NETWORKS = ("g_ema", "G_ema", "generator_smooth", "generator", "GAN", "state_dict", "models")


def convert(source: PathLike, target: PathLike, *, label: int | None = None) -> dict[str, Any]:
    """Write a network that others trained as a file that `generators.load` runs.

    Args:
        source: NVlabs' .pkl (stylegan2-ada-pytorch), or the module that PTI saves; or a .pt or .pth of rosinality, pSp,
            e4e, HyperStyle, genforce, Hammer or lucidrains (with its .config.json beside it, if there is one); of
            several generators the one with averaged weights.
        target: the .safetensors file, written whole or not at all.
        label: the class that a conditional network shall show.

    Returns:
        What the file says of the network.

    Raises:
        FileNotFoundError: no such source.
        ValueError: the file asks for something that is not on the list, is damaged, or holds no StyleGAN2.
    """
    if Path(target).suffix != ".safetensors":
        raise ValueError(f"target must be a .safetensors file, got {os.fspath(target)}")
    try:
        if is_archive(source):
            tensors, header = _archive(source, label)
        else:
            tensors, header = _nvlabs(read_pickle(source, NAMES), label, os.path.getsize(source))
        network = network_of(tensors, header["clamp"])
    except KeyError as error:
        raise ValueError(f"{os.fspath(source)} cannot be used: it lacks {error}") from error
    except (ValueError, *FLAWS) as error:
        known = f"{os.fspath(source)} cannot be used: "
        raise ValueError(known + (str(error) or type(error).__name__).removeprefix(known)) from error
    header |= {"file": Path(source).name, **_outputs(network)}
    write_tensors(target, FORMAT, network.state_dict(), **header)
    return header


def _outputs(network: StyleGAN2 | Lucidrains) -> dict[str, Any]:
    if isinstance(network, Lucidrains):
        return {"architecture": "skip", "resolution": network.GE.image_size, "noise": True}
    blocks = list(network.synthesis.children())
    every = all(block.torgb is not None for block in blocks)
    return {
        "architecture": "skip" if every else "orig" if blocks[-1].skip is None else "resnet",
        "resolution": 2 ** (len(blocks) + 1),
        "noise": any(name.endswith(".noise") for name, _ in network.named_buffers()),
    }


def _archive(path: PathLike, label: int | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        checkpoint = read_archive(path)
    except ValueError as error:
        if MODULE not in str(error):
            raise
        return _nvlabs(read_objects(path, NAMES), label, os.path.getsize(path))  # a whole module, as PTI leaves it
    key, state = _network(checkpoint)
    _check_size(sum(x.nbytes for x in state.values()), os.path.getsize(path))
    if label is not None:
        raise ValueError(f"class must be left out: the network has none, got {label}")
    clamp, mean = None, checkpoint.get("latent_avg")
    if any(name.startswith("decoder.") for name in state):
        key += ".decoder"
        state = {name.removeprefix("decoder."): x for name, x in state.items() if name.startswith("decoder.")}
    if "convs.0.conv.weight" in state:
        family, tensors = "rosinality stylegan2-pytorch", weight_maps.rosinality(state, mean)
    elif "truncation.w_avg" in state:
        family, tensors = "genforce", weight_maps.genforce(state)
    elif "synthesis.early_layer.const" in state:
        options = checkpoint.get("model_kwargs_init", {}).get(key.rpartition(".")[2], {})
        clamp, family, tensors = options.get("conv_clamp"), "Hammer", weight_maps.hammer(state)
    elif any(name.startswith("GE.") for name in state):
        family, tensors = "lucidrains stylegan2_pytorch", weight_maps.lucidrains(state, _lr_mlp(Path(path)))
    else:
        raise ValueError(f"it holds no StyleGAN2 that is known; its tensors begin with {', '.join(list(state)[:3])}")
    return tensors, {"clamp": clamp, "format": family, "network": key.lstrip(".")}


def _lr_mlp(path: Path) -> float:
    """The mapping's learning rate, which lucidrains' trainer writes beside its checkpoints, or else its default."""
    config = path.with_name(".config.json")
    return float(json.loads(config.read_text()).get("lr_mlp", 0.1)) if config.exists() else 0.1


def _network(checkpoint: Any, key: str = "") -> tuple[str, Mapping[str, Tensor]]:
    """The generator's tensors in a checkpoint, averaged ones first."""
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"it holds {describe(checkpoint)}, not a checkpoint")
    for name in _NETWORKS:
        if isinstance(checkpoint.get(name), Mapping):
            return _network(checkpoint[name], f"{key}.{name}")
    return key, {str(name): x for name, x in checkpoint.items() if isinstance(x, Tensor)}


def _check_size(tensors: int, file: int) -> None:
    if tensors > file:  # one piece of it is many tensors
        raise ValueError(f"its tensors have {tensors} bytes, more than the file")


def _nvlabs(content: Any, label: int | None, size: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    snapshot = {"G_ema": content} if describe(content) == MODULE else members(content)
    records, options, state, total = dict[str, Any](), dict[str, Any](), dict[str, Tensor](), 0
    _walk(snapshot["G_ema"], "", records, options, set())
    for name, record in records.items():
        state[name] = tensor(record)
        _check_size(total := total + state[name].nbytes, size)
    if "synthesis.b4.const" not in state:
        raise ValueError(f"it holds no StyleGAN2; its tensors begin with {', '.join(list(state)[:3])}")
    gains = {name: _number(value) for name, value in options.items() if name.endswith("_gain")}
    clamps = {value for name, value in options.items() if re.search(r"(conv[01]|torgb)\.conv_clamp$", name)}
    others = {value for name, value in options.items() if name.endswith(("conv0.activation", "conv1.activation"))}
    if len(clamps) != 1 or others != {"lrelu"}:
        raise ValueError(f"it has layers clamped at {clamps} and activations {others}: one and lrelu are known")
    clamp = clamps.pop()
    training = {name: plain(snapshot.get(name)) for name in ("training_set_kwargs",)}
    made = {name: plain(options.get(f"_init_{name}")) for name in ("args", "kwargs")}
    header = {"clamp": None if clamp is None else _number(clamp), "format": "NVlabs stylegan2-ada-pytorch"}
    return weight_maps.nvlabs(state, gains, label), {**header, "network": "G_ema", "class": label, **made, **training}


def _walk(record: Any, prefix: str, tensors: dict[str, Any], options: dict[str, Any], seen: set[int]) -> None:
    """Records of tensors, and plain options, of a recorded module and those in it, by their full names."""
    if describe(record) != MODULE or id(record) in seen:
        raise ValueError(f"{prefix or 'the network'} must be a module of its own, got {describe(record)}")
    seen.add(id(record))
    content = members(members(record.args[0])["state"])
    for kind in ("_parameters", "_buffers"):
        tensors.update({prefix + name: x for name, x in members(content[kind]).items() if x is not None})
    options.update({prefix + name: x for name, x in content.items() if not isinstance(x, dict) or not prefix})
    for name, module in members(content["_modules"]).items():
        if module is not None:
            _walk(module, f"{prefix}{name}.", tensors, options, seen)


def _number(value: Any) -> float:
    return float(array(value)) if isinstance(value, Record) else float(value)


def plain(value: Any, left: list[int] | None = None) -> Any:
    """A recorded value as JSON can hold it, up to 10,000 values in all; others become the names of what they are."""
    left = [10_000] if left is None else left
    left[0] -= 1
    if left[0] < 0:
        raise ValueError("its options are more than 10,000 values")
    if isinstance(value, dict) or describe(value) in DICTIONARIES:
        return {str(name): plain(x, left) for name, x in members(value).items()}
    if isinstance(value, list | tuple):
        return [plain(x, left) for x in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return describe(value)


FORMAT = "stylefast-stylegan2-1"


def load(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Generator:
    """Load a network that `stylefast convert` wrote.

    Args:
        path: the file.
        device: where it runs.

    Returns:
        The generator; truncation pulls towards the mean that the network was trained with, if the file holds one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, foreign, or does not hold all tensors of a StyleGAN2.
    """
    tensors, header = read_tensors(path, FORMAT)
    try:
        network = network_of(tensors, header["clamp"]).to(device)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} cannot be used: {error}") from error
    name = Path(path).stem
    return stylegan2(network, name=name) if isinstance(network, StyleGAN2) else wrap(network, name=name)


def network_of(tensors: Mapping[str, Tensor], clamp: float | None) -> StyleGAN2 | Lucidrains:
    """The network whose tensors these are."""
    return Lucidrains(tensors) if "GE.initial_block" in tensors else StyleGAN2(tensors, clamp=clamp)
