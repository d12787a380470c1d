# SPDX-License-Identifier: Apache-2.0
"""Conversion of StyleGAN files of other code bases to one format.

No code in the files is executed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.defaults import with_plain_defaults
from ..io.atomic import PathLike
from ..io.budget import Budget, read_file
from ..io.kinds import refusal
from ..io.storages import to_tensor
from ..io.tensors import write_tensors
from ..io.torch_files import is_archive, read_archive, read_objects
from ..io.unpickling import (
    ARRAYS,
    DICTIONARIES,
    READ_ERRORS,
    TENSORS,
    InertObject,
    dict_entries,
    read_pickle,
    to_array,
    type_name,
)
from .code_bases import BASICSR, GENFORCE, HAMMER, LUCIDRAINS, NVLABS_STYLEGAN2, NVLABS_STYLEGAN3, ROSINALITY
from .converted import FORMAT, build_network, describe_synthesis
from .nvlabs_stylegan3 import from_nvlabs_stylegan3
from .rosinality_relatives import from_basicsr, refuse_relatives
from .stylegan2 import first_block
from .tensorflow_pickles import NAMES, convert_tensorflow, find_network
from .weight_maps import from_genforce, from_hammer, from_lucidrains, from_nvlabs, from_rosinality

MAX_OPTIONS = 10_000  # largest number of values in the options of a network
_PERSISTENT_OBJECT = "torch_utils.persistence._reconstruct_persistent_obj"  # marks a module in NVlabs' pickles
_EMBEDDING = "torch.nn.modules.sparse.Embedding"  # the classes of StyleGAN-XL
_ALLOWED = {*TENSORS, *DICTIONARIES, *ARRAYS, _PERSISTENT_OBJECT, _EMBEDDING, "builtins.set", "__builtin__.set", *NAMES}
# Averaged weights come first.
_GENERATOR_KEYS = (
    *("g_ema", "G_ema", "generator_smooth", "generator", "GAN", "state_dict", "models"),
    *("params_ema", "params"),
)


@with_plain_defaults
def convert(source: PathLike, target: PathLike, *, label: int | None = None) -> dict[str, Any]:
    """Convert a trained StyleGAN of another code base to a file that `generators.load` reads.

    Args:
        source: A .pkl file of NVlabs (stylegan2-ada-pytorch, stylegan3, and stylegan, stylegan2 and stylegan2-ada of
            TensorFlow), StyleGAN-Human or StyleGAN-XL, a module saved by PTI, or a .pt or .pth file of rosinality, pSp,
            e4e, HyperStyle, BasicSR, genforce, Hammer or lucidrains.
            For lucidrains, the file `.config.json` beside it is read if it exists. If a file holds several generators,
            the one with averaged weights is converted.
        target: The .safetensors file to write. It is written completely or not at all.
        label: Class of the images, if the network is conditional.

    Returns:
        Header of the written file: origin, architecture and options of the network. The layout of a StyleGAN3 is only
        in the file.

    Raises:
        FileNotFoundError: If `source` does not exist.
        ValueError: If `target` is not a .safetensors file, or if `source` asks for a class or function that is not
            allowed, is damaged, or holds no supported network, or if `label` is missing, unexpected or out of range.
    """
    if Path(target).suffix != ".safetensors":
        raise ValueError(f"target must be a .safetensors file, got {os.fspath(target)}")
    try:
        if reason := refusal(source, "checkpoint"):
            raise ValueError(reason)
        if is_archive(source):
            tensors, header = _convert_archive(source, label)
        else:
            content, n_bytes = read_pickle(source, _ALLOWED), os.path.getsize(source)
            convert_pickle = _convert_nvlabs if find_network(content) is None else convert_tensorflow
            tensors, header = convert_pickle(content, label, n_bytes)
        network = build_network(tensors, header)
    except KeyError as error:
        raise ValueError(f"{os.fspath(source)} cannot be used: it lacks {error}") from error
    except (ValueError, *READ_ERRORS) as error:
        prefix = f"{os.fspath(source)} cannot be used: "
        raise ValueError(prefix + (str(error) or type(error).__name__).removeprefix(prefix)) from error
    header |= {"file": Path(source).name, **describe_synthesis(network)}
    write_tensors(target, FORMAT, network.state_dict(), **header)
    return {name: value for name, value in header.items() if name != "layout"}


def _convert_archive(path: PathLike, label: int | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the header of a network in a file written by `torch.save`."""
    try:
        checkpoint = read_archive(path)
    except ValueError as error:
        if _PERSISTENT_OBJECT not in str(error):
            raise
        return _convert_nvlabs(read_objects(path, _ALLOWED), label, os.path.getsize(path))  # a module that PTI saved
    key, state = _find_state(checkpoint)
    _check_n_bytes(sum(tensor.nbytes for tensor in state.values()), os.path.getsize(path))
    if label is not None:
        raise ValueError(f"class must be omitted, because the network has no classes, got {label}")
    clamp, mean = None, checkpoint.get("latent_avg")
    if any(name.startswith("decoder.") for name in state):
        key += ".decoder"
        state = {name.removeprefix("decoder."): x for name, x in state.items() if name.startswith("decoder.")}
    refuse_relatives(state)
    if "style_conv1.activate.bias" in state:
        code_base, tensors = BASICSR, from_basicsr(state)
    elif "convs.0.conv.weight" in state:
        code_base, tensors = ROSINALITY, from_rosinality(state, mean)
    elif "truncation.w_avg" in state:
        code_base, tensors = GENFORCE, from_genforce(state)
    elif "synthesis.early_layer.const" in state:
        options = checkpoint.get("model_kwargs_init", {}).get(key.rpartition(".")[2], {})
        clamp, code_base, tensors = options.get("conv_clamp"), HAMMER, from_hammer(state)
    elif any(name.startswith("GE.") for name in state):
        code_base, tensors = LUCIDRAINS, from_lucidrains(state, _read_mapping_rate(Path(path)))
    else:
        if "synthesis.input.freqs" in state:
            raise ValueError("it holds the tensors of a StyleGAN3 without its sampling rates; convert the .pkl file")
        if "synthesis.layer0.conv.style.weight" in state:
            raise ValueError("it holds a StyleGAN3 of Hammer, which the converter does not support; wrap its module")
        raise ValueError(f"it holds no supported StyleGAN2; its first tensors are {', '.join(list(state)[:3])}")
    return tensors, {"clamp": clamp, "format": code_base, "network": key.lstrip(".")}


