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
from typer.models import OptionInfo

from .. import generators
from ..backends.native import instruction_set
from ..core.checks import SEEDS
from ..core.lists import seeds, split
from ..distributed import process_group
from ..editing import Job
from ..editing.sources import ImageSource, SeedLatents, StoredLatents
from ..generators import Generator
from .terminal import name_options, remark

FLAGS = {  # field of an option dataclass -> its flags, where they differ from the name of the field
    "image_format": "--format",
    "n_clusters": "--clusters",
    "n_init": "--restarts",
    "targets": "--seeds --targets",
    "truncation": "--trunc",
}
SYNONYMS = {"jpeg": "jpg"}  # other names of choices
PANELS = {  # option dataclass, or a field that is not in the panel of its dataclass -> panel of the help page
    "BuildOptions": "Run",
    "Clustering": "Clustering",
    "ImageOptions": "Images",
    "JobOptions": "Run",
    "NetworkOptions": "Generator",
    "SynthesisOptions": "Generator",
    "QueryOptions": "Query",
    "image_format": "Output",
    "measure": "Output",
    "originals": "Output",
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
        precision: Precision of the network. float16 runs the highest resolutions of a converted StyleGAN2 in float16,
            which is meant for GPUs.
        tf32: Whether cuDNN may compute float32 convolutions in TF32 on a GPU.
    """

    network: str = "random-face"
    truncation: float = 0.7
    device: str = "cpu"
    precision: Literal["float32", "float16"] = "float32"
    tf32: bool = True

    @contextmanager
    def load(self) -> Iterator[tuple[Generator, ProcessGroup | None]]:
        """Yield the generator, and the group of the processes that torchrun has started, or None."""
        instruction_set()  # raises before the work if the environment asks for one that does not exist
        with process_group(self.device) as (group, device):
            torch.backends.cudnn.allow_tf32 = self.tf32
            yield generators.load(self.network, device=device, precision=self.precision), group


@dataclass(frozen=True)
class SynthesisOptions(NetworkOptions):
    """The generator, the device that it runs on, and the engine that makes its images.

    Args:
        engine: Engine that makes the images: eager runs the network exactly as it is; native runs random-face
            and converted StyleGAN2 with fused kernels; compile runs the network under torch.compile; openvino runs a
            graph of it on a CPU and needs the package openvino; auto takes the engine of the images of this job in the
            output folder, or else the fastest one. An engine is refused if two test images differ from those of eager
            by half a step of 8 bits or more. Catalogs are always computed by the network itself.
    """

    engine: Literal["eager", "native", "compile", "openvino", "auto"] = "eager"

    def use_engine(self, job: Job) -> None:
        """Use the engine for the images of a job, the same on all its ranks, and say which it is.

        "auto" is the engine of the images of this job that are in its folder, or else the fastest one.

        Raises:
            ValueError: If the engine cannot run the network, or makes other images.
        """
        if self.engine == "eager":
            return
        generator, ranks, hint = job.editor.generator, job.ranks, ""
        engine, batch_size = self.engine, None if job.options.batch_size == "auto" else job.options.batch_size
        if recorded := ranks.broadcast(job.recorded_engine() if ranks.rank == 0 else None):
            if engine == "auto":
                engine = recorded[0]
                hint = (
                    f"; the images of this job in {job.directory} were made with it: choose another folder, or name "
                    "another engine with --overwrite"
                )
            batch_size = batch_size or recorded[1]
        try:
            generator.use_engine(engine, batch_size=batch_size)
        except ValueError as error:
            raise ValueError(f"{error}{hint}") from error
        if (name := ranks.broadcast(generator.engine.name)) != generator.engine.name:
            generator.use_engine(name, batch_size=batch_size)
        if ranks.rank == 0:
            remark(str(generator.engine))


def option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Replace every parameter of a command whose type is a dataclass by one option per field.

    The defaults come from the default of the parameter, the help texts from the docstring of the dataclass, the flags
    from `FLAGS` or the names of the fields, and the panels of the help page from `PANELS`. Errors of the command that
    begin with the name of a parameter or of a field begin with its flag instead.
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
            kind = types[field.name]
            choices = choice(*get_args(kind)) if get_origin(kind) is Literal else {}
            if get_args(kind)[:1] == (int,) and get_origin(get_args(kind)[1]) is Literal:
                kind, choices = str, integer_or(*get_args(get_args(kind)[1]))
            option = typer.Option(*flags, help=helps[field.name], rich_help_panel=panel, **choices)
            default = getattr(parameter.default, field.name)
            annotation = Annotated[kind, option]
            parameters.append(
                inspect.Parameter(field.name, parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            )

    flags = {parameter.name.rstrip("_"): flag for parameter in parameters if (flag := _flag(parameter))}
    flags["directory"] = flags.get("outdir", "directory")  # the name of the argument in Python

    @wraps(command)
    def call(**values: Any) -> None:
        try:
            for name, group in groups.items():
                values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
            command(**values)
        except (TypeError, ValueError) as error:
            raise name_options(error, flags) from error

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _flag(parameter: inspect.Parameter) -> str | None:
    """Return the first flag of an option, or None for an argument."""
    for info in getattr(parameter.annotation, "__metadata__", ()):
        if isinstance(info, OptionInfo):
            given = map(str, (info.default, *(info.param_decls or ())))  # typer keeps the first flag as the default
            flags = (text.split("/")[0] for text in given if text.startswith("--"))
            return next(flags, f"--{parameter.name.replace('_', '-')}")
    return None


def _helps(group: type) -> dict[str, str]:
    """Return the help text of every field, from the sections Args of the docstrings of the group and its bases."""
    sections = (inspect.cleandoc(base.__doc__ or "").partition("Args:\n")[2] for base in reversed(group.__mro__))
    texts = (pair for text in sections for pair in re.findall(r"(?ms)^    (\w+): (.*?)(?=^    \w+: |\Z)", text))
    return {name: f"{text[0].upper()}{' '.join(text.split())[1:]}" for name, text in texts}


def choice(*values: str) -> dict[str, Any]:
    """Return the arguments of `typer.Option` for an option with choices, which may be written in any case.

    The choices of the help page have spaces at which the lines can break.
    """

    def parse(text: str) -> str:
        value = text.strip().lower()
        value = SYNONYMS.get(value, value)
        if value not in values:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, values))}")
        return value

    return {"metavar": f"<{' | '.join(values)}>", "parser": parse}


def integer_or(word: str) -> dict[str, Any]:
    """Return the arguments of `typer.Option` for an option that is an integer or a word."""

    def parse(text: str) -> int | str:
        value = str(text).strip().lower()
        if value != word and not re.fullmatch(r"-?\d{1,20}", value):
            raise typer.BadParameter(f"{text!r} is not an integer or {word!r}")
        return value if value == word else int(value)

    return {"metavar": f"<integer | {word}>", "parser": parse}


def example(command: str) -> str:
    """Return the epilog of a help page with an example, which must fit in one line of a terminal with 80 columns."""
    return f"Example:\n\n{command}"


def utf8(text: str) -> str:
    """Return a name in an argument. In a locale without its characters, its bytes are taken as UTF-8.

    Raises:
        ValueError: If the bytes are not UTF-8.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"names must be UTF-8, got {text!r}") from None


def image_files(text: str | None) -> str | list[str] | None:
    """Return the file or files of latents or styles that the text names, or None if it gives seeds."""
    if text is None or not Path(text).suffix:
        return None
    return text if Path(text).exists() or "," not in text else split(text)


def images(name: str, text: str | None, generator: Generator, truncation: float) -> ImageSource:
    """Return the images of seeds, or of one or several files of latents or styles. The default is all seeds."""
    if (files := image_files(text)) is not None:
        return StoredLatents.load(files, generator)
    return SeedLatents(generator, SEEDS if text is None else seeds(name, text), truncation=truncation)


def shard(text: str) -> tuple[int, int]:
    """Parse the index of a shard and the number of shards: "2/8" is (1, 8)."""
    match = re.fullmatch(r"\s*(\d{1,20})\s*/\s*(\d{1,20})\s*", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"shard must look like 1/8 (the first of eight) to 8/8 (the last), got {text!r}")
    return int(match[1]) - 1, int(match[2])
