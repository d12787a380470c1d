# SPDX-License-Identifier: Apache-2.0
"""Inputs of the tab Edit that name a picture: a seed, or a row of a file of latents."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gradio as gr

from ..editing import StoredLatents
from ..generators import Generator
from .components import EXPECTED, sentence, show_error
from .controls import neighbours

RANDOM_SEEDS = 10_000  # random seeds have at most four digits, as in the names of files
SUFFIXES = [".npy", ".npz", ".pt", ".pth", ".pkl", ".safetensors"]
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # options of event handlers
NEWEST: dict[str, Any] = {**QUIET, "trigger_mode": "always_last"}  # of events of which only the last one counts


class NumberInput:
    """Number of a picture, with a random button and a slider of its neighbours.

    Args:
        label: Label of the number.
        value: Seed at the start.
        elem_id: Id of the number. The ids of the other elements begin with it.
    """

    def __init__(self, label: str, value: int, elem_id: str) -> None:
        self.value = value
        with gr.Row():
            self.number = gr.Number(
                value, label=label, min_width=120, elem_id=elem_id, elem_classes="card-number"
            )  # without limits: the handler refuses bad numbers in a sentence
            self.random = gr.Button("Random", size="sm", scale=0, min_width=76, elem_id=f"{elem_id}-random")
        first, last, _ = neighbours(value, None)
        self.slider = gr.Slider(
            first,
            last,
            value,
            step=1,
            label="Neighbours",
            buttons=[],
            elem_id=f"{elem_id}-slider",
            elem_classes="neighbours",
        )

    def connect(self, stored: gr.State) -> None:
        """Connect the events.

        The slider does not follow a number that it has set itself, because the user may have moved it further. If the
        user moves it while the server answers to a number, a second answer returns it to where the user has moved it.

        Args:
            stored: Latents of a file from which the pictures come, or None for seeds.
        """
        self.slider.input(None, self.slider, self.number, js="x => x", **QUIET)
        self.random.click(_random_number, stored, [self.number, self.slider], **QUIET)
        answer = [self.number, stored], self.slider
        self.number.input(_slider, *answer, **NEWEST).then(_slider, *answer, **NEWEST)


class LatentsInput:
    """Upload of a file of latents, from which pictures come instead of from seeds.

    Args:
        generator: Generator of the pictures.
        name: Name of the pictures, "target" or "reference".
        elem_id: Id of the upload button. The ids of the other elements begin with it.

    Attributes:
        state: The latents as `StoredLatents`, or None for seeds.
    """

    def __init__(self, generator: Generator, name: str, elem_id: str) -> None:
        self._generator, self._name = generator, name
        self.state = gr.State(None)
        with gr.Row():
            self.upload = gr.UploadButton(
                f"Latents of {name}s…", file_types=SUFFIXES, size="sm", min_width=120, elem_id=elem_id
            )
            self.seeds = gr.Button("Seeds", size="sm", scale=0, min_width=76, visible=False, elem_id=f"{elem_id}-seeds")
        self.message = gr.HTML(visible=False, padding=False, elem_id=f"{elem_id}-message", elem_classes="hint")

    def connect(self, numbers: list[NumberInput]) -> None:
        """Connect the events.

        A file that has been transferred and a click on "Seeds" are handled in the order of the user.

        Args:
            numbers: Inputs of the numbers of the pictures.
        """
        outputs = [
            self.state,
            self.seeds,
            self.message,
            *(one.number for one in numbers),
            *(one.slider for one in numbers),
        ]
        seeds = gr.State([one.value for one in numbers])  # the last ones, to which the button returns
        inputs = [self.upload, self.state, seeds, *(one.number for one in numbers)]
        queue: dict[str, Any] = {"concurrency_id": self.upload.elem_id, "concurrency_limit": 1, **QUIET}
        self.upload.upload(self._load, inputs, [seeds, *outputs], trigger_mode="multiple", **queue)
        self.seeds.click(lambda seeds: self._show(None, "", seeds), seeds, outputs, **queue)

    def _load(self, path: str, former: StoredLatents | None, seeds: list[int], *numbers: Any) -> list[Any]:
        seeds = [*numbers] if former is None else seeds
        try:
            stored = StoredLatents.load(path, self._generator)
            if not len(stored):
                raise ValueError(f"{path} must hold at least one latent, got none")
            stored.check_latents()
        except EXPECTED as error:
            text = sentence(error).replace(path, Path(path).name)
            message = gr.update(value=show_error(text), visible=True)
            return [seeds, gr.skip(), gr.skip(), message, *[gr.skip()] * (2 * len(seeds))]
        return [seeds, *self._show(stored, Path(path).name, seeds)]

    def _show(self, stored: StoredLatents | None, file: str, seeds: list[int]) -> list[Any]:
        """Return the updates of all outputs for the latents of a file, or for seeds."""
        name = self._name.capitalize()
        label = f"{name} seed" if stored is None else f"{name}: row of {file}, 0 to {len(stored) - 1}"
        values = [seed if stored is None else i % len(stored) for i, seed in enumerate(seeds)]
        numbers = [gr.update(value=value, label=label) for value in values]
        shown, no_message = gr.update(visible=stored is not None), gr.update(value="", visible=False)
        return [stored, shown, no_message, *numbers, *(_slider(v, stored) for v in values)]


class PartRow:
    """Inputs of one part: its name, its reference and its strength.

    Args:
        number: Number of the row. Only row 0 is visible at the start.
        parts: Names of the parts of the catalog.
        seed: Seed of the reference at the start.
    """

    def __init__(self, number: int, parts: list[str], seed: int) -> None:
        part = parts[0] if parts and number == 0 else None
        with gr.Column(visible=number == 0, elem_id=f"edit-row-{number}", elem_classes="card") as self.group:
            with gr.Row():
                self.part = gr.Dropdown(
                    parts,
                    value=part,
                    label="Part",
                    min_width=120,
                    elem_id=f"edit-part-{number}",
                    elem_classes="card-part",
                )
                self.remove = gr.Button(
                    "Remove", size="sm", scale=0, min_width=76, visible=False, elem_id=f"edit-remove-{number}"
                )
            self.reference = NumberInput("Reference seed", seed, f"edit-reference-{number}")
            self.strength = gr.Slider(
                0, 2, 1, step=0.05, label="Strength", buttons=[], elem_id=f"edit-strength-{number}"
            )

    @property
    def inputs(self) -> list[Any]:
        """The components whose values are the fields of `PartControls` after the part."""
        return [self.reference.number, self.strength]


def _random_number(stored: StoredLatents | None) -> tuple[int, Any]:
    number = random.randrange(RANDOM_SEEDS if stored is None else len(stored))
    return number, _slider(number, stored)


def _slider(number: Any, stored: StoredLatents | None) -> Any:
    first, last, value = neighbours(number, stored)
    is_alone = stored is not None and len(stored) == 1
    return gr.update(minimum=first, maximum=last, value=value, interactive=not is_alone)
