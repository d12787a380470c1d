# SPDX-License-Identifier: Apache-2.0
"""Pickles as NVlabs' TensorFlow code writes them, with networks such as those of `originals`."""

from __future__ import annotations

import pickle
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
from originals import Original

# `build_module_src` of a file. Running it ends the test run.
SOURCE = """import pytest
pytest.exit("the source in the file was executed")
def G_main(latents_in, labels_in, mentioned=1, **kwargs):
    pass
"""
STYLEGAN2_OPTIONS = {"num_channels": 3, "resolution": 16, "label_size": 0, "fmap_base": 8192, "truncation_psi": 0.5}


def variables_of(original: Original) -> dict[str, Any]:
    """Variables of NVlabs' StyleGAN2, whose names in stylegan2-ada-pytorch are those of `original`."""
    classes = {"torgb": "ToRGB", "skip": "Skip", "conv0": "Conv0_up", "conv1": "Conv1"}
    variables: dict[str, Any] = {}
    for name, tensor in original.state.items():
        x = tensor.numpy()
        x = x.T if x.ndim == 2 and name.endswith(".weight") else x
        x = x.transpose(2, 3, 1, 0) if x.ndim == 4 else x
        x = x[::-1, ::-1] if name.endswith("conv0.weight") else x
        if name == "mapping.w_avg":
            variables["dlatent_avg"] = x
        elif name.startswith("mapping."):
            layer = name.split(".")[1].replace("fc", "Dense").replace("embed", "LabelEmbed")
            variables[f"mapping/{layer}/{name.split('.')[-1]}"] = x
        elif name.endswith(".const"):
            variables["synthesis/4x4/Const/const"] = x[None]
        elif name.endswith(".noise_const"):
            size = int(re.sub(r".*\.b(\d+)\..*", r"\1", name))
            index = 2 * int(np.log2(size)) - 4 - ("conv0" in name)
            variables[f"synthesis/noise{index}"] = x[None, None]
        elif not name.endswith("resample_filter"):
            size, layer, last = name.removeprefix("synthesis.b").split(".", 2)
            scope = f"synthesis/{size}x{size}/{'Conv' if (size, layer) == ('4', 'conv1') else classes[layer]}"
            last = last.replace("affine.", "mod_")
            variables[f"{scope}/{last}"] = x - 1 if last == "mod_bias" else x
    return variables | {"lod": np.float32(0)}


def write_tensorflow(
    path: Path,
    variables: dict[str, Any],
    options: dict[str, Any],
    *,
    protocol: int = 4,
    version: Any = 4,
    components: tuple[str, ...] = ("synthesis", "mapping"),
    source: str = SOURCE,
    alone: bool = False,
    class_name: str = "dnnlib.tflib.network.Network",
) -> None:
    """Write (G, D, Gs) with the variables in Gs, or Gs alone."""
    module_name, _, last = class_name.rpartition(".")
    names = [".".join(module_name.split(".")[: i + 1]) for i in range(module_name.count(".") + 1)]
    fakes = {name: types.ModuleType(name) for name in {*names, "dnnlib", "dnnlib.util"}}
    Network: Any = type(last, (), {"__module__": module_name})
    EasyDict = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})
    setattr(fakes[module_name], last, Network)
    fakes["dnnlib.util"].EasyDict = EasyDict  # type: ignore[attr-defined]

    def record(name: str, values: dict[str, Any], parts: dict[str, Any]) -> Any:
        network = Network()
        network.__dict__ |= {
            "version": version,
            "name": name,
            "static_kwargs": EasyDict(options),
            "components": parts,
            "build_module_src": source,
            "build_func_name": "G_main",
            "variables": list(values.items()),
        }
        return network

    assert not fakes.keys() & sys.modules.keys()
    sys.modules.update(fakes)
    try:
        parts = {
            name: record(
                name,
                {k.removeprefix(f"{name}/"): x for k, x in variables.items() if k.startswith(f"{name}/")},
                EasyDict(),
            )
            for name in components
        }
        own = {name: x for name, x in variables.items() if "/" not in name}
        averaged, other = record("Gs", own, parts), record("G", {"lod": np.float32(0)}, {})
        path.write_bytes(pickle.dumps(averaged if alone else (other, other, averaged), protocol=protocol))
    finally:
        for name in fakes:
            del sys.modules[name]