def _find_state(checkpoint: Any, key: str = "") -> tuple[str, Mapping[str, Tensor]]:
    """Return the key and the tensors of the generator in a checkpoint."""
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"it holds {type_name(checkpoint)}, not a checkpoint")
    for name in _GENERATOR_KEYS:
        if isinstance(checkpoint.get(name), Mapping):
            return _find_state(checkpoint[name], f"{key}.{name}")
    return key, {str(name): x for name, x in checkpoint.items() if isinstance(x, Tensor)}


def _check_n_bytes(tensors: int, file: int) -> None:
    if tensors > file:  # many tensors that share one storage could fill the memory
        raise ValueError(f"its tensors have {tensors} bytes, more than the file")


def _read_mapping_rate(path: Path) -> float:
    """Return the mapping's learning rate from `.config.json` beside the checkpoint, else the trainer's default."""
    config = path.with_name(".config.json")
    if not config.exists():
        return 0.1
    try:
        return float(json.loads(read_file(config, Budget(1 << 20))).get("lr_mlp", 0.1))
    except (ValueError, *READ_ERRORS) as error:
        raise ValueError(f"the file {config.name} beside it cannot be used: {error or type(error).__name__}") from error


def _convert_nvlabs(content: Any, label: int | None, n_bytes: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the header of a network in NVlabs' pickle, a file of `n_bytes` bytes.

    The file holds a snapshot of several networks, or one network.
    """
    snapshot = {"G_ema": content} if type_name(content) == _PERSISTENT_OBJECT else dict_entries(content)
    inert_tensors, options, state, total = dict[str, Any](), dict[str, Any](), dict[str, Tensor](), 0
    _collect_module(snapshot["G_ema"], "", inert_tensors, options, set())
    for name, inert_tensor in inert_tensors.items():
        state[name] = to_tensor(inert_tensor)
        _check_n_bytes(total := total + state[name].nbytes, n_bytes)
    gains = {name: _to_float(value) for name, value in options.items() if name.endswith("_gain")}
    header = {
        "format": NVLABS_STYLEGAN2,
        "network": "G_ema",
        "class": label,
        "args": _to_json(options.get("_init_args")),
        "kwargs": _to_json(options.get("_init_kwargs")),
        "training_set_kwargs": _to_json(snapshot.get("training_set_kwargs")),
    }
    if "synthesis.input.freqs" in state:
        tensors, layout = from_nvlabs_stylegan3(state, options, gains, label)
        return tensors, header | {"format": NVLABS_STYLEGAN3, "layout": asdict(layout)}
    if f"synthesis.b{first_block(state)}.const" not in state:
        raise ValueError(f"it holds no StyleGAN2 or StyleGAN3; its first tensors are {', '.join(list(state)[:3])}")
    return from_nvlabs(state, gains, label), header | {
        "clamp": _find_clamp(options),
        "num_fp16_res": _count_fp16(options),
    }


def _find_clamp(options: dict[str, Any]) -> float | None:
    """Return the clamp of all layers of a StyleGAN2. Raise ValueError if layers differ or are not leaky ReLUs."""
    clamps = {value for name, value in options.items() if re.search(r"(conv[01]|torgb)\.conv_clamp$", name)}
    activations = {value for name, value in options.items() if re.search(r"conv[01]\.activation$", name)}
    if len(clamps) != 1 or activations != {"lrelu"}:
        raise ValueError(
            f"its layers have clamps {clamps} and activations {activations}; one clamp and lrelu are supported"
        )
    clamp = clamps.pop()
    return None if clamp is None else _to_float(clamp)


def _count_fp16(options: dict[str, Any]) -> int:
    """Return the number of resolutions that NVlabs' code runs in float16 on a GPU."""
    return sum(value is True for name, value in options.items() if re.fullmatch(r"synthesis\.b\d+\.use_fp16", name))


def _collect_module(module: Any, prefix: str, tensors: dict[str, Any], options: dict[str, Any], seen: set[int]) -> None:
    """Collect inert tensors and plain options of a pickled module and its children under their full names."""
    if type_name(module) not in (_PERSISTENT_OBJECT, _EMBEDDING) or id(module) in seen:
        raise ValueError(
            f"{prefix or 'the network'} must be a pickled module that occurs once, got {type_name(module)}"
        )
    seen.add(id(module))
    is_persistent = type_name(module) == _PERSISTENT_OBJECT
    state = dict_entries(dict_entries(module.args[0])["state"] if is_persistent else module.state)
    for kind in ("_parameters", "_buffers"):
        tensors.update({prefix + name: x for name, x in dict_entries(state[kind]).items() if x is not None})
    options.update({prefix + name: x for name, x in state.items() if not isinstance(x, dict) or not prefix})
    for name, child in dict_entries(state["_modules"]).items():
        if child is not None:
            _collect_module(child, f"{prefix}{name}.", tensors, options, seen)


def _to_float(value: Any) -> float:
    return float(to_array(value)) if isinstance(value, InertObject) else float(value)


def _to_json(value: Any, n_left: list[int] | None = None) -> Any:
    """Return the value in JSON-serialisable form; other objects become the names of their types.

    `n_left` holds one number: the number of further values that are allowed.
    """
    n_left = [MAX_OPTIONS] if n_left is None else n_left
    n_left[0] -= 1
    if n_left[0] < 0:
        raise ValueError(f"its options hold more than {MAX_OPTIONS:,} values")
    if isinstance(value, dict) or type_name(value) in DICTIONARIES:
        return {str(name): _to_json(x, n_left) for name, x in dict_entries(value).items()}
    if isinstance(value, list | tuple):
        return [_to_json(x, n_left) for x in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return type_name(value)
