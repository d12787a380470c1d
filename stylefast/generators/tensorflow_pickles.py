# SPDX-License-Identifier: Apache-2.0
"""Networks in TensorFlow pickles of NVlabs (stylegan, stylegan2, stylegan2-ada), read as data.

A pickle holds (G, D, Gs), and Gs has averaged weights. Each is a record of a version, options, variables, components
(mapping and synthesis) and the source code of the network, which is not run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..io.unpickling import READ_ERRORS, InertObject, dict_entries, to_array, type_name
from .tensorflow_weights import STYLEGAN1, STYLEGAN2, from_stylegan1, from_stylegan2, select_class

_NETWORK = "dnnlib.tflib.network.Network"
NAMES = frozenset((_NETWORK, "tfutil.Network"))  # the second is the name in Progressive GAN
_VERSIONS = range(2, 6)
_SIZES = (  # options that the sizes of the variables show, or that do not change an image with fixed noise
    *("num_channels", "resolution", "latent_size", "dlatent_size", "dlatent_broadcast", "label_size", "label_fmaps"),
    *("mapping_layers", "mapping_fmaps", "fmap_base", "fmap_decay", "fmap_min", "fmap_max", "fmap_const"),
    *("truncation_psi", "truncation_cutoff", "truncation_psi_val", "truncation_cutoff_val", "dlatent_avg_beta"),
    *("style_mixing_prob", "randomize_noise", "use_noise", "fused_modconv", "structure", "dtype", "num_fp16_res"),
    *("is_training", "is_validation", "is_template_graph", "force_clean_graph", "return_dlatents", "architecture"),
)
_VALUES = {  # options with the values that are supported
    "nonlinearity": ("lrelu",),
    "mapping_nonlinearity": ("lrelu",),
    "normalize_latents": (True,),
    "mapping_func": ("G_mapping",),
    "synthesis_func": ("G_synthesis", "G_synthesis_stylegan2", "G_synthesis_stylegan_revised"),
    "use_wscale": (True,),
    "use_styles": (True,),
    "const_input_layer": (True,),
    "use_pixel_norm": (False,),
    "use_instance_norm": (True,),
    "fused_scale": (True, False, "auto"),
}
_NUMBERS = ("mapping_lrmul", "conv_clamp")
_FILTERS = ("resample_kernel", "blur_filter")


def find_network(content: Any) -> InertObject | None:
    """Return the network with averaged weights in the contents of a TensorFlow pickle, or None for other contents."""
    items = content if isinstance(content, tuple | list) else (content,)
    networks = [item for item in items if type_name(item) in NAMES]
    return networks[-1] if networks else None


def convert_tensorflow(content: Any, label: int | None, n_bytes: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of `StyleGAN1` or `StyleGAN2`, and the header, of the network in a pickle of `n_bytes` bytes.

    Raises:
        ValueError: If the network is not a StyleGAN1 or StyleGAN2, is damaged, or has an option or a variable that is
            not supported, or if the label is missing, unexpected or out of range.
    """
    try:
        tensors, header = _read_network(find_network(content), n_bytes)
    except (ValueError, *READ_ERRORS) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise ValueError(
            f"it is a TensorFlow pickle that cannot be converted, because {reason}; "
            "load it in its own code base, or wrap a module of torch with its weights"
        ) from error
    return select_class(tensors, label), header | {"class": label}


