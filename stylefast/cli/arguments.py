# SPDX-License-Identifier: Apache-2.0
"""Arguments of commands: groups of options, and what the texts of options mean."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import torch
import typer
from torch.distributed import ProcessGroup

from .. import generators
from ..distributed import process_group
from ..editing.sources import SEEDS, ImageSource, SeedLatents, StoredLatents
from ..generators import Generator

Outdir = Annotated[Path, typer.Option(help="The folder to write to; created if necessary.")]
FLAGS = {  # of fields whose name is not the flag
    "image_format": "--format",
    "n_clusters": "--clusters",
    "n_init": "--restarts",
    "truncation": "--trunc",
}


@dataclass(frozen=True)
class NetworkOptions:
    """The generator and where it runs.

    Args:
        network: "random-face" (real faces), the path of its wheel, a .safetensors file that `stylefast convert` wrote,
            or "toy:sg1", "toy:sg2", "toy:sg3".
        truncation: truncation psi of the latents of seeds.
        device: the device, cpu or cuda; under torchrun, cuda is the GPU of each process.
        tf32: whether cuDNN may compute float32 convolutions in TF32 on a GPU.
    """

    network: str = "random-face"
    truncation: float = 0.7
    device: str = "cpu"
    tf32: bool = True

    @contextmanager
    def load(self) -> Iterator[tuple[Generator, ProcessGroup | None]]:
        """The generator, and the group of the processes that torchrun has started."""
        with process_group(self.device) as (group, device):
            torch.backends.cudnn.allow_tf32 = self.tf32
            yield generators.load(self.network, device=device), group


def option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces every parameter of a command whose type is a dataclass by one option per field.

    The defaults are those of the parameter's default, and the help texts those of the dataclass's docstring.
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
            flag = FLAGS.get(field.name, f"--{field.name.replace('_', '-')}")
            flags = f"{flag}/--no-{flag[2:]}" if types[field.name] is bool else flag
            annotation = Annotated[types[field.name], typer.Option(flags, help=helps[field.name])]
            default = getattr(parameter.default, field.name)
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
    """The texts of the section Args of a docstring, as full sentences."""
    section = inspect.cleandoc(group.__doc__ or "").partition("Args:\n")[2]
    texts = re.findall(r"(?ms)^    (\w+): (.*?)(?=^    \w+: |\Z)", section)
    return {name: f"{text[0].upper()}{' '.join(text.split())[1:]}" for name, text in texts}


def seeds(text: str) -> list[int]:
    """Seeds in the notation of NVlabs' tools: "0,1,4-6" is 0, 1, 4, 5, 6."""
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
    """The images of seeds, or of one or several files of latents or styles; of all seeds if there is no text."""
    if text is not None and Path(text).suffix:
        return StoredLatents.load(text if Path(text).exists() or "," not in text else text.split(","), generator)
    return SeedLatents(generator, SEEDS if text is None else seeds(text), truncation=truncation)


def numbers(name: str, text: str) -> list[float]:
    """Numbers separated by commas."""
    try:
        return [float(item) for item in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} must be numbers with commas, such as 0.25,1, got {text!r}") from None


def shard(text: str) -> tuple[int, int]:
    """Index and number of shards: "2/8" is (1, 8)."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"shard must look like 1/8, from 1/8 to 8/8, got {text!r}")
    return int(match[1]) - 1, int(match[2])
