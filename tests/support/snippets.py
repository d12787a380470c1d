# SPDX-License-Identifier: Apache-2.0
"""Code blocks of Markdown pages, and small stand-ins for the networks and files that they mention."""

from __future__ import annotations

import copy
import pickle
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import write
from described import StyleGAN2GeneratorClean
from miniatures import miniature
from networks import shared
from originals import Original
from originals3 import Original3
from sklearn.cluster import KMeans

import stylefast
from stylefast import catalog, cli, editing, generators
from stylefast.cli import arguments
from stylefast.generators.convert import convert

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\S+)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
MAX_SEEDS = 6
# Parts of the toy network, which has no faces. Clusters 1 and 2 stay without a name here: a guide names them "eyes".
PARTS = {"eyes": [0], "nose": [3], "mouth": [4, 5], "skin": [6], "background": [7]}
CHECKPOINTS = {
    "ffhq.pkl": lambda: Original("nvlabs"),
    "e4e_ffhq_encode.pt": lambda: Original("rosinality"),
    "stylegan2_ffhq.pth": lambda: Original("genforce"),
    "stylegan3-r-ffhq.pkl": Original3,
}


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page without those of recipes, which tests/benchmarks/test_recipes.py runs."""
    text = re.sub("<!-- recipes: .*<!-- /recipes -->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    result = [Block(*match.groups()) for match in BLOCK.finditer(text)]
    n_fences = len(re.findall(r"^\s*(?:```|~~~)", text, re.MULTILINE))
    assert n_fences == 2 * len(result), f"{page} has a block without a language, or one that is indented"
    return result


def commands(text: str) -> list[tuple[str, str]]:
    """Return the commands of a `sh` block, or those of a `console` block with their outputs."""
    joined = re.sub(r"\\\n\s*", "", text)
    if "$ " not in joined:
        return [(line, "") for line in joined.splitlines() if line.split("#")[0].strip()]
    sessions = re.split(r"^\$ ", joined, flags=re.MULTILINE)[1:]
    return [(session.partition("\n")[0], session.partition("\n")[2]) for session in sessions]


def words(line: str) -> list[str]:
    """Split a command as a shell does; a comment and a pipe end it."""
    parts = shlex.split(line, comments=True)
    return parts[: parts.index("|")] if "|" in parts else parts


def use_toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make "random-face" a toy network, name clusters by number, and cap the numbers and sizes of drawn images."""
    load, seeds, seed_latents = generators.load, arguments.seeds, editing.SeedLatents
    build_catalog = catalog.Catalog.build

    def load_toy(network: Any = generators.RANDOM_FACE, **options: Any) -> Any:
        # A copy, because pages change the engine, and other tests share the network.
        return copy.deepcopy(shared("sg2")) if network == generators.RANDOM_FACE else load(network, **options)

    def fewer(name: str, text: str) -> Sequence[int]:
        return seeds(name, text)[:MAX_SEEDS]

    def build(*arguments: Any, contribution_images: int | None = None, **options: Any) -> Any:
        return build_catalog(*arguments, **options)

    monkeypatch.setattr(generators, "load", load_toy)
    monkeypatch.setattr(catalog.Catalog, "build", build)
    monkeypatch.setattr(arguments, "seeds", fewer)
    monkeypatch.setattr(cli.catalog, "seeds", fewer)
    monkeypatch.setattr(cli.catalog, "CELL", 64)
    monkeypatch.setattr(editing, "SeedLatents", lambda g, seeds, **options: seed_latents(g, seeds[:2], **options))
    for module in (catalog, cli.catalog):
        monkeypatch.setattr(module, "FFHQ_REGIONS", PARTS)


def names() -> dict[str, Any]:
    """Return the names that pages use without defining them."""
    return {"G_ema": miniature("rosinality"), "network": StyleGAN2GeneratorClean()}


def write_inputs(line: list[str]) -> None:
    """Write the input files of a command, unless an earlier command of the page writes them."""
    for name in (word for word in line if word in CHECKPOINTS):
        write(Path(name), CHECKPOINTS[name]())
    network = line[line.index("--network") + 1] if "--network" in line else "random-face"
    if "latents.pt" in line:
        write_latents(generators.load(network))
    if "old.pkl" in line:
        (width,) = {site.channels for site in generators.load(network).sites if site.size == (16, 16)}
        points = np.random.default_rng(0).standard_normal((50, width)).astype(np.float32)
        Path("old.pkl").write_bytes(pickle.dumps(KMeans(8, n_init=1, random_state=0).fit(points)))
    if "bad.csv" in line:
        Path("bad.csv").write_text(Path("pairs.csv").read_text() + "9999,1002,eyes,1\n")


def write_network(path: Path) -> None:
    """Write a converted network, and latents of it in files."""
    write(Path("ffhq.pkl"), Original("nvlabs"))
    convert("ffhq.pkl", path)
    write_latents(generators.load(path))


def write_latents(generator: stylefast.generators.Generator) -> None:
    """Write latents in the files of a projection and of an encoder."""
    w = generator.latents([1, 2, 3])
    for row, name in enumerate(("ann", "bob")):
        Path(name).mkdir(exist_ok=True)
        np.savez(Path(name) / "projected_w.npz", w=w[row : row + 1].numpy())
    torch.save(w, "latents.pt")


def replaced(test: str) -> Callable[[list[str]], None]:
    """Return a handler of commands that another test runs: it checks that the test and the named files exist."""

    def check(line: list[str]) -> None:
        assert (ROOT / test).exists()
        for word in line:
            if word.endswith((".py", ".sh")):
                assert (ROOT / word).is_file(), word

    return check
