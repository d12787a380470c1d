# SPDX-License-Identifier: Apache-2.0
"""Options of the commands: option dataclasses, their help texts, and the notation of their values."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import torch
import typer
from torch.distributed import ProcessGroup

from .. import generators
from ..distributed import process_group
from ..editing.sources import SEEDS, ImageSource, SeedLatents, StoredLatents
from ..generators import Generator

FLAGS = {  # field of an option dataclass -> its flags, where they differ from the name of the field
    "image_format": "--format",
    "n_clusters": "--clusters",
    "n_init": "--restarts",
    "targets": "--seeds --targets",
    "truncation": "--trunc",
}
PANELS = {  # option dataclass, or a field that is not in the panel of its dataclass -> panel of the help page
    "BuildOptions": "Run",
    "Clustering": "Clustering",
    "ImageOptions": "Images",
    "JobOptions": "Run",
    "NetworkOptions": "Generator",
    "QueryOptions": "Query",
    "image_format": "Output",
    "measure": "Output",
    "roi_mode": "Output",
}


@dataclass(frozen=True)
class NetworkOptions:
    """The generator and the device that it runs on.

    Args:
        network: Generator of the images: random-face (a network for faces), the path of its wheel, a .safetensors file
            that `stylefast convert` wrote, or one of the tiny random networks toy:sg1, toy:sg2 and toy:sg3.
        truncation: Truncation psi of the latents of seeds: 0 gives the mean latent, 1 keeps the latent.
        device: Device of the generator: cpu, cuda, or cuda:0 and so on. Under torchrun, cuda gives every process its
            own GPU.
        tf32: Whether cuDNN may compute float32 convolutions in TF32 on a GPU.
    """

    network: str = "random-face"
    truncation: float = 0.7
    device: str = "cpu"
    tf32: bool = True

    @contextmanager
    def load(self) -> Iterator[tuple[Generator, ProcessGroup | None]]:
        """Yield the generator, and the group of the processes that torchrun has started, or None."""
        with process_group(self.device) as (group, device):
            torch.backends.cudnn.allow_tf32 = self.tf32
            yield generators.load(self.network, device=device), group


def option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Replace every parameter of a command whose type is a dataclass by one option per field.

    The defaults come from the default of the parameter, the help texts from the docstring of the dataclass, the flags
    from `FLAGS` or the names of the fields, and the panels of the help page from `PANELS`.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters, groups = [], {}
    for name, parameter in inspect.signature(command).parameters.items():
        if not is_dataclass(hints[name]):
            parameters.append(parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY))
            continue
        groups[name] = hints[name]
        helps, types = _helps(hints[name]), get_type_hints(hints[name])
        for field in fields(hints[name]):
            flags = FLAGS.get(field.name, f"--{field.name.replace('_', '-')}").split()
            if types[field.name] is bool:
                flags = [f"{flag}/--no-{flag[2:]}" for flag in flags]
            panel = PANELS.get(field.name, PANELS.get(hints[name].__name__))
            metavar = choices(types[field.name])
            option = typer.Option(*flags, help=helps[field.name], metavar=metavar, rich_help_panel=panel)
            default = getattr(parameter.default, field.name)
            annotation = Annotated[types[field.name], option]
            parameters.append(
                inspect.Parameter(field.name, parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            )

    @wraps(command)
    def call(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _helps(group: type) -> dict[str, str]:
    """Return the help text of every field, from the section Args of the docstring."""
    section = inspect.cleandoc(group.__doc__ or "").partition("Args:\n")[2]
    texts = re.findall(r"(?ms)^    (\w+): (.*?)(?=^    \w+: |\Z)", section)
    return {name: f"{text[0].upper()}{' '.join(text.split())[1:]}" for name, text in texts}


def choices(kind: Any) -> str | None:
    """Return the choices of a `Literal` as help pages show them, with spaces at which the lines can break."""
    return f"<{' | '.join(get_args(kind))}>" if get_origin(kind) is Literal else None


def example(command: str) -> str:
    """Return the epilog of a help page with an example, which must fit in one line of a terminal with 80 columns."""
    return f"Example:\n\n{command}"


def seeds(text: str) -> list[int]:
    """Parse seeds in the notation of NVlabs' tools: "0,1,4-6" is 0, 1, 4, 5, 6."""
    numbers: list[int] = []
    for item in text.split(","):
        if not (match := re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", item)):
            raise ValueError(f"seeds must look like 0,1,4-6, got {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"seeds must rise from first to last, got {item.strip()!r}")
        numbers += range(first, last + 1)
    return numbers


def images(text: str | None, generator: Generator, truncation: float) -> ImageSource:
    """Return the images of seeds, or of one or several files of latents or styles. The default is all seeds."""
    if text is not None and Path(text).suffix:
        return StoredLatents.load(text if Path(text).exists() or "," not in text else text.split(","), generator)
    return SeedLatents(generator, SEEDS if text is None else seeds(text), truncation=truncation)


def numbers(name: str, text: str) -> list[float]:
    """Parse numbers that are separated by commas."""
    try:
        return [float(item) for item in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} must be numbers separated by commas, such as 0.25,1, got {text!r}") from None


def shard(text: str) -> tuple[int, int]:
    """Parse the index of a shard and the number of shards: "2/8" is (1, 8)."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"shard must look like 1/8 (the first of eight) to 8/8 (the last), got {text!r}")
    return int(match[1]) - 1, int(match[2])