def _read_network(network: InertObject | None, n_bytes: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if network is None or network.name != _NETWORK:
        raise ValueError("it comes from Progressive GAN, whose images have no styles")
    record = dict_entries(network.state)
    components = dict_entries(record.get("components", {}))
    if set(map(str, components)) != {"mapping", "synthesis"}:
        raise ValueError(f"its components are {_listed(components)} instead of mapping and synthesis")
    options, variables, left = dict[str, Any](), dict[str, Tensor](), [n_bytes]
    for prefix, part in [(f"{name}/", part) for name, part in components.items()] + [("", network)]:
        state = _read_state(part)
        source = str(state.get("build_module_src", ""))
        stored = dict_entries(state["static_kwargs"])
        options |= {str(name): _check_option(str(name), _to_plain(value), source) for name, value in stored.items()}
        variables |= {f"{prefix}{name}": x for name, x in _read_variables(state["variables"], left).items()}
    lod = variables.pop("lod", None)
    if lod is not None and lod > 0 and any("ToRGB_lod" in name for name in variables):
        raise ValueError("its training has not yet reached its resolution (variable lod is above 0)")
    variables.pop("synthesis/lod", None)
    header = {"network": str(record["name"]), "kwargs": options}
    if any(name.endswith("/StyleMod/weight") for name in variables):
        return from_stylegan1(variables, options), header | {"format": STYLEGAN1}
    if any(name.endswith("/mod_weight") for name in variables):
        return from_stylegan2(variables, options), header | {"format": STYLEGAN2, "clamp": options.get("conv_clamp")}
    raise ValueError(f"its variables are {_listed(variables)}, which neither StyleGAN1 nor StyleGAN2 has")


def _listed(names: Mapping[Any, Any]) -> str:
    first = [repr(name)[:60] for name in list(names)[:3]]
    return ", ".join(first + ["..."] * (len(names) > 3)) or "none"


def _read_state(network: Any) -> Mapping[Any, Any]:
    """Return the state of the record of a network."""
    if type_name(network) != _NETWORK:
        raise ValueError(f"a record of a network was expected, got {type_name(network)}")
    state = dict_entries(network.state)
    version = _to_plain(state["version"])
    if version not in _VERSIONS:
        raise ValueError(f"its records have version {version!r} instead of {_VERSIONS[0]} to {_VERSIONS[-1]}")
    return state


def _read_variables(variables: Any, left: list[int]) -> dict[str, Tensor]:
    """Return variables by name. `left` holds the number of bytes that further variables may have."""
    tensors = dict[str, Tensor]()
    for name, value in variables:
        tensor = torch.from_numpy(to_array(value))
        left[0] -= tensor.nbytes
        if left[0] < 0:
            raise ValueError("its variables have more bytes than the file")
        tensors[str(name)] = tensor.float()
    return tensors


def _to_plain(value: Any) -> Any:
    """Return a value in JSON-serialisable form; objects other than arrays become the names of their types."""
    if isinstance(value, InertObject) and re.search(r"\.(scalar|_reconstruct|_frombuffer)$", value.name):
        return to_array(value).tolist()
    if isinstance(value, list | tuple):
        return [_to_plain(x) for x in value]
    return value if value is None or isinstance(value, str | bool | int | float) else type_name(value)


def _check_option(name: str, value: Any, source: str) -> Any:
    """Return the value of an option. An unknown option has no effect if the source of the network does not mention it.

    Raises:
        ValueError: If the option or its value is not supported.
    """
    if name in _VALUES:
        if value not in _VALUES[name]:
            supported = " or ".join(map(repr, _VALUES[name]))
            raise ValueError(f"its option {name} is {repr(value)[:60]} instead of {supported}")
    elif name in _NUMBERS:
        is_number = isinstance(value, int | float) and math.isfinite(value) and value >= 0
        if not is_number and not (value is None and name == "conv_clamp"):
            raise ValueError(f"its option {name} must be a number, got {repr(value)[:60]}")
    elif name in _FILTERS:
        taps = torch.tensor(value if value is not None else [1.0], dtype=torch.float32, device="cpu")
        if taps.ndim not in (1, 2) or not taps.isfinite().all() or taps.numel() and taps.sum() == 0:
            raise ValueError(f"its option {name} must be a filter, got {repr(value)[:60]}")
    elif name not in _SIZES:
        is_unused = re.search(r"^def \w+\(", source, re.MULTILINE) and not re.search(rf"\b{re.escape(name)}\b", source)
        if not is_unused:
            raise ValueError(f"its option {name[:60]!r} is unknown")
    return value
