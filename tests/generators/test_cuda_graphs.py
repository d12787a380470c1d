# SPDX-License-Identifier: Apache-2.0
"""What CUDA graphs need from compiled synthesis, shown without a GPU by a backend that replays like them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import write
from originals import Original
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stylefast.generators import Generator, load
from stylefast.generators.convert import convert
from stylefast.generators.toy import toy


def converted(folder: Path, precision: Any = "float32") -> Generator:
    write(folder / "a.pt", Original("nvlabs", clamp=256.0))
    convert(folder / "a.pt", folder / "a.safetensors")
    return load(folder / "a.safetensors", precision=precision)


MAKERS: dict[str, Callable[[Path], Generator]] = {
    "toy:sg1": lambda folder: toy("sg1"),
    "toy:sg2": lambda folder: toy("sg2"),
    "toy:sg3": lambda folder: toy("sg3"),
    "stylegan2": converted,
    "stylegan2 float16": lambda folder: converted(folder, "float16"),
}


class Replaying:
    """Backend that reads inputs from their first addresses and writes every output to the same memory."""

    def __init__(self) -> None:
        self.sizes: list[list[Any]] = []  # of all inputs, once per compilation

    def __call__(self, graph: Any, inputs: list[Any]) -> Callable[..., Any]:
        self.sizes.append([size for x in inputs for size in (x.shape if isinstance(x, Tensor) else [x])])
        recorded: list[Tensor] = []
        outputs: list[Tensor] = []

        def replay(*arguments: Any) -> tuple[Tensor, ...]:
            recorded.extend(arguments if not recorded else ())
            versions = [x._version for x in recorded]
            results = graph.forward(*recorded)
            assert [x._version for x in recorded] == versions, "the graph writes to an input"
            outputs.extend(torch.empty_like(x) for x in (() if outputs else results))
            return tuple(output.copy_(x) for output, x in zip(outputs, results, strict=True))

        return replay


class Devices(TorchDispatchMode):
    """Records the devices of the results of all ops."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.found |= {x.device.type for x in tree_leaves(result) if isinstance(x, Tensor)}
        return result


@pytest.fixture(autouse=True)
def reset_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", MAKERS)
def test_replays_read_new_styles_from_fixed_addresses(name: str, tmp_path: Path):
    generator, backend = MAKERS[name](tmp_path), Replaying()
    w = generator.latents(range(5))
    styles = generator.styles(w)
    expected = [generator.synthesize(rows, w) for rows in (styles, styles * 0.9)]
    generator.compile(2, backend=backend, fullgraph=True)
    images = [generator.synthesize(rows, w) for rows in (styles, styles * 0.9)]  # three replays each
    for got, wanted in zip(images, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=2e-3 if "float16" in name else 1e-5)
    assert len(backend.sizes) == 1


@pytest.mark.parametrize("name", MAKERS)
def test_the_compiled_region_stays_on_its_device(name: str, tmp_path: Path):
    generator, devices = MAKERS[name](tmp_path), Devices()
    w = generator.latents(range(2)).to("meta")  # a copy from it to the host, or a wait for its values, raises
    generator.network.to("meta")
    generator.device = torch.device("meta")

    def backend(graph: Any, inputs: list[Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            devices.found |= {x.device.type for x in arguments}
            with devices:
                return graph.forward(*arguments)

        return run

    generator.compile(2, backend=backend, fullgraph=True)
    generator.synthesize(torch.empty(2, generator.style_width, device="meta"), w)
    assert devices.found == {"meta"}
