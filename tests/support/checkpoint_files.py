# SPDX-License-Identifier: Apache-2.0
"""Network files in the formats of other code bases, with the networks of `originals`."""

from __future__ import annotations

import argparse
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from originals import Original
from originals3 import Original3

SOURCE = "import pathlib\npathlib.Path('executed').touch()\nraise SystemExit('the file was executed')\n"
BUFFERS = {"w_avg", "resample_filter", "noise_const"}
BUFFERS |= {"magnitude_ema", "up_filter", "down_filter", "freqs", "phases", "transform"}


@contextmanager
def nvlabs_classes() -> Iterator[tuple[Any, Any]]:
    """Provide fakes of NVlabs' Python modules during a block; yield their `Module` and `EasyDict` classes."""
    persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise AssertionError("_reconstruct_persistent_obj must not be called")

    class EasyDict(dict):
        __module__, __qualname__ = "dnnlib.util", "EasyDict"

    class Module:
        def __init__(self, name: str, **state: Any) -> None:
            training = {
                "training": False,
                "_backward_hooks": OrderedDict(),
                "_non_persistent_buffers_set": set(),
                "_init_args": (),
                "_init_kwargs": EasyDict(),
            }
            empty = {name: OrderedDict() for name in ("_parameters", "_buffers", "_modules")}
            self.name, self.state = name, {**training, **empty, **state}

        def __reduce__(self) -> Any:
            meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": self.name, "state": self.state}
            return _reconstruct_persistent_obj, (meta,), None

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj, util.EasyDict = _reconstruct_persistent_obj, EasyDict
    fakes = {"torch_utils.persistence": persistence, "dnnlib.util": util}
    fakes |= {name: types.ModuleType(name) for name in ("torch_utils", "dnnlib")}
    assert not fakes.keys() & sys.modules.keys()
    sys.modules.update(fakes)
    try:
        yield Module, EasyDict
    finally:
        for name in fakes:
            del sys.modules[name]


def write_nvlabs(
    path: Path, original: Original | Original3, *, protocol: int = 4, tuned: bool = False, **entries: Any
) -> None:
    """Write a snapshot with the network as `G_ema`, and further entries. If `tuned`, `torch.save` the network alone.

    Tensors are parameters or buffers; gains are NumPy or Python numbers.
    """
    with nvlabs_classes() as (Module, EasyDict):
        tree = Module("Generator", _init_kwargs=EasyDict(z_dim=7, synthesis_kwargs=EasyDict(channel_max=8)))
        for name, tensor in original.state.items():
            *parents, last = name.split(".")
            kind = "_buffers" if last in BUFFERS else "_parameters"
            value = tensor if kind == "_buffers" else torch.nn.Parameter(tensor)
            if name in original.tables:
                _module(tree, parents[:-1], Module, original).state["_modules"][parents[-1]] = _table(tensor)
            else:
                _module(tree, parents, Module, original).state[kind][last] = value
        for name, value in original.options.items():
            *parents, last = name.split(".")
            _module(tree, parents, Module, original).state[last] = np.float64(value) if "torgb" in name else value
        if tuned:
            return torch.save(tree, path)
        snapshot = {"G": None, "D": None, "G_ema": tree, "training_set_kwargs": EasyDict(path="a.zip", xflip=True)}
        path.write_bytes(pickle.dumps({**snapshot, **entries}, protocol=protocol))


def _table(weight: torch.Tensor) -> torch.nn.Embedding:
    return torch.nn.Embedding(*weight.shape, _weight=weight)


def _module(tree: Any, parents: list[str], kind: Any, original: Original | Original3) -> Any:
    for name in parents:
        if name not in tree.state["_modules"]:
            options = {"activation": "lrelu", "conv_clamp": original.clamp} if name.startswith("conv") else {}
            options = {"conv_clamp": original.clamp} if name == "torgb" else options
            tree.state["_modules"][name] = kind(name, **options)
        tree = tree.state["_modules"][name]
    return tree


def write(path: Path, original: Original | Original3, **options: Any) -> None:
    """Write the network as its code base does."""
    if isinstance(original, Original3) or original.family == "nvlabs":
        return write_nvlabs(path, original, **options)
    if original.family == "rosinality":
        arguments = argparse.Namespace(size=16, ckpt="old.pt")
        checkpoint = {"g": {}, "g_ema": original.state, "latent_avg": original.mean, "args": arguments}
    else:
        kwargs = {"generator_smooth": {"conv_clamp": original.clamp}} if original.family == "hammer" else {}
        models = {"generator": {"a": torch.zeros(1)}, "generator_smooth": OrderedDict(original.state)}
        checkpoint = {"models": models, "model_kwargs_init": kwargs, "running_metadata": {"iter": 3}}
    torch.save(checkpoint, path)
